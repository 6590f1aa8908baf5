//! Finds the disks of ZFS pools. The kernel shows only the names of the pools, and udev knows the members.

use crate::node::host_uses::HostUses;
use crate::node::sysfs::{bounded, names};

/// Pools that are read at most.
const MAX_POOLS: usize = 256;
/// The longest record of udev that is read, in bytes.
const MAX_RECORD: u64 = 64 << 10;

/// What udev knows of a disk or partition.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Member {
    /// It belongs to a pool that is imported.
    Of(String),
    /// It belongs to no imported pool.
    No,
    /// udev's record cannot be read, as in a container without the host's /run/udev.
    Unknown,
}

impl HostUses {
    /// Adds the mount point of a dataset, `pool/name`.
    pub(super) fn add_pool_mount(&mut self, dataset: &str, mount: String) {
        let pool = dataset.split(['/', '@']).next().unwrap_or_default();
        self.zfs.entry(pool.to_owned()).or_default().insert(mount);
    }

    /// Adds the imported pools, which need not be mounted (`/proc/spl/kstat/zfs/POOL`).
    pub(super) fn add_imported_pools(&mut self) {
        let directory = self.root.join("proc/spl/kstat/zfs");
        for name in names(&directory, MAX_POOLS) {
            if directory.join(&name).is_dir() {
                self.zfs.entry(name).or_default();
            }
        }
    }

    /// Returns whether the disk or partition with this number, `8:1`, belongs to a pool.
    pub(super) fn member_of_pool(&self, number: &str) -> Member {
        if self.zfs.is_empty() {
            return Member::No;
        }
        let Some(record) = bounded(&self.root.join(format!("run/udev/data/b{number}")), MAX_RECORD) else {
            return Member::Unknown;
        };
        let value = |key: &str| record.lines().find_map(|line| line.strip_prefix("E:")?.strip_prefix(key));
        match (value("ID_FS_TYPE="), value("ID_FS_LABEL=")) {
            (Some("zfs_member"), Some(pool)) if self.zfs.contains_key(pool) => Member::Of(pool.to_owned()),
            // The label is missing in the records of some versions.
            (Some("zfs_member"), None) => Member::Unknown,
            _ => Member::No,
        }
    }
}
