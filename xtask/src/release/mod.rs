//! What a release consists of: how each artefact is built, and the task that builds all of them.

pub mod deb;
pub mod licenses;
pub mod target;
pub mod versions;

use std::ffi::OsString;

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

/// Returns flags of rustc, as `CARGO_ENCODED_RUSTFLAGS` has them, that keep the directories of this host out of libraries.
#[must_use]
pub fn remap(context: &Context) -> OsString {
    let home = context.get("HOME").unwrap_or_default();
    let cargo = context.get("CARGO_HOME").filter(|value| !value.is_empty());
    let cargo = cargo.map_or_else(|| std::path::Path::new(&home).join(".cargo"), Into::into);
    let mut flags = OsString::new();
    // rustc uses the last prefix that fits.
    for (from, to) in [(&cargo, "/cargo"), (&context.top, "/vfio-probe"), (&context.target, "/vfio-probe/target")]
    {
        if !flags.is_empty() {
            flags.push("\u{1f}");
        }
        flags.push("--remap-path-prefix=");
        flags.push(from);
        flags.push("=");
        flags.push(to);
    }
    flags
}
