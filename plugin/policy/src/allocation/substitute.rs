//! Chooses the devices that can substitute held ones.

use super::{Plan, check_usable, preferred};
use crate::assignments::index::Assignments;
use crate::device::{DeviceState, NodeSnapshot};
use std::collections::BTreeSet;
use vfio_probe::{DeviceId, Occupancy};

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
    let requested: Vec<&DeviceState> = plan.devices().collect();
    let is_candidate = |device: &&DeviceState| {
        let id = device.device.id;
        let free = device.group.as_ref().is_some_and(|group| group.occupancy == Occupancy::Free);
        &*device.resource == resource
            && free
            && check_usable(device).is_ok()
            && !requested.iter().any(|requested| requested.device.group == device.device.group)
            && assignments.assignment(device).is_none()
            && assignments.blocker(device, &snapshot.devices).is_none()
            && !allocated.contains(&id.to_string())
    };
    let ids = |devices: &mut dyn Iterator<Item = &DeviceState>| {
        devices.map(|device| device.device.id.to_string()).collect::<Vec<_>>()
    };
    let free = ids(&mut snapshot.devices.iter().filter(is_candidate));
    // The choice includes the requested devices, so that substitutes come from their NUMA node.
    let requested_ids = ids(&mut requested.iter().copied());
    let all: Vec<String> = requested_ids.iter().chain(&free).cloned().collect();
    let chosen = preferred::choose(snapshot, assignments, &all, &requested_ids, all.len());
    let chosen = chosen.iter().filter(|id| !requested_ids.contains(id)).filter_map(|id| id.parse().ok());
    let earlier = requested_ids.iter().flat_map(|id| assignments.substitutes_of(resource, id));
    let earlier = earlier.filter(|id| snapshot.get(*id).is_some_and(|device| check_usable(device).is_ok()));
    let is_requested = |id: &DeviceId| requested.iter().any(|requested| requested.device.id == *id);
    earlier.filter(|id| !is_requested(id)).chain(chosen).collect()
}
