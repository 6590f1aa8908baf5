//! What a release consists of: how each artefact is built, and the task that builds all of them.

pub mod artefacts;
pub mod deb;
pub mod licenses;
pub mod python;
pub mod sbom;
pub mod target;
pub mod versions;

use std::path::Path;

use crate::context::Context;
use crate::scratch::Scratch;
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

/// Calls a function with a copy of the commit HEAD in a directory with another name, which is removed afterwards.
///
/// # Errors
///
/// Fails if git cannot make the copy, and with the error of the function.
pub(crate) fn in_worktree<T>(context: &Context, work: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let scratch = Scratch::new()?;
    let sources = scratch.join("a-directory-with-another-name");
    process::run(context.command("git").args(["worktree", "add", "--quiet", "--detach"]).arg(&sources))?;
    let result = work(&sources);
    process::run(context.command("git").args(["worktree", "remove", "--force"]).arg(&sources))?;
    result
}

/// Prints THIRD-PARTY: the task `licenses PACKAGE TARGET`.
///
/// # Errors
///
/// Fails with the usage, and if a part has no license text.
pub fn print_licenses(context: &mut Context, arguments: &[String]) -> Result<bool> {
    let [package, triple] = arguments else {
        return Err("usage: scripts/xtask licenses PACKAGE TARGET".into());
    };
    let target = target::named(triple)?;
    process::print(&licenses::third_party(context, package, &[], &target, true)?);
    Ok(true)
}

/// Builds the Debian packages of the host's architecture: the task `deb DIRECTORY [TARGET [PROGRAM]]`.
///
/// # Errors
///
/// Fails with the usage, and if a package does not build.
pub fn build_packages(context: &mut Context, arguments: &[String]) -> Result<bool> {
    let (directory, target, program) = match arguments {
        [directory] => (directory, target::Target::host()?, None),
        [directory, triple] => (directory, target::named(triple)?, None),
        [directory, triple, program] => (directory, target::named(triple)?, Some(program)),
        _ => return Err("usage: scripts/xtask deb DIRECTORY [TARGET [PROGRAM]]".into()),
    };
    let here = std::env::current_dir()?;
    let program = match program {
        Some(program) => here.join(program),
        None => process::output(context.command("deploy/build-static").arg(target.triple))?.into(),
    };
    for package in deb::packages(context, &target, &program, &here.join(directory))? {
        process::print_line(package.display());
    }
    Ok(true)
}
