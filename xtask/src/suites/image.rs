//! Builds the image and checks its program.

use std::path::{Path, PathBuf};

use crate::context::Context;
use crate::log::{Log, ensure};
use crate::release::target::Target;
use crate::suite::Suite;
use crate::{Result, process};

/// The most bytes that the static program may have.
const LARGEST_PROGRAM: u64 = 6_000_000;
const IMAGE: &str = "vfio-device-plugin:test";

/// Runs the suite.
///
/// # Errors
///
/// Never: a fault is a failed test.
pub fn image(context: &mut Context, _: &[String]) -> Result<bool> {
    // Nothing runs in the image's build: chroot isolation and the driver vfs need no user namespaces and no overlayfs.
    context.set("BUILDAH_ISOLATION", "chroot");
    if context.get("STORAGE_DRIVER").is_none_or(|driver| driver.is_empty()) {
        context.set("STORAGE_DRIVER", "vfs");
    }
    let mut suite = Suite::new();
    suite.check("static binary", |log| is_small(context, log));
    suite.check("image", |log| log.run(context.command("deploy/build-image").arg(IMAGE)));
    suite.check("labels and licenses of the image", |log| has_labels_and_licenses(context, log));
    suite.check("the image's program runs alone", |log| runs_alone(context, log));
    suite.check("the image in the GPU operator's namespaces", |log| runs_in_gpu_operator(context, log));
    Ok(suite.end())
}

/// Builds the static program.
fn program(context: &Context, log: &mut Log) -> Result<PathBuf> {
    Ok(log.output(&mut context.command("deploy/build-static"))?.into())
}

fn is_small(context: &Context, log: &mut Log) -> Result {
    let size = program(context, log)?.metadata()?.len();
    log.say(&format!("static binary: {size} bytes"));
    ensure(size <= LARGEST_PROGRAM, &format!("the program may have {LARGEST_PROGRAM} bytes"))
}

/// The image says where it is from and what its program contains, and its index names the architectures.
fn has_labels_and_licenses(context: &Context, log: &mut Log) -> Result {
    let index = log.output(context.command("buildah").args(["manifest", "inspect", IMAGE]))?;
    let architecture = Target::host()?.architecture;
    ensure(
        index.contains(&format!("\"architecture\": \"{architecture}\"")),
        &format!("the index has no {architecture}"),
    )?;
    let container = log.output(context.command("buildah").args(["from", IMAGE]))?;
    let labels = log.output(context.command("buildah").args([
        "inspect",
        "--format",
        "{{.OCIv1.Config.Labels}}",
        &container,
    ]));
    let root = log.output(context.command("buildah").args(["mount", &container]));
    let third_party = root.and_then(|root| process::read(&Path::new(&root).join("licenses/THIRD-PARTY")));
    log.run(context.command("buildah").args(["rm", &container]))?;
    let labels = labels?;
    for name in ["source", "revision", "licenses", "version", "title", "description"] {
        let label = format!("org.opencontainers.image.{name}:");
        let value = labels.split_once(&label).map(|(_, rest)| rest);
        ensure(
            value.is_some_and(|value| !value.starts_with([' ', ']'])),
            &format!("the label {label} is missing or empty"),
        )?;
    }
    let third_party = third_party?;
    for part in ["tokio 1", "Rust's standard library", "GNU C Library: LGPL", "data of pci-ids"] {
        ensure(third_party.contains(part), &format!("THIRD-PARTY does not name {part}"))?;
    }
    Ok(())
}

/// Runs the image's program from an unpacked file system that has nothing else.
fn runs_alone(context: &Context, log: &mut Log) -> Result {
    with_unpacked(context, log, |log, root| {
        let version =
            log.output(context.command("chroot").args([root, "/vfio-device-plugin", "--version"]))?;
        ensure(version.starts_with("vfio-device-plugin "), "the program does not print its version")
    })
}

/// Runs the tests of the GPU operator's DaemonSet with the files of the image.
fn runs_in_gpu_operator(context: &Context, log: &mut Log) -> Result {
    with_unpacked(context, log, |log, root| {
        let mut tests = context.cargo(&["test", "--workspace", "--test", "gpu_operator"]);
        log.run(tests.env("VFIO_IMAGE_ROOT", root))
    })
}

/// Calls a function with the unpacked file system of the image.
fn with_unpacked(context: &Context, log: &mut Log, test: impl FnOnce(&mut Log, &str) -> Result) -> Result {
    let container = log.output(context.command("buildah").args(["from", IMAGE]))?;
    let tested =
        log.output(context.command("buildah").args(["mount", &container])).and_then(|root| test(log, &root));
    log.run(context.command("buildah").args(["rm", &container]))?;
    tested
}
