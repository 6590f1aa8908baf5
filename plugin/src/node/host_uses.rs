//! Reads what the host has through PCI functions: network interfaces and disks, and whether it uses them.

mod below;
mod zfs;

use crate::node::sysfs::{attribute, bounded, link_name, names};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// The longest file of /proc that is read, in bytes. A node with thousands of pods has some MiB of mounts.
const MAX_FILE: u64 = 16 << 20;
/// Entries of one directory that are read at most: interfaces, filesystems or disks.
const MAX_ENTRIES: usize = 4096;

/// What the host uses, read once for all functions.
#[derive(Debug)]
pub(crate) struct HostUses {
    root: PathBuf,
    /// Mount points by device number, `8:1`.
    by_number: BTreeMap<String, BTreeSet<String>>,
    /// Mount points by the name of the device, for filesystems with a number of their own such as btrfs.
    by_name: BTreeMap<String, BTreeSet<String>>,
    /// The mount points of each ZFS pool that is imported.
    zfs: BTreeMap<String, BTreeSet<String>>,
    /// Whether any list of mounts could be read.
    pub(crate) mounts_known: bool,
    /// The names of devices with swap space.
    swaps: BTreeSet<String>,
    /// The interfaces with a default route.
    default_routes: BTreeSet<String>,
    /// The physical interfaces that are up.
    up: BTreeSet<String>,
}

impl HostUses {
    /// Reads mounts, swap space, routes and interfaces. `root` is the root's directory. What cannot be read is empty.
    pub(crate) fn read(root: &Path) -> Self {
        let mut this = Self {
            root: root.to_owned(),
            by_number: BTreeMap::new(),
            by_name: BTreeMap::new(),
            zfs: BTreeMap::new(),
            mounts_known: false,
            swaps: BTreeSet::new(),
            default_routes: BTreeSet::new(),
            up: BTreeSet::new(),
        };
        // In a container with the host's /proc, `self` is the container's mount namespace and 1 is the host's.
        for process in ["1", "self"] {
            let proc = root.join("proc").join(process);
            if let Some(text) = bounded(&proc.join("mountinfo"), MAX_FILE) {
                this.mounts_known = true;
                text.lines().for_each(|line| this.add_mount(line));
            }
            let routes = bounded(&proc.join("net/route"), MAX_FILE).unwrap_or_default();
            this.default_routes.extend(routes.lines().filter_map(ipv4_default));
            let routes = bounded(&proc.join("net/ipv6_route"), MAX_FILE).unwrap_or_default();
            this.default_routes.extend(routes.lines().filter_map(ipv6_default));
        }
        this.add_peers();
        this.add_imported_pools();
        let swaps = bounded(&root.join("proc/swaps"), MAX_FILE).unwrap_or_default();
        this.swaps =
            swaps.lines().skip(1).filter_map(|line| name_of(line.split_whitespace().next()?)).collect();
        let net = root.join("sys/class/net");
        let is_physical = |name: &String| net.join(name).join("device").exists() && is_up(&net.join(name));
        this.up = names(&net, MAX_ENTRIES).into_iter().filter(is_physical).collect();
        this
    }

    /// Adds a line of mountinfo: `36 35 98:0 /mnt1 /mnt/parent rw,noatime master:1 - ext3 /dev/sda1 rw` (proc_pid_mountinfo(5)).
    fn add_mount(&mut self, line: &str) {
        let mut fields = line.split(' ');
        let (Some(number), Some(mount)) = (fields.nth(2), fields.nth(1)) else { return };
        let mount = unescaped(mount);
        let mut fields = fields.skip_while(|field| *field != "-").skip(1);
        let (kind, source, options) = (fields.next(), fields.next().unwrap_or_default(), fields.next());
        if kind == Some("zfs") {
            self.add_pool_mount(&unescaped(source), mount.clone());
        }
        // bcachefs names all its devices: `/dev/sda:/dev/sdb`. The options can name a device for a journal, as `logdev=/dev/sdc1`.
        let in_options = options.into_iter().flat_map(|options| options.split(','));
        let in_options = in_options.filter_map(|option| Some(option.split_once('=')?.1));
        for device in source.split(':').chain(in_options).filter(|path| path.starts_with("/dev/")) {
            if let Some(name) = name_of(device) {
                self.by_name.entry(name).or_default().insert(mount.clone());
            }
        }
        self.by_number.entry(number.to_owned()).or_default().insert(mount);
    }

