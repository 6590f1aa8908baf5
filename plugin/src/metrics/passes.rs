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
