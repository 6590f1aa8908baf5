//! The node's disk: the system with Kubernetes, containerd and the files of tests/cluster/node, and the images in containerd.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use xtask::context::Context;
use xtask::process;
use xtask::scratch::Scratch;
use xtask::vm::initramfs::put_program;

use super::cache::{Cache, Key};
use crate::Result;

/// The disk's size. The file is sparse.
const SIZE: &str = "6G";

/// The disk and how to enter the node.
#[derive(Clone, Debug)]
pub struct Disk {
    /// The raw image. A run writes to an overlay.
    pub image: PathBuf,
    /// The private key for the node's SSH server.
    pub key: PathBuf,
}

/// The directories of the parts that the disk contains.
#[derive(Clone, Copy, Debug)]
pub struct Contents<'a> {
    /// The Debian system.
    pub system: &'a Path,
    /// The components of Kubernetes.
    pub kubernetes: &'a Path,
    /// containerd, its shim and ctr.
    pub containerd: &'a Path,
    /// The tests' own programs.
    pub tools: &'a Path,
    /// The kernel's modules and fakeid.
    pub modules: &'a Path,
    /// The archives of the images.
    pub images: &'a Path,
}

/// Where a file of a part is on the node: part, file, directory of the node.
type Placed<'a> = (&'a Path, &'a str, &'a str);

impl Contents<'_> {
    fn parts(&self) -> [&Path; 6] {
        [self.system, self.kubernetes, self.containerd, self.tools, self.modules, self.images]
    }

    fn programs(&self) -> [Placed<'_>; 8] {
        [
            (self.kubernetes, "kubernetes", "usr/local/bin"),
            (self.containerd, "containerd", "usr/local/bin"),
            (self.containerd, "containerd-shim-runc-v2", "usr/local/bin"),
            (self.containerd, "ctr", "usr/local/bin"),
            (self.tools, "sources", "usr/local/bin"),
            (self.tools, "holder", "usr/local/bin"),
            (self.tools, "strike", "usr/local/bin"),
            (self.modules, "fakeid.ko", "usr/local/lib"),
        ]
    }
}

/// Makes the disk. A function then boots it, to import the images.
///
/// # Errors
///
/// Fails if a file cannot be copied, mke2fs fails, or the function fails.
pub fn build(
    context: &Context,
    cache: &Cache,
    contents: &Contents<'_>,
    import: impl FnOnce(&Disk) -> Result,
) -> Result<Disk> {
    let node = context.top.join("tests/cluster/node");
    // The names of the parts' directories contain their keys.
    let key = contents.parts().iter().fold(Key::default(), |key, part| key.text(process::file_name(part)));
    let key = key.recipe(context, "disk.rs")?.recipe(context, "preload.rs")?.directory(&node)?;
    let part = cache.part("disk", &key, |new| {
        let work = Scratch::new()?;
        let root = work.join("root");
        process::run(context.command("cp").arg("-a").arg(contents.system.join("root")).arg(&root))?;
        for (part, name, directory) in contents.programs() {
            std::fs::copy(part.join(name), root.join(directory).join(name))?;
        }
        for name in ["kubelet", "kubectl"] {
            symlink("kubernetes", root.join("usr/local/bin").join(name))?;
        }
        process::run(
            context
                .command("cp")
                .arg("-a")
                .arg(contents.modules.join("lib/modules"))
                .arg(root.join("usr/lib")),
        )?;
        put_files(&node, &root)?;
        let key = new.join("key");
        let mut generate = context.command("ssh-keygen");
        process::run(generate.args(["-q", "-t", "ed25519", "-N", "", "-C", "cluster", "-f"]).arg(&key))?;
        process::make_directory(&root.join("root/.ssh"))?;
        std::fs::copy(new.join("key.pub"), root.join("root/.ssh/authorized_keys"))?;
        let image = new.join("disk");
        let mut make = context.command("mke2fs");
        make.args(["-q", "-t", "ext4", "-E", "lazy_itable_init=1,nodiscard", "-d"]);
        process::run(make.arg(&root).arg(&image).arg(SIZE))?;
        import(&Disk { image, key })
    })?;
    Ok(Disk { image: part.join("disk"), key: part.join("key") })
}

/// Puts the files of tests/cluster/node in their places.
fn put_files(node: &Path, root: &Path) -> Result {
    put_program(&root.join("usr/local/sbin/node-init"), &std::fs::read(node.join("node-init"))?)?;
    put_program(&root.join("usr/local/bin/service"), &std::fs::read(node.join("service"))?)?;
    for (file, place) in [
        ("containerd.toml", "etc/containerd/config.toml"),
        ("cni.conflist", "etc/cni/net.d/10-pods.conflist"),
    ] {
        let place = root.join(place);
        process::make_directory(place.parent().unwrap_or(root))?;
        std::fs::copy(node.join(file), place)?;
    }
    process::make_directory(&root.join("etc/kubernetes/manifests"))?;
    // Pods get this file. Nothing here looks up names.
    for (file, text) in [
        ("etc/resolv.conf", "nameserver 127.0.0.1\n"),
        ("etc/hosts", "127.0.0.1 localhost\n10.0.2.15 node1\n"),
    ] {
        let _ = std::fs::remove_file(root.join(file));
        process::write(&root.join(file), text)?;
    }
    Ok(())
}
