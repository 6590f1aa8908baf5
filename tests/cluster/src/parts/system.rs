//! The node's system: a small Debian with runc, the CNI plugins and an SSH server.

use std::path::{Path, PathBuf};

use xtask::context::Context;
use xtask::process;

use super::cache::{Cache, Key};
use crate::Result;
use crate::versions::Versions;

const PACKAGES: &str =
    "iproute2,iptables,kmod,procps,psmisc,dropbear-bin,conntrack,runc,containernetworking-plugins";
/// Files that no test reads.
const EXCLUDED: [&str; 3] = ["/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*"];

/// Unpacks the system and returns its directory.
///
/// # Errors
///
/// Fails if mmdebstrap fails.
pub fn build(context: &Context, cache: &Cache, versions: &Versions) -> Result<PathBuf> {
    let debian = versions.of("debian")?;
    let suite = debian.split_whitespace().next().unwrap_or_default();
    let key = Key::default().recipe(context, "system.rs")?.text(debian);
    cache.part("system", &key, |new| {
        let mut make = context.command("mmdebstrap");
        make.args(["--quiet", "--variant=minbase", "--aptopt=Acquire::Languages none"]);
        make.arg(format!("--include={PACKAGES}"));
        make.args(EXCLUDED.map(|pattern| format!("--dpkgopt=path-exclude={pattern}")));
        process::run(make.arg(suite).arg(new.join("root")))?;
        for downloads in ["var/cache/apt", "var/lib/apt/lists"] {
            remove(&new.join("root").join(downloads));
        }
        let mut key = context.command("chroot");
        key.arg(new.join("root")).args(["dropbearkey", "-t", "ed25519", "-f", "/etc/dropbear/host-key"]);
        process::make_directory(&new.join("root/etc/dropbear"))?;
        process::run(&mut key)
    })
}

fn remove(directory: &Path) {
    let _ = std::fs::remove_dir_all(directory);
}
