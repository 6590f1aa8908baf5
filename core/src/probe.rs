//! Probes a group: opens its device node for a moment, to learn from the kernel whether the group
//! is held.

use crate::id::GroupId;
use crate::occupancy::{Occupancy, UnknownReason};
use crate::root::Root;
use rustix::fs::OFlags;
use rustix::io::Errno;
use std::os::fd::OwnedFd;

impl Root {
    /// Opens the group's device node with O_RDWR|O_NONBLOCK|O_CLOEXEC and closes it at once.
    ///
    /// `vfio_group_fops_open` (drivers/vfio/group.c) returns EBUSY while any process has the group,
    /// or a device of the group, open. **Only EBUSY means held.** A missing node, a denied open and
    /// any other errno do not.
    ///
    /// While the probe's descriptor is open, the open of the same group by another process fails
    /// with EBUSY. So do not probe a free group in a loop; [`Monitor`](crate::Monitor) peeks
    /// instead. The probe accesses no device.
    ///
    /// Can block for seconds, because the kernel holds `group_lock` during a device reset.
    /// [`Prober`](crate::Prober) probes with a deadline.
    #[must_use]
    pub fn probe(&self, group: GroupId) -> Occupancy {
        match self.open_group(group) {
            Ok(_closed_here) => Occupancy::Free,
            Err(errno) => occupancy_of(errno),
        }
    }

    /// Opens the group's device node. While the caller keeps the descriptor, no other process can
    /// open the group.
    pub(crate) fn open_group(&self, group: GroupId) -> Result<OwnedFd, Errno> {
        // O_NOCTTY matters only if the node is not VFIO's: in the tests it is a pty.
        let flags = OFlags::RDWR | OFlags::NONBLOCK | OFlags::NOCTTY;
        match self.open_at(format_args!("dev/vfio/{group}"), flags) {
            // Without an IOMMU (enable_unsafe_noiommu_mode) the node has the prefix `noiommu-`.
            Err(Errno::NOENT) => self.open_at(format_args!("dev/vfio/noiommu-{group}"), flags),
            opened => opened,
        }
    }
}

/// Translates the errno of the open.
pub(crate) fn occupancy_of(errno: Errno) -> Occupancy {
    match errno {
        Errno::BUSY => Occupancy::Held,
        Errno::NOENT | Errno::NXIO | Errno::NODEV => Occupancy::Absent,
        // The device cgroup returns EPERM, the mode of the node EACCES. Neither says anything about
        // a holder.
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
