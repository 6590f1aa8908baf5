//! A clean Debian in a directory, in which a test installs packages as a user would.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::context::Context;
use crate::packages::Need;
use crate::scratch::Scratch;
use crate::{Result, process};

const SUITE: &str = "bookworm";
/// What the tests need beyond the smallest system: what a user of the C library has, and systemd to check the unit.
const INCLUDE: &str = "gcc,libc6-dev,pkg-config,systemd";
const NEEDS: &[Need] = &[Need::Program("debootstrap", "debootstrap"), Need::Program("unshare", "util-linux")];

/// A directory of this host that appears inside, read-only.
#[derive(Clone, Debug)]
pub(crate) struct Mount {
    pub(crate) from: PathBuf,
    pub(crate) to: &'static str,
}

/// A copy of a minimal system, removed when it is dropped.
pub(crate) struct Chroot {
    _work: Scratch,
    root: PathBuf,
}

impl Chroot {
    /// Copies the system with a C compiler and systemd.
    pub(crate) fn new(context: &Context) -> Result<Self> {
        Self::with(context, SUITE, INCLUDE)
    }

    /// Copies the system with this name and these packages in the user's cache, which debootstrap makes once.
    pub(crate) fn with(context: &Context, name: &str, packages: &str) -> Result<Self> {
        context.need(NEEDS)?;
        let cached = context.cache.join("chroot").join(name);
        let complete = cached.with_extension("complete");
        if !process::read(&complete).is_ok_and(|text| text == packages) {
            let _ = std::fs::remove_dir_all(&cached);
            process::make_directory(&cached)?;
            let include = format!("--include={packages}");
            let mut debootstrap = context.command("debootstrap");
            process::run(debootstrap.args(["--variant=minbase", &include, SUITE]).arg(&cached))
                .map_err(|error| format!("cannot make a Debian in {}: {error}", cached.display()))?;
            // Downloads are a quarter of the directory, and every test copies it.
            for downloads in ["var/cache/apt/archives", "var/lib/apt/lists"] {
                let _ = std::fs::remove_dir_all(cached.join(downloads));
                process::make_directory(&cached.join(downloads).join("partial"))?;
            }
            process::write(&complete, packages)?;
        }
        let work = Scratch::new()?;
        let root = work.join("root");
        process::run(context.command("cp").args(["-a", "--reflink=auto"]).arg(&cached).arg(&root))?;
        Ok(Self { _work: work, root })
    }

    /// Returns the path of a file inside, from outside.
    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.root.join(file.trim_start_matches('/'))
    }

    /// Copies files into the directory /test of the system.
    pub(crate) fn copy(&self, files: &[PathBuf]) -> Result {
        process::make_directory(&self.path("test"))?;
        for file in files {
            std::fs::copy(file, self.path("test").join(process::file_name(file)))?;
        }
        Ok(())
    }

    /// Returns a command that runs a script of sh inside, in /test, without the environment of this host. `node` is a directory
    /// to appear as /node; /proc and /dev are the host's. The mounts end with the command.
    pub(crate) fn script(&self, context: &Context, node: Option<&Path>, script: &str) -> Command {
        let mounts = "set -e; root=$1; script=$2; node=$3
            mount --rbind /proc \"$root/proc\"
            mount --rbind /dev \"$root/dev\"
            if [ -n \"$node\" ]; then mkdir -p \"$root/node\"; mount --rbind \"$node\" \"$root/node\"; fi
            exec env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
                chroot \"$root\" sh -ec \"cd /test; $script\"";
        let mut command = context.command("unshare");
        command.args(["--mount", "sh", "-c", mounts, "sh"]).arg(&self.root).arg(script);
        command.arg(node.unwrap_or(Path::new("")));
        command
    }

    /// As [`Chroot::script`], without a network and with directories of this host. Only what is inside can be used.
    pub(crate) fn isolated(&self, context: &Context, mounts: &[Mount], script: &str) -> Command {
        let prepare = "set -e; root=$1; script=$2; shift 2
            mount --rbind /proc \"$root/proc\"
            mount --rbind /dev \"$root/dev\"
            while [ $# -gt 0 ]; do
                mkdir -p \"$root$2\"; mount --bind -o ro \"$1\" \"$root$2\"; shift 2
            done
            exec env -i PATH=/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin HOME=/root LC_ALL=C.UTF-8 \
                chroot \"$root\" sh -ec \"cd /test; $script\"";
        let mut command = context.command("unshare");
        command.args(["--mount", "--net", "sh", "-c", prepare, "sh"]).arg(&self.root).arg(script);
        for mount in mounts {
            command.arg(&mount.from).arg(mount.to);
        }
        command
    }

    /// Returns all paths inside, except records of dpkg and systemctl, and caches.
    pub(crate) fn paths(&self) -> Result<BTreeSet<String>> {
        const RECORDS: [&str; 4] = ["/var/lib/dpkg/", "/var/log/", "/var/cache/", "/run/systemd/"];
        let mut found = BTreeSet::new();
        let mut directories = vec![self.root.clone()];
        while let Some(directory) = directories.pop() {
            for path in process::entries(&directory) {
                let name = format!("/{}", path.strip_prefix(&self.root)?.display());
                if RECORDS.iter().any(|record| name.starts_with(record)) || name == "/node" {
                    continue;
                }
                if path.is_dir() && !path.is_symlink() {
                    directories.push(path);
                }
                found.insert(name);
            }
        }
        Ok(found)
    }
}
