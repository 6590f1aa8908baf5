//! The kernel that the VM boots.

use std::path::{Path, PathBuf};

use super::{newest, say};
use crate::context::Context;
use crate::log::ensure;
use crate::{Result, process};

/// A kernel's image and modules.
#[derive(Debug)]
pub struct Kernel {
    /// What is printed about it.
    pub name: String,
    /// The directory of its files.
    pub directory: PathBuf,
    /// The bootable image.
    pub image: PathBuf,
    /// Whether it is a package of Debian.
    pub is_debian: bool,
    /// The version, if there are modules in DIRECTORY/lib/modules.
    pub version: Option<String>,
}

impl Kernel {
    /// Finds the kernel of a directory, otherwise Debian's, which is downloaded once into CACHE/kernel.
    ///
    /// # Errors
    ///
    /// Fails if the directory has no kernel, or Debian's cannot be downloaded.
    pub fn prepare(context: &Context, cache: &Path, directory: Option<PathBuf>) -> Result<Self> {
        let mut kernel = match directory {
            Some(directory) => Self {
                name: directory.display().to_string(),
                image: directory.join("vmlinuz"),
                directory,
                is_debian: false,
                version: None,
            },
            None => Self::of_debian(context, &cache.join("kernel"))?,
        };
        ensure(kernel.image.is_file(), &format!("no vmlinuz in {}", kernel.directory.display()))?;
        let modules = kernel.directory.join("lib/modules");
        if let Some(path) = process::entries(&modules).first() {
            let version = process::file_name(path);
            if !path.join("modules.dep").exists() {
                process::run(context.command("depmod").arg("-b").arg(&kernel.directory).arg(&version))?;
            }
            kernel.version = Some(version);
        }
        Ok(kernel)
    }

    fn of_debian(context: &Context, cache: &Path) -> Result<Self> {
        let package = choose_package(context, cache)?;
        let directory = cache.join(&package);
        process::make_directory(cache)?;
        context.unpack_package(&package, &directory)?;
        let boot = newest(process::entries(&directory.join("boot")), "vmlinuz-");
        let image = boot.ok_or_else(|| format!("no boot/vmlinuz-* in {}", directory.display()))?;
        Ok(Self { name: package, directory, image, is_debian: true, version: None })
    }
}

/// Returns a Debian kernel: 6.12 (bookworm-backports or bookworm's own), else 6.1, else a cached one.
fn choose_package(context: &Context, cache: &Path) -> Result<String> {
    const NEW: &str = r"^linux-image-6\.12\.[0-9.]+\+deb12-amd64(-unsigned)?$";
    const OLD: &str = r"^linux-image-6\.1\.0-[0-9]+-amd64(-unsigned)?$";
    if context.find("apt-cache").is_some() {
        let mut package = context.newest_package(NEW);
        if package.is_none() {
            context.update_apt();
            package = context.newest_package(NEW);
        }
        if package.is_none() {
            package = context.newest_package(OLD);
            if package.is_some() {
                say("apt offers no 6.12 kernel (is bookworm-backports in its sources?); falling back to 6.1");
            }
        }
        if let Some(package) = package {
            return Ok(package);
        }
    }
    let cached = newest(process::entries(cache), "linux-image-").map(|path| process::file_name(&path));
    let advice =
        "apt knows no Debian kernel. Run 'apt-get update' as root, or give one with VFIO_PROBE_VM_KERNEL=DIR";
    Ok(cached.ok_or(advice)?)
}
