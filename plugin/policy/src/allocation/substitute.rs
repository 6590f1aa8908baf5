//! Chooses the devices that can substitute held ones.

use super::{Plan, check_usable, preferred};
use crate::assignments::index::Assignments;
use crate::device::{DeviceState, NodeSnapshot};
use crate::kubelet_id::KubeletDeviceId;
use crate::pools::terms::OfferBy;
use std::collections::BTreeSet;
use vfio_probe::{DeviceId, GroupId, Occupancy};

/// Returns the devices that could substitute held ones, best first.
///
/// First come earlier substitutes of the requested ids, which an init container hands on. Then come free devices of the same
/// resource that are assigned to no pod and allocated by no container.
///
/// `allocated` are the ids in the responses that the kubelet's checkpoint keeps (`AllocResp`). After an earlier substitution they
/// are not the ids that the checkpoint names as allocated.
pub fn candidates(
    resource: &str,
    plan: &Plan<'_>,
    snapshot: &NodeSnapshot,
    assignments: &Assignments,
    allocated: &BTreeSet<String>,
) -> Vec<DeviceId> {
    let requested: BTreeSet<DeviceId> = plan.devices().map(|device| device.device.id).collect();
    let groups: BTreeSet<Option<GroupId>> = plan.devices().map(|device| device.device.group).collect();
    let is_candidate = |device: &&DeviceState| {
        let free = device.group.as_ref().is_some_and(|group| group.occupancy == Occupancy::Free);
        &*device.resource == resource
            && device.terms.offer == OfferBy::DevicePlugin
            && free
            && check_usable(device).is_ok()
            && !groups.contains(&device.device.group)
            && assignments.assignment(device).is_none()
            && assignments.blocker(device, snapshot.in_group_of(device)).is_none()
            && !allocated.contains(&device.device.id.to_string())
    };
    let free = snapshot.devices.iter().filter(is_candidate).map(|device| device.device.id);
    // The choice includes the requested devices, so that substitutes come from their NUMA node.
    let requested_ids: Vec<KubeletDeviceId> =
        plan.devices().map(|device| KubeletDeviceId::Device(device.device.id)).collect();
    let mut all = requested_ids.clone();
    all.extend(free.map(KubeletDeviceId::Device));
    let chosen = preferred::choose(snapshot, assignments, &all, &requested_ids, all.len());
    let chosen = chosen.into_iter().filter_map(KubeletDeviceId::device);
    let earlier = plan.devices().flat_map(|device| assignments.substitutes_of(resource, device.device.id));
    let earlier = earlier.filter(|id| snapshot.get(*id).is_some_and(|device| check_usable(device).is_ok()));
    earlier.chain(chosen).filter(|id| !requested.contains(id)).collect()
}
