//! The parts that are programs in Go. The modules in tests/cluster/parts name their versions.

use std::path::{Path, PathBuf};
use std::process::Command;

use xtask::context::Context;
use xtask::process;

use super::cache::{Cache, Key};
use crate::Result;
use crate::versions::{Kubernetes, Versions};

/// The components of Kubernetes, which are one program with several names.
const COMPONENTS: [&str; 5] =
    ["kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kubectl"];
/// Without functions that are inlined: tests/kubelet has compiled much of Kubernetes with these flags, and the compiler takes a fifth
/// less.
const KUBERNETES_FLAGS: &str = "-mod=readonly -trimpath -gcflags=all=-l";
const FLAGS: &str = "-mod=readonly -trimpath";
const LINK: &str = "-ldflags=-s -w";
/// The parts of containerd that need C libraries or that no test uses are left out.
const CONTAINERD_TAGS: &str = "no_btrfs no_zfs no_devmapper urfave_cli_no_docs osusergo netgo static_build";
const CONTAINERD: &str = "github.com/containerd/containerd/v2/cmd";

/// Builds the components of a version of Kubernetes and returns the directory of their programs.
///
/// # Errors
///
/// Fails if they do not build.
pub fn kubernetes(context: &mut Context, cache: &Cache, version: &Kubernetes) -> Result<PathBuf> {
    let Kubernetes { version, module } = version;
    // `kubectl version` and the node's status show it (k8s.io/component-base/version).
    let base = "k8s.io/component-base/version";
    let minor = version.split('.').nth(1).unwrap_or_default();
    let link = format!(
        "{LINK} -X {base}.gitVersion=v{version} -X {base}.gitMajor=1 -X {base}.gitMinor={minor} -X k8s.io/client-go/pkg/version.gitVersion=v{version}"
    );
    let sources = context.top.join("tests/cluster/parts/kubernetes");
    let mut key = [version.as_str(), KUBERNETES_FLAGS, &link].iter().fold(Key::default(), Key::text);
    // Not the module files of other versions.
    for file in [format!("{module}.mod"), format!("{module}.sum"), "main.go".into()] {
        key = key.file(&sources.join(file))?;
    }
    build(context, cache, "kubernetes", &key, |go, new| {
        go.env("GOFLAGS", KUBERNETES_FLAGS).args(["build", &format!("-modfile={module}.mod"), &link, "-o"]);
        process::run(go.arg(new.join("kubernetes")).arg("."))?;
        for name in COMPONENTS {
            std::os::unix::fs::symlink("kubernetes", new.join(name))?;
        }
        Ok(())
    })
}

/// Builds etcd and returns its directory.
///
/// # Errors
///
/// Fails if it does not build.
pub fn etcd(context: &mut Context, cache: &Cache, versions: &Versions) -> Result<PathBuf> {
    module(context, cache, "etcd", &[versions.of("etcd")?, FLAGS, LINK], |go, new| {
        go.args(["build", LINK, "-o"]).arg(new.join("etcd")).arg("go.etcd.io/etcd/server/v3");
        process::run(go)
    })
}

/// Builds containerd, its shim and its client, and returns their directory.
///
/// # Errors
///
/// Fails if they do not build.
pub fn containerd(context: &mut Context, cache: &Cache, versions: &Versions) -> Result<PathBuf> {
    let version = versions.of("containerd")?;
    let link = format!("{LINK} -X github.com/containerd/containerd/v2/version.Version=v{version}");
    module(context, cache, "containerd", &[version, FLAGS, &link, CONTAINERD_TAGS], |go, new| {
        go.args(["build", &link, "-tags", CONTAINERD_TAGS, "-o"]).arg(format!("{}/", new.display()));
        go.args(["containerd", "containerd-shim-runc-v2", "ctr"].map(|name| format!("{CONTAINERD}/{name}")));
        process::run(go)
    })
}

/// Builds the tests' own programs, `holder` and `sources`, and returns their directory.
///
/// # Errors
///
/// Fails if it does not build.
pub fn tools(context: &mut Context, cache: &Cache) -> Result<PathBuf> {
    module(context, cache, "tools", &[FLAGS, LINK], |go, new| {
        go.args(["build", LINK, "-o"]).arg(format!("{}/", new.display())).arg("./...");
        process::run(go)
    })
}

/// Builds a module of tests/cluster/parts by a function, which receives Go and the directory for the programs.
fn module(
    context: &mut Context,
    cache: &Cache,
    name: &str,
    words: &[&str],
    run: impl FnOnce(&mut Command, &Path) -> Result,
) -> Result<PathBuf> {
    let sources = context.top.join("tests/cluster/parts").join(name);
    let key = words.iter().fold(Key::default(), Key::text).directory(&sources)?;
    build(context, cache, name, &key, run)
}

/// As `module`, with a key of the caller's.
fn build(
    context: &mut Context,
    cache: &Cache,
    name: &str,
    key: &Key,
    run: impl FnOnce(&mut Command, &Path) -> Result,
) -> Result<PathBuf> {
    let sources = context.top.join("tests/cluster/parts").join(name);
    cache.part(name, key, |new| {
        context.need_go()?;
        let mut go = context.command("go");
        go.current_dir(&sources).env("CGO_ENABLED", "0").env("GOFLAGS", FLAGS);
        run(&mut go, new)
    })
}
