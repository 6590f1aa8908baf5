//! Decides whether the kubelet has forgotten a prepared claim that the API server does not have allocated.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// How long the kubelet may take to end the containers of a claim that is not allocated any more, if its record cannot be read. The
/// usual grace periods are shorter: 30 s for pods, 3 min for VMs of KubeVirt.
const PATIENCE: Duration = Duration::from_secs(600);

/// The prepared claims that the API server does not have allocated and of which the kubelet's record is not known, each with the time
/// at which that was first seen.
#[derive(Debug, Default)]
pub(super) struct Deallocated(Mutex<BTreeMap<String, Instant>>);

impl Deallocated {
    /// Returns whether the kubelet has forgotten a claim: it is not allocated and not in the kubelet's record. If that cannot be read,
    /// whether the kubelet must have ended the claim's containers since. None stands for what is not known.
    pub(super) fn is_forgotten(
        &self,
        uid: &str,
        is_deallocated: Option<bool>,
        is_recorded: impl FnOnce() -> Option<bool>,
        now: Instant,
    ) -> bool {
        match is_deallocated {
            Some(true) => {}
            Some(false) => {
                self.forget(uid);
                return false;
            }
            None => return false,
        }
        match is_recorded() {
            Some(true) => {
                self.forget(uid);
                false
            }
            Some(false) => true,
            None => {
                let since = *self.0.lock().entry(uid.to_owned()).or_insert(now);
                now.saturating_duration_since(since) >= PATIENCE
            }
        }
    }

    /// Notes that a claim is allocated, is in the kubelet's record, or is not prepared any more.
    pub(super) fn forget(&self, uid: &str) {
        self.0.lock().remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unallocated_claim_is_forgotten_if_it_is_not_recorded() {
        let (deallocated, now) = (Deallocated::default(), Instant::now());
        let is_forgotten = |allocated: Option<bool>, recorded| {
            deallocated.is_forgotten("a", allocated.map(|is| !is), || recorded, now)
        };
        assert!(is_forgotten(Some(false), Some(false)));
        for (allocated, recorded) in
            [(Some(false), Some(true)), (Some(true), Some(false)), (None, Some(false)), (Some(false), None)]
        {
            assert!(!is_forgotten(allocated, recorded), "{allocated:?} {recorded:?}");
        }
    }

    #[test]
    fn claim_is_forgotten_after_ten_minutes_without_a_record() {
        let (deallocated, start) = (Deallocated::default(), Instant::now());
        let after = |uid: &str, seconds| {
            deallocated.is_forgotten(uid, Some(true), || None, start + Duration::from_secs(seconds))
        };
        assert!(!after("a", 0));
        assert!(!after("a", 599));
        assert!(!after("b", 600), "each claim has its own time");
        // An API server that does not answer says nothing of the claim.
        assert!(!deallocated.is_forgotten("a", None, || None, start));
        assert!(after("a", 600));
        // It was in the kubelet's record, so the kubelet will have it unprepared.
        assert!(!deallocated.is_forgotten("a", Some(true), || Some(true), start));
        assert!(!after("a", 600));
        assert!(after("a", 1200));
        // It was allocated again.
        assert!(!deallocated.is_forgotten("a", Some(false), || None, start));
        assert!(!after("a", 1200));
        // It was prepared again.
        deallocated.forget("b");
        assert!(!after("b", 1200));
    }
}
