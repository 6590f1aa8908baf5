//! The open: asks the kernel whether a group is held, by trying to have it for a moment.

use crate::id::GroupId;
use crate::occupancy::{Occupancy, UnknownReason};
use crate::root::Root;
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::os::fd::OwnedFd;

impl Root {
    /// Opens the group's node O_RDWR|O_NONBLOCK|O_CLOEXEC and closes it at once.
    ///
    /// `vfio_group_fops_open` (drivers/vfio/group.c) answers EBUSY while any process has the group, or a device of it,
    /// open. **Held is EBUSY and nothing else**: a missing node, a denied open, any other errno is not "held".
    ///
    /// While our descriptor is open, another process' open of the same group fails with EBUSY; do not call this in a
    /// loop on a free group ([`Monitor`](crate::Monitor) peeks instead). It can block for seconds: the kernel holds
    /// `group_lock` over a device reset. [`Prober`](crate::Prober) is the form with a deadline. It touches no device.
    #[must_use]
    pub fn probe(&self, group: GroupId) -> Occupancy {
        match self.open_group(group) {
            Ok(_closed_here) => Occupancy::Free,
            Err(errno) => occupancy_of(errno),
        }
    }

    /// The open itself, for those who look at something else while the group is surely theirs.
    pub(crate) fn open_group(&self, group: GroupId) -> Result<OwnedFd, Errno> {
        // O_NOCTTY matters only where the node is not VFIO's, as in a test's tree of ptys.
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY;
        match self.open_at(format_args!("dev/vfio/{group}"), flags) {
            // Without an IOMMU (enable_unsafe_noiommu_mode) the node has this name.
            Err(Errno::NOENT) => self.open_at(format_args!("dev/vfio/noiommu-{group}"), flags),
            opened => opened,
        }
    }
}

pub(crate) fn occupancy_of(errno: Errno) -> Occupancy {
    match errno {
        Errno::BUSY => Occupancy::Held,
        Errno::NOENT | Errno::NXIO | Errno::NODEV => Occupancy::Absent,
        // The device cgroup answers EPERM, a node's mode EACCES: it says nothing about a holder.
        Errno::PERM | Errno::ACCESS => Occupancy::Unknown(UnknownReason::Denied),
        other => Occupancy::Unknown(UnknownReason::Errno(other.raw_os_error())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_ebusy_is_held() {
        for number in 1..4096 {
            let occupancy = occupancy_of(Errno::from_raw_os_error(number));
            assert_eq!(occupancy.is_held(), number == Errno::BUSY.raw_os_error(), "errno {number}");
            assert_ne!(occupancy, Occupancy::Free, "errno {number}");
        }
    }
}
