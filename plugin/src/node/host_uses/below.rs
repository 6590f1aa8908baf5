//! Searches the directories below a function in sysfs for interfaces, disks and PCI domains.

use crate::node::host_uses::zfs::Member;
use crate::node::host_uses::{HostUses, is_up};
use crate::node::sysfs::{attribute, link_name, names};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use vfio_plugin_policy::unbound::host_use::{Need, Use};

/// Entries of one directory that are read at most.
const MAX_ENTRIES: usize = 4096;
/// Directories below one function that are read at most. An adapter with 100 disks has a few thousand.
const MAX_DIRECTORIES: usize = 65_536;
/// Directories of a device that contain no device.
const WITHOUT_DEVICES: [&str; 9] =
    ["power", "queue", "mq", "integrity", "trace", "msi_irqs", "slaves", "holders", "queues"];
/// The deepest directory below a function. A disk behind a SAS expander is about 12 deep.
const MAX_DEPTH: usize = 24;
/// Devices of dm and md above a disk that are searched at most: LVM on LUKS on RAID.
const MAX_HOLDERS: usize = 256;
/// Interfaces above each other at most: a VLAN on a bridge on a bond.
const MAX_UPPERS: usize = 8;

impl HostUses {
    /// Returns what the host has through a function, and the PCI domains below it. `function` is its directory in sysfs.
    pub(crate) fn below(&self, function: &Path) -> (Vec<Use>, Vec<u32>) {
        let mut found = Found::default();
        self.search(function, None, 0, &mut found);
        if attribute(&function.join("boot_vga")).as_deref() == Some("1") {
            found.uses.push(Use::Console);
        }
        let pools: Vec<String> = self.zfs.keys().cloned().collect();
        for name in found.perhaps_in_a_pool {
            let is_used = |used: &Use| {
                matches!(used, Use::Disk { name: disk, .. } if *disk == name) && used.need() != Need::None
            };
            if !found.uses.iter().any(is_used) {
                found.uses.push(Use::PerhapsInPool { disk: name, pools: pools.clone() });
            }
        }
        (found.uses, found.domains)
    }

    /// Searches a directory of sysfs and those below it, without following links. `disk` is the place of the disk above it.
    fn search(&self, directory: &Path, disk: Option<usize>, depth: usize, found: &mut Found) {
        found.directories += 1;
        if depth > MAX_DEPTH || found.directories > MAX_DIRECTORIES {
            if !found.uses.contains(&Use::Unsearched) {
                found.uses.push(Use::Unsearched);
            }
            return;
        }
        let here = directory.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let children: Vec<String> = names(directory, MAX_ENTRIES)
            .into_iter()
            .filter(|name| !WITHOUT_DEVICES.contains(&name.as_str()))
            .filter(|name| directory.join(name).symlink_metadata().is_ok_and(|entry| entry.is_dir()))
            .collect();
        if here == "net" {
            // sysfs shows only the interfaces of one network namespace (`net_current_may_mount`).
            let hidden = children.is_empty().then_some(Use::HiddenInterface);
            found.uses.extend(hidden);
            found.uses.extend(children.into_iter().map(|name| self.interface(&directory.join(&name), name)));
            return;
        }
        for name in children {
            let child = directory.join(&name);
            if let Some(domain) = root_bus(&name) {
                found.domains.push(domain);
            }
            let is_block = here == "block"
                || child.join("size").is_file() && child.join("dev").exists()
                || link_name(&child.join("subsystem")).as_deref() == Some("block");
            let disk = if !is_block {
                disk
            } else if let Some(head) = multipath_head(&name) {
                // The disk of a multipath controller is a device of its own (`nvme_mpath_alloc_disk`).
                let place = found.disk(&head);
                let head_directory = self.root.join("sys/class/block").join(&head);
                self.add_disk(&head_directory, &head, place, found);
                let partitions = names(&head_directory, MAX_ENTRIES);
                for partition in partitions.iter().filter(|partition| partition.starts_with(&head)) {
                    self.add_disk(&head_directory.join(partition), partition, place, found);
                }
                Some(place)
            } else {
                let place = disk.unwrap_or_else(|| found.disk(&name));
                self.add_disk(&child, &name, place, found);
                Some(place)
            };
            self.search(&child, disk, depth + 1, found);
        }
    }

