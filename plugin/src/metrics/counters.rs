//! The counters, on atomics: a call that is counted waits for no scrape.

use crate::metrics::histogram::Histogram;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;
use vfio_plugin_policy::health::reason::Reason;
use vfio_probe::{Occupancy, UnknownReason};

/// Limit for the resources with counters of their own. A resource that is gone keeps its counters; more than this share those of
/// [`OTHER`].
const MAX_RESOURCES: usize = 256;
/// The label of the resources above the limit.
const OTHER: &str = "other";

/// The outcome of an Allocate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum AllocateResult {
    /// The devices were allocated.
    Granted,
    /// A device cannot be allocated now.
    Refused,
    /// The request is invalid.
    Failed,
}

/// What a poll of the kubelet's assignments reads.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PollSource {
    /// The pod resources API.
    PodResources,
    /// The checkpoint file.
    Checkpoint,
}

/// The words of the labels, in the order of the counters.
pub(super) const ALLOCATE_RESULTS: [&str; 3] = ["granted", "refused", "failed"];
pub(super) const PROBE_RESULTS: [&str; 6] = ["free", "held", "absent", "denied", "timeout", "error"];
pub(super) const POLL_SOURCES: [&str; 2] = ["pod_resources", "checkpoint"];
pub(super) const OUTCOMES: [&str; 2] = ["ok", "failed"];

/// The counters of the process.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Locked when a resource starts, when a health changes, and for a scrape to copy the pointers.
    resources: Mutex<BTreeMap<Arc<str>, Arc<ResourceCounters>>>,
    /// By [`PROBE_RESULTS`].
    pub(super) probes: [AtomicU64; PROBE_RESULTS.len()],
    /// By [`POLL_SOURCES`] and [`OUTCOMES`].
    pub(super) polls: [[AtomicU64; OUTCOMES.len()]; POLL_SOURCES.len()],
    /// Durations of passes of the monitor.
    pub(crate) passes: Histogram,
    /// Durations of probes' opens.
    pub(super) opens: Histogram,
    /// Durations of Allocate calls.
    pub(super) allocates: Histogram,
}

/// The counters of one resource.
#[derive(Debug, Default)]
pub(crate) struct ResourceCounters {
    /// By [`ALLOCATE_RESULTS`].
    pub(super) allocations: [AtomicU64; ALLOCATE_RESULTS.len()],
    /// By [`OUTCOMES`].
    pub(super) registrations: [AtomicU64; OUTCOMES.len()],
    /// By [`Reason::CODES`].
    pub(super) became_unhealthy: [AtomicU64; Reason::CODES.len()],
    pub(super) became_healthy: AtomicU64,
}

impl Counters {
    /// Returns the counters of a resource.
    pub(crate) fn of(&self, resource: &str) -> Arc<ResourceCounters> {
        let mut resources = self.resources.lock();
        if let Some(known) = resources.get(resource) {
            return Arc::clone(known);
        }
        let name = if resources.len() < MAX_RESOURCES { resource } else { OTHER };
        Arc::clone(resources.entry(name.into()).or_default())
    }

    /// Returns the counters of all resources.
    pub(super) fn resources(&self) -> Vec<(Arc<str>, Arc<ResourceCounters>)> {
        let resources = self.resources.lock();
        resources.iter().map(|(name, counters)| (Arc::clone(name), Arc::clone(counters))).collect()
    }

    /// Counts an Allocate of a resource.
    pub(crate) fn allocated(&self, resource: &ResourceCounters, result: AllocateResult, took: Duration) {
        count(resource.allocations.get(result as usize));
        self.allocates.record(took);
    }

    /// Counts a probe. `took` is the duration of the open; none if it was not made.
    pub(crate) fn probed(&self, result: Occupancy, took: Option<Duration>) {
        let place = match result {
            Occupancy::Free => 0,
            Occupancy::Held => 1,
            Occupancy::Absent => 2,
            Occupancy::Unknown(UnknownReason::Denied) => 3,
            Occupancy::Unknown(UnknownReason::TimedOut) => 4,
            // Another errno, or another reason why it is unknown.
            Occupancy::Unknown(_) => 5,
        };
        count(self.probes.get(place));
        if let Some(took) = took {
            self.opens.record(took);
        }
    }

    /// Counts a read of one of the kubelet's sources.
    pub(crate) fn polled(&self, source: PollSource, is_ok: bool) {
        count(self.polls.get(source as usize).and_then(|outcomes| outcomes.get(usize::from(!is_ok))));
    }
}

impl ResourceCounters {
    /// Counts a call of Register.
    pub(crate) fn registered(&self, is_ok: bool) {
        count(self.registrations.get(usize::from(!is_ok)));
    }

    /// Counts a change of a device's health. `reason` is why it is Unhealthy now; none if it is Healthy.
    pub(crate) fn health_changed(&self, reason: Option<&Reason>) {
        match reason {
            None => count(Some(&self.became_healthy)),
            Some(reason) => {
                let place = Reason::CODES.iter().position(|code| *code == reason.code());
                count(place.and_then(|place| self.became_unhealthy.get(place)));
            }
        }
    }
}

fn count(counter: Option<&AtomicU64>) {
    if let Some(counter) = counter {
        counter.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_of_resources_is_bounded() {
        let counters = Counters::default();
        for number in 0..MAX_RESOURCES * 2 {
            counters.of(&format!("a.b/{number}")).registered(true);
        }
        let resources = counters.resources();
        assert_eq!(resources.len(), MAX_RESOURCES + 1);
        let other = resources.iter().find(|(name, _)| **name == *OTHER).unwrap();
        let counted = other.1.registrations[0].load(Ordering::Relaxed);
        assert_eq!(counted, MAX_RESOURCES as u64);
    }

    #[test]
    fn each_outcome_has_its_own_counter() {
        let counters = Counters::default();
        let resource = counters.of("a.b/c");
        for (place, result) in
            [AllocateResult::Granted, AllocateResult::Refused, AllocateResult::Failed].into_iter().enumerate()
        {
            counters.allocated(&resource, result, Duration::ZERO);
            assert_eq!(resource.allocations[place].load(Ordering::Relaxed), 1, "{result:?}");
        }
        counters.polled(PollSource::Checkpoint, false);
        assert_eq!(counters.polls[1][1].load(Ordering::Relaxed), 1);
        counters.probed(Occupancy::Unknown(UnknownReason::Errno(5)), Some(Duration::ZERO));
        counters.probed(Occupancy::Unknown(UnknownReason::TimedOut), None);
        let probes = counters.probes.each_ref().map(|count| count.load(Ordering::Relaxed));
        assert_eq!(probes, [0, 0, 0, 0, 1, 1]);
        assert_eq!(counters.opens.values().count, 1);
    }
}
