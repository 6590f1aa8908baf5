//! Keeps pods away from devices that a stale answer names, and refuses to start a container with one.
//!
//! The kubelet calls PreStartContainer before it creates a container, the first time and every later time
//! (`callPreStartContainerIfNeeded`), and gives up after 30 s. An error keeps the container from being created, and the kubelet
//! tries again. The call names devices and no pod.

use crate::allocate::allocator::Allocator;
use crate::kubelet::checkpoint;
use crate::kubelet::kept::OfferedResources;
use crate::node::special_nodes::with_special_nodes;
use std::collections::BTreeSet;
use std::sync::Arc;
use tonic::Status;
use vfio_plugin_policy::allocation::AllocateError;
use vfio_plugin_policy::assignments::record::{Assignment, PodRef};
use vfio_plugin_policy::assignments::stored_answer::stale::{Mismatch, compare, has_current_answer};
use vfio_plugin_policy::device::{DeviceState, NodeSnapshot};
use vfio_plugin_policy::health::reason::Reason;
use vfio_probe::device::Detail;
use vfio_probe::{Buffer, DeviceId, Root};

impl Allocator {
    /// Refuses a device whose node the kubelet's stored answer gives to another pod.
    ///
    /// # Errors
    /// There is such an answer. It names the pod to delete.
    pub(super) fn check_stale_answers(&self, device: &DeviceState) -> Result<(), AllocateError> {
        let device = device.device.id;
        match self.publisher.stale_answer_of_another_pod(device) {
            None => Ok(()),
            Some(reason) => Err(AllocateError::StaleAnswer { device, reason: Box::new(reason) }),
        }
    }

    /// Answers PreStartContainer for a container with these devices.
    ///
    /// The first start follows an Allocate of this process, and a later one usually an unchanged node: both cost no system call.
    /// Otherwise reads the checkpoint, and the devices' groups from sysfs.
    ///
    /// # Errors
    /// FAILED_PRECONDITION if every answer that the checkpoint stores for these devices is stale. What cannot be checked is no error.
    pub(crate) fn pre_start(&self, ids: &[String]) -> Result<(), Status> {
        let ids: BTreeSet<String> = ids.iter().cloned().collect();
        let snapshot = self.snapshot();
        let assignments = self.assignments.current();
        let is_this =
            |record: &&Assignment| record.checkpoint_ids == ids && *record.resource == *self.resource;
        let first = ids.first().and_then(|id| snapshot.get(id.parse().ok()?));
        let latest = first.and_then(|device| assignments.assignment(device)).filter(is_this);
        if latest.is_some_and(|record| record.was_just_allocated() || has_current_answer(record, &snapshot)) {
            return Ok(());
        }
        let pod = assignments.records().rfind(is_this).map(|record| &record.pod);
        match self.stale_answer(&ids, snapshot) {
            None => Ok(()),
            Some(mismatch) => Err(self.refuse_start(pod, &mismatch)),
        }
    }

    /// Returns a difference of the stored answers, if each answer that the checkpoint stores for these ids has one. Several containers
    /// of a pod may have the same devices, and the checkpoint may still name a pod that has ended.
    fn stale_answer(&self, ids: &BTreeSet<String>, mut snapshot: Arc<NodeSnapshot>) -> Option<Mismatch> {
        let offered = OfferedResources::known(BTreeSet::from([self.resource.clone()]));
        let entries = checkpoint::read(&self.kubelet_dir, &offered).ok()?;
        let of_these = entries.iter().filter(|entry| entry.ids == *ids && *entry.resource == *self.resource);
        let mut found = None;
        for entry in of_these {
            // The snapshot may be as old as an interval.
            for id in entry.devices().iter().filter_map(|id| id.parse().ok()) {
                refresh(&self.monitor.root, Arc::make_mut(&mut snapshot), id);
            }
            let answer = entry.answer();
            let now = with_special_nodes(&self.monitor.root, &snapshot, answer.names_special_nodes());
            let mismatches = compare(&answer, entry.devices(), &self.resource, &now);
            found = Some(mismatches.into_iter().next()?);
        }
        found
    }

    fn refuse_start(&self, pod: Option<&PodRef>, mismatch: &Mismatch) -> Status {
        let device = mismatch.device;
        let pod = pod.filter(|pod| !pod.is_being_admitted());
        let pod = pod.map_or_else(|| "its pod".to_owned(), ToString::to_string);
        let stored = mismatch.stored.to_string();
        let reason = Reason::StaleAnswer { pod, stored, now: mismatch.now.as_ref().map(ToString::to_string) };
        // The publisher has warned of it. The kubelet tries again and again.
        tracing::debug!(resource = %self.resource, %device, detail = %reason, "refused to start a container");
        Status::failed_precondition(format!("{device}: {reason}"))
    }
}

/// Reads a device's group and cdev again. What cannot be read stays as it is.
fn refresh(root: &Root, snapshot: &mut NodeSnapshot, id: DeviceId) {
    let Some(state) = snapshot.devices.iter_mut().find(|state| state.device.id == id) else { return };
    let Ok(record) = root.device(id, Detail::Identity) else { return };
    state.device.group = record.group;
    let Some(group) = record.group else { return };
    let cdevs = root.cdevs(group, &mut Buffer::new()).unwrap_or_default();
    if let Some((_, number)) = cdevs.into_iter().find(|(member, _)| *member == id) {
        state.device.cdev = number.or(state.device.cdev);
    }
}