    /// Adds how the host uses a disk or a partition to the disk at `place`.
    fn add_disk(&self, directory: &Path, name: &str, place: usize, found: &mut Found) {
        let above = self.holders(directory);
        // mountinfo names a device of dm by its number, and in its path by the name that people know.
        let above: Vec<(PathBuf, String)> = above
            .into_iter()
            .map(|holder| {
                let directory = self.root.join("sys/class/block").join(&holder);
                let known = attribute(&directory.join("dm/name")).unwrap_or(holder);
                (directory, known)
            })
            .collect();
        let mut mounted = BTreeSet::new();
        let mut swaps = self.swaps.contains(name);
        for (directory, name) in
            above.iter().map(|(directory, name)| (&**directory, &**name)).chain([(directory, name)])
        {
            let number = attribute(&directory.join("dev")).unwrap_or_default();
            mounted.extend(
                self.by_number.get(&number).into_iter().chain(self.by_name.get(name)).flatten().cloned(),
            );
            let own = directory.file_name().and_then(|name| name.to_str());
            swaps |= own.is_some_and(|name| self.swaps.contains(name));
        }
        let mut held: Vec<String> = above.into_iter().map(|(_, name)| name).collect();
        let member = self.member_of_pool(&attribute(&directory.join("dev")).unwrap_or_default());
        if let Member::Of(pool) = &member {
            mounted.extend(self.zfs.get(pool).into_iter().flatten().cloned());
            held.push(format!("the ZFS pool {pool}"));
        }
        let Some(Use::Disk { name: disk, mounts, is_swap, holders }) = found.uses.get_mut(place) else {
            return;
        };
        if member == Member::Unknown && !found.perhaps_in_a_pool.contains(disk) {
            found.perhaps_in_a_pool.push(disk.clone());
        }
        mounts.extend(mounted.into_iter().filter(|mount| !mounts.contains(mount)).collect::<Vec<_>>());
        *is_swap |= swaps;
        holders.extend(held.into_iter().filter(|holder| !holders.contains(holder)).collect::<Vec<_>>());
    }

    /// Returns the devices of dm and md above a disk or partition, and those above them.
    fn holders(&self, directory: &Path) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        let mut next = vec![directory.to_owned()];
        while let Some(directory) = next.pop() {
            for name in names(&directory.join("holders"), MAX_ENTRIES) {
                if found.len() < MAX_HOLDERS && !found.contains(&name) {
                    next.push(self.root.join("sys/class/block").join(&name));
                    found.push(name);
                }
            }
        }
        found
    }

    fn interface(&self, directory: &Path, name: String) -> Use {
        let uppers = self.uppers(directory);
        let has_default_route =
            [&name].into_iter().chain(&uppers).any(|name| self.default_routes.contains(name));
        let is_only_one_up = self.up.iter().all(|other| *other == name);
        Use::Interface { is_up: is_up(directory), has_default_route, is_only_one_up, uppers, name }
    }

    /// Returns the interfaces above an interface: its links `upper_NAME` (`netdev_adjacent_sysfs_add`) and theirs.
    fn uppers(&self, directory: &Path) -> Vec<String> {
        let mut found: Vec<String> = Vec::new();
        let mut next = vec![directory.to_owned()];
        while let Some(directory) = next.pop() {
            let above = names(&directory, MAX_ENTRIES);
            let above = above.iter().filter_map(|name| name.strip_prefix("upper_").map(str::to_owned));
            for name in above.chain(link_name(&directory.join("master"))) {
                if found.len() < MAX_UPPERS && !found.contains(&name) {
                    next.push(self.root.join("sys/class/net").join(&name));
                    found.push(name);
                }
            }
        }
        found
    }
}

/// What a search has found.
#[derive(Default)]
struct Found {
    uses: Vec<Use>,
    domains: Vec<u32>,
    directories: usize,
    /// Disks of which udev's records cannot be read, while a ZFS pool is imported.
    perhaps_in_a_pool: Vec<String>,
}

impl Found {
    /// Returns the place of a disk in `uses`.
    fn disk(&mut self, wanted: &str) -> usize {
        let is_it = |used: &Use| matches!(used, Use::Disk { name, .. } if name == wanted);
        self.uses.iter().position(is_it).unwrap_or_else(|| {
            let name = wanted.to_owned();
            self.uses.push(Use::Disk { name, mounts: Vec::new(), is_swap: false, holders: Vec::new() });
            self.uses.len() - 1
        })
    }
}

/// Returns the domain of a root bus' directory, `pci10000:e0`.
fn root_bus(name: &str) -> Option<u32> {
    let (domain, bus) = name.strip_prefix("pci")?.split_once(':')?;
    (bus.len() == 2).then(|| u32::from_str_radix(domain, 16).ok())?
}

/// Returns the disk of a path of NVMe multipath: `nvme0n1` for `nvme0c1n1`.
fn multipath_head(name: &str) -> Option<String> {
    let is_number = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    let (subsystem, rest) = name.strip_prefix("nvme")?.split_once('c')?;
    let (controller, namespace) = rest.split_once('n')?;
    [subsystem, controller, namespace]
        .into_iter()
        .all(is_number)
        .then(|| format!("nvme{subsystem}n{namespace}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_sysfs_are_parsed() {
        assert_eq!(multipath_head("nvme0c12n3").as_deref(), Some("nvme0n3"));
        assert_eq!([multipath_head("nvme0n1"), multipath_head("nvmecn")], [None, None]);
        assert_eq!(
            [root_bus("pci10000:e0"), root_bus("pci:e0"), root_bus("power")],
            [Some(0x1_0000), None, None]
        );
    }

    #[test]
    fn deeper_directory_than_searched_is_reported() {
        let directory = tempfile::tempdir().unwrap();
        let deepest = (0..=MAX_DEPTH).fold(directory.path().to_owned(), |path, _| path.join("d"));
        std::fs::create_dir_all(&deepest).unwrap();
        let uses = HostUses::read(Path::new("/nowhere"));
        assert_eq!(uses.below(directory.path()).0, [Use::Unsearched]);
        std::fs::remove_dir(deepest).unwrap();
        assert_eq!(uses.below(directory.path()).0, []);
    }
}
