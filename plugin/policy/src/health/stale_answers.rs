//! Turns the stale answers that the kubelet stores into reasons, by device.

use crate::assignments::index::Assignments;
use crate::assignments::stored_answer::stale::{StaleAnswer, stale_answers};
use crate::device::NodeSnapshot;
use crate::health::reason::Reason;
use std::collections::BTreeMap;
use vfio_probe::DeviceId;

/// What stale answers do to devices. Empty on almost every node.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct StaleAnswers {
    /// [`Reason::StaleAnswer`] of devices whose own pod has a stale answer.
    of_own: BTreeMap<DeviceId, Reason>,
    /// [`Reason::StaleAnswerOfAnotherPod`] of devices whose node a stale answer names.
    pub(super) of_others: BTreeMap<DeviceId, Reason>,
}

impl StaleAnswers {
    /// Returns those of the assignments. A device that several answers name has the reason of the first.
    pub(super) fn new(assignments: &Assignments, snapshot: &NodeSnapshot) -> Self {
        let mut found = Self::default();
        for stale in stale_answers(assignments.records(), snapshot) {
            let StaleAnswer { mismatch, .. } = &stale;
            let pod = || stale.pod().to_string();
            let stored = || mismatch.stored.to_string();
            let now = || mismatch.now.as_ref().map(ToString::to_string);
            let device = mismatch.device;
            let own = || Reason::StaleAnswer { pod: pod(), stored: stored(), now: now() };
            found.of_own.entry(device).or_insert_with(own);
            for owner in &mismatch.owners {
                let other =
                    || Reason::StaleAnswerOfAnotherPod { pod: pod(), device, stored: stored(), now: now() };
                found.of_others.entry(*owner).or_insert_with(other);
            }
        }
        found
    }

    /// Returns the reason for a device. The stale answer of its own pod comes first.
    pub(super) fn of(&self, device: DeviceId, is_assigned: bool) -> Option<&Reason> {
        let own = self.of_own.get(&device).filter(|_| is_assigned);
        own.or_else(|| self.of_others.get(&device))
    }
}
