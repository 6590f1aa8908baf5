//! Builds the Python wheels and the source distribution.

use std::path::{Path, PathBuf};

use super::epoch;
use super::target::Target;
use crate::context::Context;
use crate::{Result, process};

/// Builds the wheel of a target in a directory, and returns its path.
///
/// # Errors
///
/// Fails if the target has no standard library here, and if the wheel does not build.
pub fn wheel(context: &Context, target: &Target, output: &Path) -> Result<PathBuf> {
    target.need_std(context)?;
    let mut build = context.wheel_build(target.triple)?;
    build.env("SOURCE_DATE_EPOCH", epoch(context)?.to_string());
    process::run(build.arg("--out").arg(output))?;
    let architecture = target.triple.split('-').next().unwrap_or_default();
    let libc = if target.is_glibc { "manylinux" } else { "musllinux" };
    let is_it = |path: &PathBuf| {
        let name = process::file_name(path);
        name.ends_with(&format!("{architecture}.whl")) && name.contains(libc)
    };
    let found = process::entries(output).into_iter().find(is_it);
    found.ok_or_else(|| format!("maturin has built no wheel for {}", target.triple).into())
}

/// Builds the source distribution in a directory, and returns its path.
///
/// # Errors
///
/// Fails if maturin fails.
pub fn source_distribution(context: &Context, output: &Path) -> Result<PathBuf> {
    let mut build = context.command(context.maturin()?.join("maturin"));
    build.current_dir(context.top.join("python")).env("SOURCE_DATE_EPOCH", epoch(context)?.to_string());
    process::run(build.args(["sdist", "--out"]).arg(output))?;
    Ok(output.join(format!("vfio_probe-{}.tar.gz", context.version()?)))
}
