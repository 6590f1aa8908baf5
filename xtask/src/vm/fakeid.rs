//! The module fakeid for Debian's kernel, built against Debian's headers, which are unpacked and not installed.

use std::path::{Path, PathBuf};

use super::kernel::Kernel;
use crate::artifacts::assignment;
use crate::context::Context;
use crate::packages::Need;
use crate::scratch::Scratch;
use crate::{Result, process};

const NAME: &str = "fakeid.ko";
/// The sources that the module was built from, beside it.
const SOURCES: [&str; 2] = ["fakeid.c", "Kbuild"];
/// The compiler of Debian's kernel.
const NEEDS: &[Need] =
    &[Need::Program("make", "make"), Need::Program("gcc-12", "gcc-12"), Need::Program("strip", "binutils")];

/// Returns the module in the directory of a kernel of Debian. It is built if it is missing or its sources have changed.
///
/// # Errors
///
/// Fails if the kernel is not Debian's for amd64, its headers cannot be downloaded, or the module does not build.
pub fn prepare(context: &Context, kernel: &Kernel) -> Result<PathBuf> {
    let module = kernel.directory.join(NAME);
    let sources = context.top.join("tests/vm/fakeid");
    if module.exists() && is_built_from(&sources, &kernel.directory)? {
        return Ok(module);
    }
    let version = kernel.version.as_deref().ok_or_else(|| format!("{} has no modules", kernel.name))?;
    context.need(NEEDS)?;
    build(context, version, &sources, &module)
        .map_err(|error| format!("cannot build fakeid for Linux {version}: {error}"))?;
    for name in SOURCES {
        std::fs::copy(sources.join(name), kernel.directory.join(name))?;
    }
    Ok(module)
}

fn is_built_from(sources: &Path, directory: &Path) -> Result<bool> {
    for name in SOURCES {
        if std::fs::read(directory.join(name)).ok() != Some(std::fs::read(sources.join(name))?) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn build(context: &Context, version: &str, sources: &Path, module: &Path) -> Result {
    let work = Scratch::new()?;
    // "6.12.117+deb12-amd64" shares its headers with other flavours: "6.12.117+deb12-common".
    let base = version.strip_suffix("-amd64").ok_or("it is not Debian's kernel for amd64")?;
    let own = format!("linux-headers-{version}");
    let packages = [own.clone(), format!("linux-headers-{base}-common"), format!("linux-kbuild-{base}")];
    let merged = work.join("merged");
    process::make_directory(&merged)?;
    for package in &packages {
        let directory = work.join(package);
        context.unpack_package(package, &directory)?;
        // The packages refer to each other by relative links.
        process::run(context.command("cp").arg("-a").arg(directory.join(".")).arg(&merged))?;
    }
    let headers = merged.join("usr/src").join(&own);
    // Without the kernel itself, the build leaves out type information, for which it would need pahole.
    let _ = std::fs::remove_file(headers.join("vmlinux"));
    let makefile = headers.join("Makefile");
    let place = format!("{}/", merged.join("usr/src").display());
    process::write(&makefile, process::read(&makefile)?.replace("/usr/src/", &place))?;
    let copy = work.join("fakeid");
    process::run(context.command("cp").arg("-r").arg(sources).arg(&copy))?;
    let mut make = context.command("make");
    process::run(make.args(["-s", "-C"]).arg(&headers).arg(assignment("M=", &copy)).arg("modules"))?;
    process::run(context.command("strip").arg("--strip-debug").arg(copy.join(NAME)))?;
    // Another run could copy the module at this moment: it appears in one step.
    let new = module.with_extension(format!("{}.new", std::process::id()));
    std::fs::copy(copy.join(NAME), &new)?;
    Ok(std::fs::rename(new, module)?)
}