    /// Adds the mounts of a btrfs or bcachefs to all its disks: mountinfo may name only one of them.
    fn add_peers(&mut self) {
        let filesystems = self.root.join("sys/fs/btrfs");
        for filesystem in names(&filesystems, MAX_ENTRIES) {
            self.share_mounts(names(&filesystems.join(filesystem).join("devices"), MAX_ENTRIES));
        }
        let filesystems = self.root.join("sys/fs/bcachefs");
        for filesystem in names(&filesystems, MAX_ENTRIES) {
            let filesystem = filesystems.join(filesystem);
            let members = names(&filesystem, MAX_ENTRIES);
            let members = members.iter().filter(|name| name.starts_with("dev-"));
            self.share_mounts(
                members.filter_map(|name| link_name(&filesystem.join(name).join("block"))).collect(),
            );
        }
    }

    /// Adds the mounts of each of these disks to all of them.
    fn share_mounts(&mut self, disks: Vec<String>) {
        let mounts = disks.iter().filter_map(|disk| self.by_name.get(disk)).flatten();
        let mounts: BTreeSet<String> = mounts.cloned().collect();
        for disk in disks.into_iter().filter(|_| !mounts.is_empty()) {
            self.by_name.entry(disk).or_default().extend(mounts.iter().cloned());
        }
    }
}

/// Returns whether an interface is up: by its flags (IFF_UP), or by its operational state.
fn is_up(directory: &Path) -> bool {
    let flags = attribute(&directory.join("flags"));
    let flags = flags.and_then(|text| u32::from_str_radix(text.trim_start_matches("0x"), 16).ok());
    flags.is_some_and(|flags| flags & 1 != 0)
        || attribute(&directory.join("operstate")).as_deref() == Some("up")
}

/// Returns the interface of a line of /proc/net/route whose destination and mask are 0.
fn ipv4_default(line: &str) -> Option<String> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [name, "00000000", ..] = *fields else { return None };
    (fields.get(7) == Some(&"00000000")).then(|| name.to_owned())
}

/// Returns the interface of a line of /proc/net/ipv6_route whose destination is `::/0`. The kernel's own entry that rejects all is
/// of `lo`.
fn ipv6_default(line: &str) -> Option<String> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let is_default = fields.first()?.bytes().all(|byte| byte == b'0') && fields.get(1) == Some(&"00");
    fields.last().filter(|name| is_default && **name != "lo").map(|name| (*name).to_owned())
}

/// Returns the last component of a device's path.
fn name_of(path: &str) -> Option<String> {
    unescaped(path).rsplit('/').next().map(str::to_owned)
}

/// Replaces the octal escapes of /proc (`mangle_path`): `\040` is a space.
fn unescaped(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code.filter(u8::is_ascii) {
            Some(code) => {
                plain.push(char::from(code));
                plain.push_str(part.get(3..).unwrap_or_default());
            }
            None => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_proc_are_parsed() {
        let mut uses = HostUses::read(Path::new("/nowhere"));
        assert!(!uses.mounts_known);
        uses.add_mount("36 35 259:2 / /data\\040disk rw,noatime master:1 - ext4 /dev/nvme0n1p2 rw");
        uses.add_mount("37 35 0:41 /@ / rw - btrfs /dev/sda2 rw");
        uses.add_mount("38 35 0:5 / /proc rw - proc proc rw");
        uses.add_mount("garbage");
        uses.add_mount("39 35 0:50 / /pool rw - bcachefs /dev/sdb:/dev/sdc1 rw");
        uses.add_mount("40 35 8:80 / /xfs rw - xfs /dev/sdf rw,attr2,logdev=/dev/sdg1,noquota");
        uses.add_mount("41 35 0:51 / /home rw - zfs tank/home rw,xattr");
        for (disk, mount) in [("sdb", "/pool"), ("sdc1", "/pool"), ("sdf", "/xfs"), ("sdg1", "/xfs")] {
            assert!(uses.by_name[disk].contains(mount), "{disk}");
        }
        assert!(uses.zfs["tank"].contains("/home"));
        assert!(uses.by_number["259:2"].contains("/data disk"));
        assert!(uses.by_name["sda2"].contains("/") && !uses.by_name.contains_key("proc"));
        assert_eq!(
            ipv4_default("eth0\t00000000\t0102A8C0\t0003\t0\t0\t100\t00000000\t0\t0\t0").unwrap(),
            "eth0"
        );
        assert_eq!(ipv4_default("eth0\t0002A8C0\t00000000\t0001\t0\t0\t100\t00FFFFFF\t0\t0\t0"), None);
        let zeros = "0".repeat(32);
        let route =
            |name: &str| format!("{zeros} 00 {zeros} 00 {zeros} 00000400 00000001 00000000 00000003 {name}");
        assert_eq!(ipv6_default(&route("eth1")).unwrap(), "eth1");
        assert_eq!(ipv6_default(&route("lo")), None);
        assert_eq!(unescaped(r"a\040b\x\9"), r"a b\x\9");
    }
}
