//! Judges a prepared claim whose devices the API server has allocated to another claim.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// How long the kubelet may take to end the containers of a claim that is not allocated any more, if its record cannot be read. The
/// usual grace periods are shorter: 30 s for pods, 3 min for VMs of KubeVirt.
const PATIENCE: Duration = Duration::from_secs(600);

/// What is known of a prepared claim whose devices another claim is allocated.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Earlier {
    /// The API server has one of its devices allocated to it.
    Allocated,
    /// It is not allocated, and the kubelet still ends its containers. Whether that is known from the kubelet's record. If the record
    /// cannot be read, the kubelet may have forgotten the claim.
    Ending { is_recorded: bool },
    /// It is not allocated, and the kubelet will never have it unprepared.
    Forgotten,
    /// Whether it is allocated is not known.
    Unknown,
}

/// The prepared claims that the API server does not have allocated and of which the kubelet's record is not known, each with the time
/// at which that was first seen.
#[derive(Debug, Default)]
pub(super) struct Deallocated(Mutex<BTreeMap<String, Instant>>);

impl Deallocated {
    /// Judges a claim. The kubelet has forgotten it if it is not allocated and not in the kubelet's record. If that cannot be read, the
    /// kubelet must have ended the claim's containers after some time. None stands for what is not known.
    pub(super) fn judge(
        &self,
        uid: &str,
        is_deallocated: Option<bool>,
        is_recorded: Option<bool>,
        now: Instant,
    ) -> Earlier {
        match is_deallocated {
            Some(true) => {}
            Some(false) => {
                self.forget(uid);
                return Earlier::Allocated;
            }
            None => return Earlier::Unknown,
        }
        match is_recorded {
            Some(true) => {
                self.forget(uid);
                Earlier::Ending { is_recorded: true }
            }
            Some(false) => Earlier::Forgotten,
            None => {
                let since = *self.0.lock().entry(uid.to_owned()).or_insert(now);
                match now.saturating_duration_since(since) >= PATIENCE {
                    true => Earlier::Forgotten,
                    false => Earlier::Ending { is_recorded: false },
                }
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

    const RECORDED: Earlier = Earlier::Ending { is_recorded: true };
    const NOT_READ: Earlier = Earlier::Ending { is_recorded: false };

    #[test]
    fn unallocated_claim_is_forgotten_if_it_is_not_recorded() {
        let (deallocated, now) = (Deallocated::default(), Instant::now());
        for (allocated, recorded, expected) in [
            (Some(false), Some(false), Earlier::Forgotten),
            (Some(false), Some(true), RECORDED),
            (Some(false), None, NOT_READ),
            (Some(true), Some(false), Earlier::Allocated),
            (Some(true), None, Earlier::Allocated),
            (None, Some(false), Earlier::Unknown),
            (None, Some(true), Earlier::Unknown),
        ] {
            let judged = deallocated.judge("a", allocated.map(|is: bool| !is), recorded, now);
            assert_eq!(judged, expected, "{allocated:?} {recorded:?}");
        }
    }

    #[test]
    fn claim_is_forgotten_after_ten_minutes_without_a_record() {
        let (deallocated, start) = (Deallocated::default(), Instant::now());
        let after = |uid: &str, seconds| {
            deallocated.judge(uid, Some(true), None, start + Duration::from_secs(seconds))
        };
        assert_eq!(after("a", 0), NOT_READ);
        assert_eq!(after("a", 599), NOT_READ);
        assert_eq!(after("b", 600), NOT_READ, "each claim has its own time");
        // An API server that does not answer says nothing of the claim.
        assert_eq!(deallocated.judge("a", None, None, start), Earlier::Unknown);
        assert_eq!(after("a", 600), Earlier::Forgotten);
        // It was in the kubelet's record, so the kubelet will have it unprepared.
        assert_eq!(deallocated.judge("a", Some(true), Some(true), start), RECORDED);
        assert_eq!(after("a", 600), NOT_READ);
        assert_eq!(after("a", 1200), Earlier::Forgotten);
        // It was allocated again.
        assert_eq!(deallocated.judge("a", Some(false), None, start), Earlier::Allocated);
        assert_eq!(after("a", 1200), NOT_READ);
        // It was prepared again.
        deallocated.forget("b");
        assert_eq!(after("b", 1200), NOT_READ);
    }
}
