//! Bundles what the steps of one pass share: the root, the scratch buffers, and where they report
//! to.

use super::Change;
use crate::error::Error;
use crate::group::Member;
use crate::id::{DeviceId, GroupId};
use crate::root::{Buffer, Root};
use crate::scan::Bound;
use std::time::Instant;

/// Largest number of errors that a monitor keeps, so that a tree full of garbage does not fill the
/// memory. With that many, further devices may have errors that are not kept.
pub const MAX_ERRORS: usize = 256;

/// The context of one pass.
pub(super) struct Pass<'a> {
    pub(super) root: &'a Root,
    pub(super) now: Instant,
    pub(super) scratch: &'a mut Scratch,
    pub(super) errors: &'a mut ReadErrors,
    pub(super) changes: &'a mut Vec<Change>,
}

/// Buffers whose content is meaningless between two passes. They are kept so that a pass without a
/// change allocates nothing.
#[derive(Default)]
pub(super) struct Scratch {
    pub(super) buffer: Buffer,
    /// The bound devices of the latest listing.
    pub(super) listed: Vec<Bound>,
    /// The entries of the latest listing that could not be understood.
    pub(super) failed: Vec<Error>,
    /// The number and the inode of each entry in /sys/class/vfio-dev.
    pub(super) entries: Vec<(u32, u64)>,
    /// The members of one group.
    pub(super) members: Vec<Member>,
    /// The groups with a device node in /dev/vfio.
    pub(super) group_nodes: Vec<GroupId>,
    /// N of each vfioN in /dev/vfio/devices, on a kernel without group nodes.
    pub(super) device_nodes: Vec<u32>,
}

/// What could not be read at the latest reading, each error once.
#[derive(Default)]
pub(super) struct ReadErrors(Vec<Error>);

impl ReadErrors {
    pub(super) fn as_slice(&self) -> &[Error] {
        &self.0
    }

    pub(super) fn add(&mut self, error: Error) {
        if self.0.len() < MAX_ERRORS && !self.0.contains(&error) {
            self.0.push(error);
        }
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Returns whether one of the errors is about a device.
    pub(super) fn concern(&self, device: DeviceId) -> bool {
        self.0.iter().any(|error| error.device == Some(device))
    }
}
