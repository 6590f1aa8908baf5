//! What a release consists of: how each artefact is built, and the task that builds all of them.

pub mod deb;
pub mod licenses;
pub mod target;
pub mod versions;

use crate::context::Context;
use crate::{Result, process};

/// Returns the time of all files in the artefacts, in seconds: `SOURCE_DATE_EPOCH`, otherwise that of the last commit. The same
/// sources then give the same packages.
///
/// # Errors
///
/// Fails if the variable is no number, and without it if this is no git repository.
pub fn epoch(context: &Context) -> Result<u64> {
    let text = match context.get("SOURCE_DATE_EPOCH").filter(|value| !value.is_empty()) {
        Some(value) => value.to_string_lossy().into_owned(),
        None => process::output(context.command("git").args(["log", "-1", "--format=%ct"]))?,
    };
    text.parse().map_err(|_| format!("SOURCE_DATE_EPOCH is not a number of seconds: {text}").into())
}
