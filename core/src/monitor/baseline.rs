//! Compares the enable count of a device with its baseline: the count without a holder.
//!
//! A count can be left over from before the bind. So a count of 0 is its own baseline, and a count
//! above 0 becomes a baseline only if it was read while a probe of ours had the group open.

use crate::error::{ErrorKind, Result};
use crate::id::DeviceId;
use crate::peek::{EnableCount, Peek};
use crate::root::Root;

/// The enable count of one device and its baseline.
#[derive(Debug, Default)]
pub(super) struct EnableBaseline {
    count: EnableCount,
    /// None until it is known. Until then it counts as 0.
    baseline: Option<u32>,
}

impl EnableBaseline {
    /// Forgets the baseline and closes the attribute. Called when the device was bound again.
    pub(super) fn forget(&mut self) {
        self.baseline = None;
        self.count.forget();
    }

    /// Takes a count that was read while no other process could hold the group. A baseline only
    /// falls, because a count that rose since belongs to a holder.
    pub(super) fn lower(&mut self, count: u32) {
        self.baseline = Some(self.baseline.map_or(count, |known| known.min(count)));
    }

    /// Returns whether the baseline is above 0.
    pub(super) fn is_stale(&self) -> bool {
        self.baseline.is_some_and(|count| count > 0)
    }

    /// Returns whether a count is above the baseline.
    pub(super) fn is_exceeded_by(&self, count: u32) -> bool {
        count > self.baseline.unwrap_or(0)
    }

    /// Closes the attribute. The baseline stays.
    pub(super) fn close(&mut self) {
        self.count.forget();
    }

    /// Returns whether the attribute is kept open.
    pub(super) fn is_open(&self) -> bool {
        self.count.is_open()
    }

    /// Reads the count and compares it. Keeps the attribute open if `keep` is true. A device
    /// without the attribute is [`Peek::Unavailable`].
    pub(super) fn peek(&mut self, root: &Root, device: DeviceId, keep: bool) -> Result<Peek> {
        let count = match self.count.read_and_keep(root, device, keep) {
            Ok(count) => count,
            Err(error) if error.kind == ErrorKind::Missing => return Ok(Peek::Unavailable),
            Err(error) => return Err(error),
        };
        if self.is_exceeded_by(count) {
            return Ok(Peek::LooksHeld);
        }
        self.baseline = Some(count);
        Ok(Peek::LooksFree)
    }
}
