//! The assignments at one moment, by device: the pod that a device is assigned to, and the pod that blocks it.

use crate::assignments::ledger::Ledger;
use crate::assignments::record::Assignment;
use crate::assignments::reserved::{AssignedDevices, AssignedResource, PinnedOffer};
use crate::device::DeviceState;
use std::collections::BTreeMap;
use std::sync::Arc;
use vfio_probe::{DeviceId, GroupId};

/// The assignments at one moment.
#[derive(Clone, Debug, Default)]
pub struct Assignments {
    /// Whether the assignments are known: the last poll got an answer from pod resources or from the checkpoint.
    pub known: bool,
    records: Vec<Assignment>,
    /// The index of a device's record.
    devices: BTreeMap<DeviceId, usize>,
    /// The index of a group's record, for the ids of older plugins, which are groups' numbers. They count within their resource
    /// only.
    groups: BTreeMap<(String, GroupId), usize>,
}

impl Assignments {
    /// Indexes the ledger's assignments.
    pub fn new(known: bool, ledger: &Ledger) -> Self {
        let records = ledger.assignments().to_vec();
        let (mut devices, mut groups) = (BTreeMap::new(), BTreeMap::new());
        for (index, record) in records.iter().enumerate() {
            for id in &record.device_ids {
                if let Ok(device) = id.parse::<DeviceId>() {
                    devices.insert(device, index);
                } else if let Ok(group) = id.parse::<GroupId>() {
                    groups.insert((record.resource.clone(), group), index);
                }
            }
        }
        Self { known, records, devices, groups }
    }

    /// Returns all assignments.
    pub fn records(&self) -> impl DoubleEndedIterator<Item = &Assignment> {
        self.records.iter()
    }

    /// Returns whether a stored answer names a node that is compared with [`crate::device::NodeSnapshot::special`].
    pub fn name_special_nodes(&self) -> bool {
        self.records.iter().any(|record| record.answer.names_special_nodes())
    }

    /// Returns the assignment of a device, under any resource.
    pub fn assignment(&self, device: &DeviceState) -> Option<&Assignment> {
        let by_group = || self.groups.get(&(device.resource.to_string(), device.device.group?));
        let by_group = if self.groups.is_empty() { None } else { by_group() };
        self.devices.get(&device.device.id).or(by_group).and_then(|&index| self.records.get(index))
    }

    /// Returns whether the device is assigned to a pod under its own resource, and so counts as requested of that resource.
    pub fn counts_as_requested(&self, device: &DeviceState) -> bool {
        self.assignment(device).is_some_and(|assignment| *assignment.resource == *device.resource)
    }

