//! Makes, in a directory, what the users of a language get from their registry.

use std::path::{Path, PathBuf};

use super::Mount;
use crate::context::Context;
use crate::release::target::{Target, sysroot};
use crate::release::{artefacts, python as wheels};
use crate::{Result, process};

/// Where the Go module is in the repository, and its path.
const GO_DIRECTORY: &str = "go/vfioprobe";
const GO_MODULE: &str = "github.com/vfio-probe/vfio-probe/go/vfioprobe";

/// The crate as cargo packs it and the crates that it needs, as a directory that stands for crates.io.
pub(super) fn rust(context: &Context, published: &Path) -> Result {
    let archive = artefacts::core_crate(context)?;
    process::run(context.command("tar").arg("xzf").arg(archive).arg("-C").arg(published))?;
    let package = published.join(format!("vfio-probe-{}", context.version()?));
    // The versions that the lock file in the crate names.
    process::output(
        context
            .cargo(&["vendor", "--quiet", "--locked", "--versioned-dirs"])
            .arg(published.join("crates"))
            .current_dir(&package),
    )?;
    process::write(&package.join(".cargo-checksum.json"), "{\"files\":{}}")?;
    let crates = published.join("crates");
    std::fs::rename(&package, crates.join(process::file_name(&package)))?;
    process::write(
        &published.join("config.toml"),
        "[source.crates-io]\nreplace-with = \"published\"\n\n[source.published]\ndirectory = \"/test/published/crates\"\n",
    )
}

/// The files that `make install` writes, below their prefix.
pub(super) fn c(context: &Context, published: &Path) -> Result {
    process::run(context.command("make").args(["-s", "-C", "ffi", "CARGOFLAGS=--quiet --locked"]))?;
    let mut install = context.command("make");
    let destination = format!("DESTDIR={}", published.display());
    process::run(install.args(["-s", "-C", "ffi", "install", &destination]))
}

/// The module in the form of a module proxy, as a directory (https://go.dev/ref/mod#goproxy-protocol).
pub(super) fn go(context: &Context, published: &Path) -> Result {
    let version = format!("v{}", context.version()?);
    let versions = published.join(GO_MODULE).join("@v");
    process::make_directory(&versions)?;
    let info = format!("{{\"Version\":\"{version}\",\"Time\":\"2026-01-01T00:00:00Z\"}}");
    process::write(&versions.join(format!("{version}.info")), info)?;
    process::write(&versions.join("list"), format!("{version}\n"))?;
    let sources = context.top.join(GO_DIRECTORY);
    std::fs::copy(sources.join("go.mod"), versions.join(format!("{version}.mod")))?;
    // A release is made of a commit: files that are not in it are not in the module, and neither is a module inside it.
    let prefix = format!("--prefix={GO_MODULE}@{version}/");
    let mut archive = context.command("git");
    archive.current_dir(&sources).args(["archive", "--format=zip", &prefix, "-o"]);
    process::run(archive.arg(versions.join(format!("{version}.zip"))).args([
        "HEAD",
        ".",
        ":(exclude)examples/agent",
    ]))
}

/// The wheel for this host, in a directory that pip searches.
pub(super) fn python(context: &Context, published: &Path) -> Result {
    wheels::wheel(context, &Target::host()?, published).map(drop)
}

/// Rust as it is installed on this host.
pub(super) fn rust_toolchain(context: &Context) -> Result<Mount> {
    Ok(Mount { from: sysroot(context)?, to: "/toolchain" })
}

/// Go as it is installed on this host.
pub(super) fn go_toolchain(context: &Context) -> Result<Mount> {
    let root = process::output(context.command("go").args(["env", "GOROOT"]))?;
    Ok(Mount { from: PathBuf::from(root), to: "/toolchain" })
}
