//! The node's kernel: Debian's image and modules, fakeid built against Debian's headers, and the initramfs.

use std::path::{Path, PathBuf};

use xtask::context::Context;
use xtask::process;
use xtask::vm::kernel::Kernel;
use xtask::vm::{busybox, fakeid, initramfs};

use super::cache::{Cache, Key};
use crate::Result;

/// Modules that the initramfs loads: the disk and its file system.
const EARLY: [&str; 3] = ["virtio_pci", "virtio_blk", "ext4"];
/// Drivers that the node has no device for. They are half of the modules' size.
const LEFT_OUT: [&str; 9] = [
    "sound",
    "drivers/gpu",
    "drivers/media",
    "drivers/scsi",
    "drivers/infiniband",
    "drivers/iio",
    "drivers/usb",
    "drivers/net/ethernet",
    "drivers/net/wireless",
];

/// The files of the kernel.
#[derive(Clone, Debug)]
pub struct NodeKernel {
    /// The bootable image.
    pub image: PathBuf,
    /// The initramfs.
    pub initramfs: PathBuf,
    /// A directory with lib/modules and fakeid.ko.
    pub modules: PathBuf,
}

/// Builds the kernel's files.
///
/// # Errors
///
/// Fails if a package cannot be downloaded or fakeid does not build.
pub fn build(context: &Context, cache: &Cache) -> Result<NodeKernel> {
    let downloads = context.cache.join("vm");
    let kernel = Kernel::prepare(context, &downloads, None)?;
    let version = kernel.version.clone().ok_or_else(|| format!("{} has no modules", kernel.name))?;
    let sources = context.top.join("tests/vm/fakeid");
    let init = context.top.join("tests/cluster/node/initramfs");
    let key = Key::default().recipe(context, "kernel.rs")?.text(&version);
    let key = key.directory(&sources)?.file(&init)?;
    let part = cache.part("kernel", &key, |new| {
        std::fs::copy(&kernel.image, new.join("vmlinuz"))?;
        make_initramfs(context, &kernel, &init, new)?;
        copy_modules(context, &kernel, &version, new)?;
        std::fs::copy(fakeid::prepare(context, &kernel)?, new.join("fakeid.ko"))?;
        Ok(())
    })?;
    Ok(NodeKernel { image: part.join("vmlinuz"), initramfs: part.join("initramfs"), modules: part })
}

fn make_initramfs(context: &Context, kernel: &Kernel, init: &Path, new: &Path) -> Result {
    let root = new.join("early");
    for directory in ["bin", "dev", "proc", "sys", "root", "modules"] {
        process::make_directory(&root.join(directory))?;
    }
    std::fs::copy(busybox(context, &context.cache.join("vm"))?, root.join("bin/busybox"))?;
    initramfs::put_program(&root.join("init"), &std::fs::read(init)?)?;
    initramfs::put_modules(context, kernel, &EARLY, &root.join("modules"))?;
    initramfs::pack(context, &root, &new.join("initramfs"))?;
    Ok(std::fs::remove_dir_all(root)?)
}

fn copy_modules(context: &Context, kernel: &Kernel, version: &str, new: &Path) -> Result {
    let modules = new.join("lib/modules");
    process::make_directory(&modules)?;
    process::run(
        context.command("cp").arg("-a").arg(kernel.directory.join("lib/modules").join(version)).arg(&modules),
    )?;
    for directory in LEFT_OUT {
        let _ = std::fs::remove_dir_all(modules.join(version).join("kernel").join(directory));
    }
    process::run(context.command("depmod").arg("-b").arg(new).arg(version))
}
