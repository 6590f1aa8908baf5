//! The parts of the cluster: what is built once and kept in the user's cache.

pub mod cache;
pub mod disk;
pub mod go;
pub mod images;
pub mod kernel;
mod preload;
pub mod system;

use std::path::PathBuf;

use xtask::context::Context;
use xtask::packages::{C, Need, VM, is_root};

use crate::Result;
use crate::progress::say;
use crate::versions::Versions;
use cache::Cache;

/// What the parts and the cluster need on this host.
const NEEDS: &[Need] = &[
    Need::Program("mmdebstrap", "mmdebstrap"),
    Need::Program("mke2fs", "e2fsprogs"),
    Need::Program("qemu-img", "qemu-utils"),
    Need::Program("openssl", "openssl"),
    Need::Program("ssh", "openssh-client"),
    Need::Program("setpriv", "util-linux"),
    Need::Program("buildah", "buildah"),
];

/// Where the built parts are.
#[derive(Clone, Debug)]
pub struct Parts {
    /// The directory of the components of Kubernetes, each by its name.
    pub kubernetes: PathBuf,
    /// The program etcd.
    pub etcd: PathBuf,
    /// The node's kernel.
    pub kernel: PathBuf,
    /// The initramfs of the node.
    pub initramfs: PathBuf,
    /// The node's disk, with the images that do not change with the plugin, and the key for its ssh.
    pub disk: disk::Disk,
}

/// Installs what the parts and the cluster need.
fn need(context: &Context) -> Result {
    if !is_root() {
        return Err("the cluster needs root: mmdebstrap makes the node's system, and the API server gets a \
            mount namespace"
            .into());
    }
    [NEEDS, VM, C].iter().try_for_each(|needs| context.need(needs))
}

/// Installs what the parts and the cluster need, builds what is missing and returns all parts. Kubernetes can have another version
/// than the one that is always tested.
///
/// # Errors
///
/// Fails if this is not root, the version is not listed, something cannot be installed, or a part does not build.
pub fn build(context: &mut Context, kubernetes: Option<&str>) -> Result<Parts> {
    need(context)?;
    let cache = Cache::new(context)?;
    find(context, &cache, kubernetes)
}

/// Finds or builds all parts.
fn find(context: &mut Context, cache: &Cache, kubernetes: Option<&str>) -> Result<Parts> {
    let versions = Versions::read(&context.top)?;
    let kubernetes = go::kubernetes(context, cache, &versions.kubernetes(kubernetes)?)?;
    let etcd = go::etcd(context, cache, &versions)?;
    let containerd = go::containerd(context, cache, &versions)?;
    let tools = go::tools(context, cache)?;
    let system = system::build(context, cache, &versions)?;
    let kernel = kernel::build(context, cache)?;
    let images = images::build(context, cache, &tools)?;
    let parts = |disk: &disk::Disk| Parts {
        kubernetes: kubernetes.clone(),
        etcd: etcd.join("etcd"),
        kernel: kernel.image.clone(),
        initramfs: kernel.initramfs.clone(),
        disk: disk.clone(),
    };
    let contents = disk::Contents {
        system: &system,
        kubernetes: &kubernetes,
        containerd: &containerd,
        tools: &tools,
        modules: &kernel.modules,
        images: &images,
    };
    let disk = disk::build(context, cache, &contents, |disk| preload::run(context, &parts(disk), &images))?;
    Ok(parts(&disk))
}

/// Returns the parts, with a version of Kubernetes as `build` takes it, if all are in the cache.
///
/// # Errors
///
/// Fails if the files of a recipe cannot be read.
pub fn cached(context: &mut Context, kubernetes: Option<&str>) -> Result<Option<Parts>> {
    match find(context, &Cache::new(context)?.only_complete(), kubernetes) {
        Ok(parts) => Ok(Some(parts)),
        Err(error) if error.is::<cache::Missing>() => Ok(None),
        Err(error) => Err(error),
    }
}

/// Removes all parts.
///
/// # Errors
///
/// Fails if a part cannot be removed.
pub fn clean(context: &Context) -> Result {
    let cache = Cache::new(context)?;
    say(format!("removing {}", cache.directory().display()));
    Ok(std::fs::remove_dir_all(cache.directory())?)
}
