//! Checks the files of a release that are not Debian packages: checksums, the static program, the wheel, the image's index and the
//! bill of materials.

use std::path::{Path, PathBuf};

use crate::context::Context;
use crate::log::{Log, ensure};
use crate::release::target::TARGETS;
use crate::suite::Suite;
use crate::{Result, process};

/// Adds the checks of a directory that the task `release` has filled. `work` is a directory for temporary files.
pub(super) fn check(context: &Context, suite: &mut Suite, directory: &Path, work: &Path) {
    suite.check("SHA256SUMS has each file of the release", |log| has_checksums(context, log, directory));
    suite.check("static program of the release", |log| {
        let program = file(directory, &format!("-{}-unknown-linux-gnu", std::env::consts::ARCH))?;
        prints_version(log, context, &program)
    });
    suite.check("wheel of the release in a clean environment", |log| {
        let wheel = file(directory, &format!("manylinux_2_17_{}.whl", std::env::consts::ARCH))?;
        let venv = work.join("wheel");
        log.run(context.command("python3").args(["-m", "venv"]).arg(&venv))?;
        let mut pip = context.command(venv.join("bin/pip"));
        log.run(pip.args(["install", "--quiet", "--no-index"]).arg(&wheel))?;
        prints_version(log, context, &venv.join("bin/vfio-probe"))
    });
    suite.check("the image's index has each architecture of the release", |log| {
        has_architectures(context, log, directory)
    });
    suite.check("licenses and bill of materials beside each program", |_| has_companions(directory));
}

/// Returns the one file of a directory whose name has this ending.
pub(super) fn file(directory: &Path, ending: &str) -> Result<PathBuf> {
    let mut found = process::entries(directory);
    found.retain(|path| process::file_name(path).ends_with(ending));
    match found.as_slice() {
        [file] => Ok(file.clone()),
        others => {
            Err(format!("{} has {} files that end in {ending}", directory.display(), others.len()).into())
        }
    }
}

fn has_checksums(context: &Context, log: &mut Log, directory: &Path) -> Result {
    let mut sum = context.command("sha256sum");
    log.run(sum.current_dir(directory).args(["--check", "--strict", "--quiet", "SHA256SUMS"]))?;
    let listed = process::read(&directory.join("SHA256SUMS"))?;
    for path in process::entries(directory) {
        let name = process::file_name(&path);
        let is_listed =
            listed.lines().any(|line| line.split_once("  ").is_some_and(|(_, file)| file == name));
        ensure(is_listed || name == "SHA256SUMS", &format!("SHA256SUMS does not have {name}"))?;
    }
    Ok(())
}

fn prints_version(log: &mut Log, context: &Context, program: &Path) -> Result {
    let text = log.output(context.command(program).arg("--version"))?;
    let version = context.version()?;
    ensure(
        text.split_whitespace().any(|word| word == version),
        &format!("{} does not print {version}", program.display()),
    )
}

/// The archive's index.json names one blob, the index of the images.
fn has_architectures(context: &Context, log: &mut Log, directory: &Path) -> Result {
    let archive = file(directory, ".oci.tar")?;
    let mut member = |name: &str| log.output(context.command("tar").arg("-xOf").arg(&archive).arg(name));
    let outer = member("index.json")?;
    let digest = outer.split_once("\"sha256:").and_then(|(_, rest)| rest.split_once('"'));
    let (digest, _) = digest.ok_or("index.json names no blob")?;
    let index = member(&format!("blobs/sha256/{digest}"))?.replace(' ', "");
    for target in TARGETS.iter().filter(|target| target.is_glibc) {
        let released = file(directory, &format!("-{}", target.triple)).is_ok();
        let has = index.contains(&format!("\"architecture\":\"{}\"", target.architecture));
        ensure(
            has == released,
            &format!("{}: in the index {has}, program in the release {released}", target.architecture),
        )?;
    }
    Ok(())
}

fn has_companions(directory: &Path) -> Result {
    let mut programs = 0;
    for target in TARGETS {
        let Ok(program) = file(directory, &format!("-{}", target.triple)) else { continue };
        programs += 1;
        let beside = |ending: &str| process::read(&directory.join(process::file_name(&program) + ending));
        let licenses = beside(".THIRD-PARTY.txt")?;
        let bill = beside(".cdx.json")?;
        for part in ["tokio", "tonic", "rustix"] {
            ensure(licenses.contains(&format!("\n{part} ")), &format!("THIRD-PARTY does not name {part}"))?;
            ensure(bill.contains(&format!("pkg:cargo/{part}@")), &format!("the bill does not name {part}"))?;
        }
        ensure(bill.contains("\"name\": \"rust-std\""), "the bill does not name Rust's standard library")?;
        for macros in ["syn", "schemars"] {
            ensure(
                !bill.contains(&format!("pkg:cargo/{macros}@")),
                &format!("the bill names {macros}, which is not linked"),
            )?;
        }
        ensure(!bill.contains("/tmp/"), "the bill names a temporary directory of the build")?;
    }
    ensure(programs > 0, "there is no program")
}
