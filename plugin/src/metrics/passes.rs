//! Takes the facts of each pass from the publisher, and hands them to scrapes.

use crate::metrics::Metrics;
use std::collections::BTreeSet;
use std::sync::Arc;
use vfio_plugin_policy::assignments::index::Assignments;
use vfio_plugin_policy::device::NodeSnapshot;
use vfio_plugin_policy::metrics::history::HeldAfterPod;
use vfio_plugin_policy::metrics::{Pass, Reported};
use vfio_probe::{DeviceId, GroupId};

/// What is kept from one pass to the next. Only the publishing task uses it.
#[derive(Debug, Default)]
pub(super) struct PassSource {
    reported: Arc<Reported>,
    held_after_pod: HeldAfterPod,
}

/// A finished pass.
pub(crate) struct FinishedPass<'a> {
    pub(crate) snapshot: &'a Arc<NodeSnapshot>,
    pub(crate) assignments: &'a Arc<Assignments>,
    /// The groups that Allocate refused.
    pub(crate) contested: BTreeSet<GroupId>,
    /// The devices whose assignments have changed. None if anything may have changed.
    pub(crate) assigned: Option<&'a [DeviceId]>,
    /// What was reported to the kubelet. None if that has not changed.
    pub(crate) reported: Option<Reported>,
}

impl Metrics {
    /// Takes in a pass. After an Allocate its cost does not depend on the number of devices.
    pub(crate) fn finished(&self, pass: FinishedPass<'_>) {
        let mut source = self.source.lock();
        if let Some(reported) = pass.reported {
            source.reported = Arc::new(reported);
        }
        match pass.assigned {
            Some(ids) => source.held_after_pod.assigned(ids),
            None => source.held_after_pod.update(pass.snapshot, pass.assignments),
        }
        let facts = Pass {
            snapshot: Arc::clone(pass.snapshot),
            assignments: Arc::clone(pass.assignments),
            reported: Arc::clone(&source.reported),
            contested: pass.contested,
            held_after_pod: source.held_after_pod.devices(),
        };
        self.passes.send_replace(Some(Arc::new(facts)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use allocation_counter::measure;
    use std::time::Instant;
    use vfio_plugin_policy::health::tracker::{Facts, HealthTracker, Policy};
    use vfio_plugin_policy::pools::terms::Busy;
    use vfio_plugin_policy::testing::{allocated, node_of};

    /// Counts the memory allocations of taking in the pass after an Allocate of one device, on a node with `size`.
    fn allocations(size: u32) -> u64 {
        let snapshot = node_of(size);
        let assignments = Arc::new(allocated(&snapshot));
        let mut tracker = HealthTracker::default();
        let settling = std::time::Duration::from_secs(3);
        let policy = Policy { busy: Busy::Attributed, settling, check_node: true };
        let gone = BTreeSet::new();
        let facts =
            Facts { snapshot: &snapshot, assignments: &assignments, gone: &gone, now: Instant::now() };
        tracker.decide(policy, &facts);
        let (snapshot, metrics) = (Arc::new(snapshot), Metrics::new());
        let ids = [snapshot.devices[0].device.id];
        let finished = |reported, assigned| {
            let contested = BTreeSet::new();
            let (snapshot, assignments) = (&snapshot, &assignments);
            metrics.finished(FinishedPass { snapshot, assignments, contested, assigned, reported });
        };
        finished(Some(Reported::new(&tracker, &snapshot)), None);
        finished(None, Some(&ids[..]));
        let counted = measure(|| finished(None, Some(&ids[..]))).count_total;
        assert_eq!(metrics.latest_pass().unwrap().values().devices.len(), size as usize);
        counted
    }

    #[test]
    fn pass_after_an_allocate_costs_the_same_on_any_node() {
        let costs = [8, 256, 1024].map(allocations);
        assert_eq!(costs, [1; 3], "one pointer's target");
    }
}
