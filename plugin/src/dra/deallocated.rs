//! Remembers since when prepared claims have no allocation.

use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::time::Duration;
use tokio::time::Instant;

/// How long the kubelet may take to end the containers of a claim that is not allocated any more, if its record cannot be read. More
/// than pods have to end: mostly 30 s, 3 min for VMs of KubeVirt.
const PATIENCE: Duration = Duration::from_secs(600);

/// The prepared claims that the API server does not have allocated, each with the time at which that was first seen.
#[derive(Debug, Default)]
pub(super) struct Deallocated(Mutex<BTreeMap<String, Instant>>);

impl Deallocated {
    /// Notes that a claim is not allocated. Returns whether it was first seen so long ago that the kubelet must have ended its
    /// containers.
    pub(super) fn is_overdue(&self, uid: &str, now: Instant) -> bool {
        let since = *self.0.lock().entry(uid.to_owned()).or_insert(now);
        now.saturating_duration_since(since) >= PATIENCE
    }

    /// Notes that a claim is allocated, or not prepared any more.
    pub(super) fn forget(&self, uid: &str) {
        self.0.lock().remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claim_without_allocation_is_overdue_after_ten_minutes() {
        let (deallocated, now) = (Deallocated::default(), Instant::now());
        assert!(!deallocated.is_overdue("a", now));
        assert!(!deallocated.is_overdue("a", now + Duration::from_secs(599)));
        assert!(!deallocated.is_overdue("b", now + PATIENCE), "each claim has its own time");
        assert!(deallocated.is_overdue("a", now + PATIENCE));
        // It was allocated and prepared again.
        deallocated.forget("a");
        assert!(!deallocated.is_overdue("a", now + PATIENCE));
    }
}
