//! Defines the events of a watch.

use crate::id::{DeviceId, GroupId};
use crate::monitor::Change;

/// An event of a [`Watch`](crate::Watch).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Event {
    /// A device was bound to a VFIO driver, or was discovered.
    Bound(DeviceId),
    /// A device is no longer bound.
    Unbound(DeviceId),
    /// A group became held.
    Held(GroupId),
    /// A group became free, or the watch found it free.
    Freed(GroupId),
    /// Something else about a group changed, also its holders. Also for a group that the watch found
    /// neither free nor held.
    Changed(GroupId),
    /// Events were lost: the kernel dropped uevents, or more than
    /// [`MAX_QUEUED`](crate::watch::MAX_QUEUED) events were queued during a wait. The watch itself is
    /// up to date.
    Rescan,
    /// The watch has read everything once. Comes once, after the events of the devices and groups
    /// that it found. Without any event before it, no device is bound.
    Ready,
}

impl Event {
    /// Returns `bound`, `unbound`, `held`, `freed`, `changed`, `rescan` or `ready`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Bound(_) => "bound",
            Self::Unbound(_) => "unbound",
            Self::Held(_) => "held",
            Self::Freed(_) => "freed",
            Self::Changed(_) => "changed",
            Self::Rescan => "rescan",
            Self::Ready => "ready",
        }
    }

    /// Returns the device that was bound or unbound. None for other events.
    #[must_use]
    pub fn device(self) -> Option<DeviceId> {
        match self {
            Self::Bound(device) | Self::Unbound(device) => Some(device),
            _ => None,
        }
    }

    /// Returns the group that became held, became free or changed. None for other events.
    #[must_use]
    pub fn group(self) -> Option<GroupId> {
        match self {
            Self::Held(group) | Self::Freed(group) | Self::Changed(group) => Some(group),
            _ => None,
        }
    }
}

#[doc(hidden)]
impl From<Change> for Event {
    fn from(change: Change) -> Self {
        match change {
            Change::Bound(device) => Self::Bound(device),
            Change::Unbound(device) => Self::Unbound(device),
            Change::Held(group) => Self::Held(group),
            Change::Freed(group) => Self::Freed(group),
            Change::Changed(group) => Self::Changed(group),
        }
    }
}
