//! The node's kernel: Debian's image and modules, fakeid built against Debian's headers, and the initramfs.

use std::path::{Path, PathBuf};

use xtask::context::Context;
use xtask::process;
use xtask::vm::kernel::Kernel;
use xtask::vm::{busybox, initramfs};

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
    let key = Key::default().text(&version).text(EARLY.join(" ")).text(LEFT_OUT.join(" "));
    let key = key.directory(&sources)?.file(&init)?;
    let part = cache.part("kernel", &key, |new| {
        std::fs::copy(&kernel.image, new.join("vmlinuz"))?;
        make_initramfs(context, &kernel, &init, new)?;
        copy_modules(context, &kernel, &version, new)?;
        build_fakeid(context, &version, &sources, &new.join("fakeid.ko"))
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

/// Builds the module against Debian's headers, which are unpacked and not installed.
fn build_fakeid(context: &Context, version: &str, sources: &Path, module: &Path) -> Result {
    let work = xtask::scratch::Scratch::new()?;
    // "6.12.117+deb12-amd64" shares its headers with other flavours: "6.12.117+deb12-common".
    let base = version.strip_suffix("-amd64").ok_or_else(|| format!("{version} is no kernel for amd64"))?;
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
    let sources_of_headers = merged.join("usr/src");
    let headers = sources_of_headers.join(&own);
    // Without the kernel itself, the build leaves out type information, for which it would need pahole.
    let _ = std::fs::remove_file(headers.join("vmlinux"));
    let makefile = headers.join("Makefile");
    let text = process::read(&makefile)?.replace("/usr/src/", &format!("{}/", sources_of_headers.display()));
    process::write(&makefile, text)?;
    let build = work.join("fakeid");
    process::run(context.command("cp").arg("-r").arg(sources).arg(&build))?;
    let mut make = context.command("make");
    make.args(["-s", "-C"]).arg(&headers).arg(xtask::artifacts::assignment("M=", &build)).arg("modules");
    process::run(&mut make)?;
    process::run(context.command("strip").arg("--strip-debug").arg(build.join("fakeid.ko")))?;
    std::fs::copy(build.join("fakeid.ko"), module)?;
    Ok(())
}
