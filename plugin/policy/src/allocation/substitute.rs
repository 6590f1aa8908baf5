//! Which devices can take the place of a held one.

use super::{Plan, preferred, usable};
use crate::assignments::index::Assignments;
use crate::device::{DeviceState, NodeSnapshot};
use std::collections::BTreeSet;
use vfio_probe::{DeviceId, Occupancy};

/// Devices that could take the place of held ones, best first: what was given in their place before, to an init container
/// that hands it on; then what is free, of the same pool, nobody's by any book.
///
/// `given` is what the kubelet's checkpoint shows as given (`AllocResp`), which after an earlier substitution is not what
/// the kubelet's books say.
pub fn candidates(
    resource: &str,
    plan: &Plan<'_>,
    snapshot: &NodeSnapshot,
    owners: &Assignments,
    given: &BTreeSet<String>,
) -> Vec<DeviceId> {
    let wanted: Vec<&DeviceState> =
        plan.containers.iter().flat_map(|container| container.views.iter().copied()).collect();
    let fits = |view: &&DeviceState| {
        let id = view.device.id;
        let free = view.group.as_ref().is_some_and(|group| group.occupancy == Occupancy::Free);
        &*view.resource == resource
            && free
            && usable(view).is_ok()
            && !wanted.iter().any(|wanted| wanted.device.group == view.device.group)
            && owners.assignment(view).is_none()
            && owners.blocker(view, &snapshot.devices).is_none()
            && !given.contains(&id.to_string())
    };
    let available: Vec<String> =
        snapshot.devices.iter().filter(fits).map(|view| view.device.id.to_string()).collect();
    // Beside what is wanted anyway, for its NUMA node.
    let must: Vec<String> = wanted.iter().map(|view| view.device.id.to_string()).collect();
    let all: Vec<String> = must.iter().chain(&available).cloned().collect();
    let chosen = preferred::choose(snapshot, owners, &all, &must, all.len());
    let chosen = chosen.iter().filter(|id| !must.contains(id)).filter_map(|id| id.parse().ok());
    let again = must.iter().flat_map(|id| owners.substitutes_of(resource, id));
    let again = again.filter(|id| snapshot.of(*id).is_some_and(|view| usable(view).is_ok()));
    again.filter(|id| !wanted.iter().any(|wanted| wanted.device.id == *id)).chain(chosen).collect()
}
