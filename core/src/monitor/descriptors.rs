//! Limits the descriptors that a monitor keeps open.
//!
//! A kept descriptor of an attribute saves two of three system calls of each peek. But a node can
//! have more functions on VFIO drivers than the process may have descriptors, and then nothing else
//! could be opened any more.

use crate::hardware::PresenceReader;
use rustix::process::{Resource, getrlimit};

/// Share of RLIMIT_NOFILE for attributes: three eighths. Together with the pidfds of
/// [`pidfd_limit`] and with [`presence_reader_limit`] it is half.
const ATTRIBUTES: (u64, u64) = (3, 8);
/// Share of RLIMIT_NOFILE for pidfds.
const PIDFDS: (u64, u64) = (1, 16);
/// Share of RLIMIT_NOFILE for the attributes of [`PresenceReader`]s.
const PRESENCE: (u64, u64) = (1, 16);

/// The number of attributes that are kept open, and its limit.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Descriptors {
    pub(super) open: usize,
    /// None until it is needed: no attribute is opened before the first peek.
    limit: Option<usize>,
}

impl Descriptors {
    /// Returns the largest number that may be open. Reads it once.
    pub(super) fn limit(&mut self) -> usize {
        *self.limit.get_or_insert_with(|| share(ATTRIBUTES))
    }

    /// Returns whether another attribute may be kept open.
    pub(super) fn may_open(&mut self) -> bool {
        self.open < self.limit()
    }

    /// Counts an attribute that was opened or closed.
    pub(super) fn count(&mut self, was_open: bool, is_open: bool) {
        self.open = (self.open + usize::from(is_open)).saturating_sub(usize::from(was_open));
    }
}

/// Returns the largest number of pidfds that a watch may keep open.
pub(crate) fn pidfd_limit() -> usize {
    share(PIDFDS)
}

/// Returns the largest number of [`PresenceReader`]s to keep, so that a process never uses more than
/// half of its descriptors for attributes and pidfds.
#[must_use]
pub fn presence_reader_limit() -> usize {
    share(PRESENCE) / PresenceReader::DESCRIPTORS
}

fn share((part, whole): (u64, u64)) -> usize {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    usize::try_from(limit / whole * part).unwrap_or(usize::MAX)
}