    /// Returns the assignment that keeps a device from other pods: that of a group peer, or its own under another resource, with
    /// the assigned device. `all` are the devices among which to search for peers.
    ///
    /// A peer allocated in the same call does not block the device: when the kubelet asks for one of them again, it has released
    /// both.
    pub fn blocker<'a>(
        &'a self,
        device: &DeviceState,
        all: impl IntoIterator<Item = &'a DeviceState>,
    ) -> Option<(DeviceId, &'a Assignment)> {
        let own = self.assignment(device);
        if let Some(assignment) = own.filter(|_| !self.counts_as_requested(device)) {
            return Some((device.device.id, assignment));
        }
        let group = device.device.group?;
        let peers = all.into_iter().filter(|peer| peer.device.group == Some(group));
        peers
            .filter(|peer| peer.device.id != device.device.id)
            .filter_map(|peer| Some((peer.device.id, self.assignment(peer)?)))
            .filter(|(_, assignment)| !assignment.device_ids.contains(&device.device.id.to_string()))
            .find(|(_, assignment)| !own.is_some_and(|own| own.shares_pod_with(assignment)))
    }

    /// Returns the assignment in which the device substitutes another one. The kubelet's checkpoint shows such a device as free.
    pub fn substituted_for(&self, device: &DeviceState) -> Option<&Assignment> {
        let index = *self.devices.get(&device.device.id)?;
        let id = device.device.id.to_string();
        self.records.get(index).filter(|record| !record.checkpoint_ids.contains(&id))
    }

    /// Returns the devices that substitute an id in the last assignment of the id. While that assignment exists, the kubelet
    /// requests the id only for the same pod: for another container that takes over the devices of an init container.
    pub fn substitutes_of<'a>(&'a self, resource: &'a str, id: &'a str) -> impl Iterator<Item = DeviceId> {
        let has_id = |record: &&Assignment| record.resource == resource && record.checkpoint_ids.contains(id);
        let last = self.records.iter().rev().find(has_id);
        let substitutes = last.into_iter().flat_map(|last| last.device_ids.difference(&last.checkpoint_ids));
        substitutes.filter_map(|id| id.parse().ok())
    }

    /// Returns the `namespace/name` of a pod with an assignment, by its uid.
    pub fn pod_name(&self, uid: &str) -> Option<&str> {
        let mut pods = self.records.iter().map(|record| &record.pod);
        pods.find(|pod| pod.uid.as_deref() == Some(uid) && pod.full_name.is_some())?.full_name.as_deref()
    }

    /// Returns whether nothing is assigned.
    pub fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    /// Returns the resource of each assigned device.
    fn resources(&self) -> BTreeMap<DeviceId, AssignedResource> {
        let mut known: BTreeMap<&str, Arc<str>> = BTreeMap::new();
        let mut resource = |(id, index): (&DeviceId, &usize)| {
            let record = self.records.get(*index)?;
            let name = known.entry(&record.resource).or_insert_with(|| record.resource.as_str().into());
            let is_of_this_plugin = record.is_of_this_plugin();
            Some((*id, AssignedResource { resource: Arc::clone(name), is_of_this_plugin }))
        };
        self.devices.iter().filter_map(&mut resource).collect()
    }

    /// Returns what the monitor must not probe and must keep offering as it is.
    pub fn reserved(&self) -> AssignedDevices {
        let pinned_offer = |(id, index): (&DeviceId, &usize)| {
            let record = self.records.get(*index)?;
            Some((*id, PinnedOffer { resource: record.resource.as_str().into(), pinned: record.pinned? }))
        };
        AssignedDevices {
            devices: self.devices.keys().copied().collect(),
            groups: self.groups.keys().map(|(_, group)| *group).collect(),
            pinned_offers: self.devices.iter().filter_map(pinned_offer).collect(),
            resources: self.resources(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::device_state;
    use std::collections::BTreeSet;
    use std::time::Instant;
    use vfio_probe::{Occupancy, Viability};

    const A: &str = "0000:01:00.0";
    const PEER: &str = "0000:01:00.1";
    const RESOURCE: &str = "nvidia.com/GPU";

    fn device(address: &str) -> DeviceState {
        device_state(address, 51, Occupancy::Free, Instant::now(), Viability::Viable, false)
    }

    /// Assignments by Allocates: resource, ids in the checkpoint, real devices.
    fn allocated(allocates: &[(&str, &[&str], &[&str])]) -> Assignments {
        let set = |ids: &[&str]| ids.iter().map(|&id| id.to_owned()).collect::<BTreeSet<_>>();
        let mut ledger = Ledger::default();
        for (resource, ids, real) in allocates {
            ledger.record_allocate(resource, set(ids), set(real), Default::default(), Instant::now());
        }
        Assignments::new(true, &ledger)
    }

    #[test]
    fn group_peer_of_another_pod_blocks_the_device() {
        let (a, peer) = (device(A), device(PEER));
        let all = [a.clone(), peer.clone()];
        let blocker = |assignments: &Assignments, device| {
            assignments.blocker(device, &all).map(|(id, _)| id.to_string())
        };
        let by_peer = allocated(&[(RESOURCE, &[PEER], &[PEER])]);
        assert_eq!(blocker(&by_peer, &a).as_deref(), Some(PEER));
        assert_eq!(blocker(&by_peer, &peer), None);
        let together = allocated(&[(RESOURCE, &[A, PEER], &[A, PEER])]);
        assert_eq!(blocker(&together, &a), None, "the kubelet has released both, or neither");
        // The pod with both has ended, and the next pod has the first device.
        let again = allocated(&[(RESOURCE, &[A, PEER], &[A, PEER]), (RESOURCE, &[A], &[A])]);
        assert_eq!(blocker(&again, &a), None);
        assert_eq!(blocker(&again, &peer).as_deref(), Some(A));
        let apart = allocated(&[(RESOURCE, &[A], &[A]), (RESOURCE, &[PEER], &[PEER])]);
        assert_eq!(blocker(&apart, &a).as_deref(), Some(PEER));
    }

    #[test]
    fn assignment_under_another_resource_blocks_the_device() {
        let a = device(A);
        let assignments = allocated(&[("example.com/gpu", &[A], &[A])]);
        assert!(assignments.assignment(&a).is_some() && !assignments.counts_as_requested(&a));
        assert_eq!(assignments.blocker(&a, []).map(|(id, _)| id), Some(a.device.id));
    }

    #[test]
    fn group_number_counts_for_its_own_resource_only() {
        let a = device(A);
        assert!(allocated(&[(RESOURCE, &["51"], &["51"])]).counts_as_requested(&a));
        assert!(allocated(&[("example.com/gpu", &["51"], &["51"])]).assignment(&a).is_none());
        assert_eq!(allocated(&[(RESOURCE, &["51"], &["51"])]).reserved().groups, [GroupId(51)]);
    }

    #[test]
    fn substitutes_are_known_both_ways() {
        let assignments = allocated(&[(RESOURCE, &["0000:09:00.0"], &[A])]);
        assert!(assignments.substituted_for(&device(A)).is_some());
        assert!(allocated(&[(RESOURCE, &[A], &[A])]).substituted_for(&device(A)).is_none());
        assert!(allocated(&[(RESOURCE, &["51"], &["51"])]).substituted_for(&device(A)).is_none());
        let substitutes =
            |id| assignments.substitutes_of(RESOURCE, id).map(|id| id.to_string()).collect::<Vec<_>>();
        assert_eq!(substitutes("0000:09:00.0"), [A]);
        assert!(substitutes(A).is_empty());
    }
}
