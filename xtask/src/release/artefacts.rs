//! The task `release`: builds every artefact of the commit, twice where bytes must be equal, and lists them with checksums.

use std::path::{Path, PathBuf};

use super::target::{self, Target};
use super::{deb, epoch, in_worktree, licenses, python, sbom, versions};
use crate::context::Context;
use crate::log::ensure;
use crate::{Result, process};

const USAGE: &str = "usage: scripts/xtask release DIRECTORY [TARGET]...
The directory is created and must be empty. Without targets: all targets of a release that can be built here.";

/// Builds a release of the commit HEAD in a directory: `xtask release DIRECTORY [TARGET]...`.
///
/// # Errors
///
/// Fails if the repository has changes, if versions disagree, if a named target cannot be built, and if two builds of the static
/// program differ.
pub fn release(context: &mut Context, arguments: &[String]) -> Result<bool> {
    let Some((directory, targets)) = arguments.split_first() else {
        return Err(USAGE.into());
    };
    let output = std::env::current_dir()?.join(directory);
    let targets = select(context, targets)?;
    is_releasable(context)?;
    process::make_directory(&output)?;
    ensure(process::entries(&output).is_empty(), &format!("{} is not empty", output.display()))?;
    let seconds = epoch(context)?.to_string();
    context.set("SOURCE_DATE_EPOCH", seconds);

    let version = context.version()?;
    for target in &targets {
        let triple = target.triple;
        let program = twice(context, target)?;
        copy(&program, &output.join(format!("vfio-device-plugin-{version}-{triple}")))?;
        let notices = licenses::third_party(context, "vfio-device-plugin", &[], target, true)?;
        process::write(
            &output.join(format!("vfio-device-plugin-{version}-{triple}.THIRD-PARTY.txt")),
            notices,
        )?;
        let bill = sbom::of_program(context, target)?;
        process::write(&output.join(format!("vfio-device-plugin-{version}-{triple}.cdx.json")), bill)?;
        if target.is_glibc {
            deb::packages(context, target, &program, &output)?;
        }
        python::wheel(context, target, &output)?;
    }
    python::source_distribution(context, &output)?;
    copy(&core_crate(context)?, &output.join(format!("vfio-probe-{version}.crate")))?;
    let archive = output.join(format!("vfio-device-plugin-{version}.oci.tar"));
    let mut image = context.command("deploy/build-image");
    let report = process::output(image.arg(format!("vfio-device-plugin:{version}")).arg(&archive))?;
    let list = checksums(context, &output)?;
    process::print_line(format!("{report}\n{list}"));
    Ok(true)
}

/// Returns the named targets, or all that can be built here. Says which cannot.
fn select(context: &Context, names: &[String]) -> Result<Vec<Target>> {
    if names.is_empty() {
        let (targets, missing) = target::installed(context)?;
        for target in missing {
            eprintln!(
                "release: not built: {0}; Rust's standard library for it is missing (rustup target add {0})",
                target.triple
            );
        }
        return Ok(targets);
    }
    let named = |name: &String| {
        let target = target::named(name)?;
        target.need_std(context).map(|()| target)
    };
    names.iter().map(named).collect()
}

/// Fails if the commit is not what the artefacts would be called.
fn is_releasable(context: &Context) -> Result {
    let git = |words: &[&str]| process::output(context.command("git").args(words));
    let changes = git(&["status", "--porcelain"])?;
    ensure(changes.is_empty(), &format!("a release is built of a commit; commit or remove:\n{changes}"))?;
    versions::check(context)?;
    let version = context.version()?;
    let date = versions::release_date(context, &version)?;
    let tags = git(&["tag", "--points-at", "HEAD"])?;
    let tags: Vec<&str> = tags.lines().filter(|tag| tag.starts_with('v')).collect();
    ensure(
        tags.iter().all(|tag| tag.strip_prefix('v') == Some(&version)),
        &format!("the commit has the tags {tags:?}, and the version is {version}"),
    )?;
    ensure(
        tags.is_empty() || date != "unreleased",
        &format!("CHANGELOG.md says that {version} is unreleased, and the commit has its tag"),
    )
}

/// Builds the static program here and in a copy of the commit in another directory. Fails unless both have the same bytes.
fn twice(context: &Context, target: &Target) -> Result<PathBuf> {
    let first: PathBuf = process::output(context.command("deploy/build-static").arg(target.triple))?.into();
    let is_same = in_worktree(context, |sources| {
        let mut build = context.command(sources.join("deploy/build-static"));
        let second =
            process::output(build.arg(target.triple).current_dir(sources).env_remove("CARGO_TARGET_DIR"))?;
        Ok(std::fs::read(&first)? == std::fs::read(second)?)
    })?;
    let difference =
        format!("two builds of the static program for {} in two directories differ", target.triple);
    ensure(is_same, &difference).map(|()| first)
}

/// Packs the core as cargo publishes it, builds the packed crate, and returns it.
///
/// # Errors
///
/// Fails if cargo would refuse to publish it.
pub fn core_crate(context: &Context) -> Result<PathBuf> {
    let package = ["--quiet", "--allow-dirty", "--locked", "--package", "vfio-probe"];
    process::run(context.cargo(&["publish", "--dry-run"]).args(package))?;
    // Where publish leaves the crate is not documented.
    process::run(context.cargo(&["package", "--no-verify"]).args(package))?;
    Ok(context.target.join("package").join(format!("vfio-probe-{}.crate", context.version()?)))
}

fn copy(from: &Path, to: &Path) -> Result {
    std::fs::copy(from, to)
        .map(drop)
        .map_err(|error| format!("cannot copy {} to {}: {error}", from.display(), to.display()).into())
}

/// Writes SHA256SUMS, and returns a list of all files with their sizes and hashes.
fn checksums(context: &Context, directory: &Path) -> Result<String> {
    let names: Vec<String> =
        process::entries(directory).iter().map(|path| process::file_name(path)).collect();
    let sums = process::output(context.command("sha256sum").args(&names).current_dir(directory))?;
    process::write(&directory.join("SHA256SUMS"), format!("{sums}\n"))?;
    let mut lines = Vec::new();
    for line in sums.lines() {
        let (hash, name) = line.split_once("  ").ok_or("sha256sum prints another format")?;
        lines.push(format!("{:>10}  {hash}  {name}", directory.join(name).metadata()?.len()));
    }
    Ok(lines.join("\n"))
}
