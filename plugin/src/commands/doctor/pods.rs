//! Looks up which pod a device is assigned to, and says what is missing for an answer.

use crate::status::report::{ClaimReport, DeviceReport, HolderReport};
use vfio_plugin_policy::assignments::index::Assignments;
use vfio_plugin_policy::assignments::record::{Assignment, PodRef};
use vfio_plugin_policy::device::DeviceState;
use vfio_plugin_policy::holders::in_words;

/// The pods of devices, from the kubelet's answers of now and from a running `serve`.
pub(super) struct PodLookup<'a> {
    assignments: Assignments,
    /// Whether pod resources listed at least one pod.
    listed: bool,
    /// What the lookup lacks, in words. Only without a gap does "not found" mean "assigned to no pod".
    pub(super) gaps: Vec<String>,
    reported: &'a [DeviceReport],
    /// Whether the node runs no kubelet, so that no device is assigned to a pod, and held ones are in use.
    is_outside: bool,
}

/// The pod that a device is assigned to.
pub(super) enum PodOf {
    /// This one.
    Assigned(PodRef),
    /// The pods of this prepared claim.
    Claimed(ClaimReport),
    /// This one by the checkpoint; pod resources list no pod with the device.
    Unlisted(PodRef),
    /// None: both sources of the kubelet answered, and neither they nor `serve` name a pod.
    None,
    /// No source names a pod, and one of them did not answer.
    NotKnown,
    /// The node runs no kubelet.
    OutsideKubernetes,
}

impl<'a> PodLookup<'a> {
    /// Returns the lookup with the kubelet's answers.
    pub(super) fn new(
        assignments: Assignments,
        listed: bool,
        gaps: Vec<String>,
        reported: &'a [DeviceReport],
    ) -> Self {
        Self { assignments, listed, gaps, reported, is_outside: false }
    }

    /// Returns the lookup for a node without a kubelet.
    pub(super) fn outside_kubernetes() -> Self {
        Self { is_outside: true, ..Self::new(Assignments::default(), false, Vec::new(), &[]) }
    }
}

impl PodLookup<'_> {
    /// Returns the pod that a device is assigned to.
    pub(super) fn of(&self, device: &DeviceState) -> PodOf {
        let address = device.device.id.to_string();
        let reported = self.reported.iter().find(|reported| reported.address == address);
        if let Some(claim) = reported.and_then(|reported| reported.claim.as_ref()) {
            return PodOf::Claimed(claim.clone());
        }
        let reported = reported.and_then(|reported| reported.assignment.as_ref());
        match (self.assignments.assignment(device), reported) {
            // A checkpoint entry that no list has confirmed.
            (Some(assignment), None) if self.listed && assignment.confirmed.is_none() => {
                PodOf::Unlisted(assignment.pod.clone())
            }
            (Some(assignment), _) => PodOf::Assigned(assignment.pod.clone()),
            (None, Some(reported)) => PodOf::Assigned(reported.pod_ref()),
            (None, None) if self.is_outside => PodOf::OutsideKubernetes,
            (None, None) if self.gaps.is_empty() => PodOf::None,
            (None, None) => PodOf::NotKnown,
        }
    }

    /// Returns all assignments that the kubelet shows.
    pub(super) fn assignments(&self) -> &Assignments {
        &self.assignments
    }

    /// Returns whether the list of pods shows the assignment, or there is no list to compare with.
    pub(super) fn shows(&self, assignment: &Assignment) -> bool {
        !self.listed || assignment.confirmed.is_some()
    }

    /// Returns holders in words; pods are named by `namespace/name` where that is known.
    pub(super) fn describe(&self, holders: &[HolderReport]) -> String {
        in_words(holders.iter().map(|holder| {
            let pod = holder.pod_uid.as_deref().map(|uid| self.assignments.pod_name(uid).unwrap_or(uid));
            (holder.pid, &holder.command, pod)
        }))
    }
}
