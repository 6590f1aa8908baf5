//! Chooses which of the available devices a pod should get.

use crate::assignments::index::Assignments;
use crate::device::{DeviceState, NodeSnapshot};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Instant;
use vfio_probe::{GroupId, Occupancy};

/// Available devices that should go together: those of one group, or one device whose group is not known.
struct Unit<'a> {
    ids: Vec<&'a String>,
    /// The lower, the better.
    rank: Rank,
    numa_node: Option<u16>,
    group: Option<GroupId>,
    /// Since when the group's occupancy has its value.
    since: Option<Instant>,
}

/// How well a device can be allocated. A kubelet that lost its checkpoint offers assigned devices too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// Free and assigned to no pod.
    Free,
    /// Free and assigned to a pod, perhaps to the pod that asks.
    Assigned,
    /// Held, or the occupancy is unknown.
    Held,
    /// No longer bound.
    Gone,
}

/// Chooses `size` of the `available` ids, with all of `must_include` among them. Returns fewer only if fewer are available. Never
/// fails, because an error would fail the pod's admission (`callGetPreferredAllocationIfAvailable`): unknown ids come last.
///
/// The order:
/// 1. Free devices, then assigned ones, then held ones. This protects VMs if the kubelet lost its checkpoint.
/// 2. Groups of which a device is chosen already, and whole groups: the rest of a group is of no use to another pod.
/// 3. NUMA nodes that are used already. Then the node with the fewest free devices that suffice, which leaves room for large
///    requests.
/// 4. Devices that are free for the longest time: a device freed a moment ago may still be closing or be reset. Times are
///    compared in whole seconds after the first one, so that devices found at the start are equal.
/// 5. The lowest id.
pub fn choose(
    snapshot: &NodeSnapshot,
    assignments: &Assignments,
    available: &[String],
    must_include: &[String],
    size: usize,
) -> Vec<String> {
    let mut chosen: Vec<String> = Vec::with_capacity(size);
    for id in must_include.iter().filter(|id| available.contains(id)) {
        if !chosen.contains(id) && chosen.len() < size {
            chosen.push(id.clone());
        }
    }
    let (mut used_nodes, mut used_groups) = (Vec::new(), Vec::new());
    for device in chosen.iter().filter_map(|id| snapshot.device(id)) {
        used_nodes.push(device.device.numa_node);
        used_groups.extend(device.device.group);
    }
    let mut units = units(snapshot, assignments, available, &chosen);
    let first = units.iter().filter_map(|unit| unit.since).min();
    while chosen.len() < size {
        let wanted = size - chosen.len();
        let mut room: BTreeMap<Option<u16>, usize> = BTreeMap::new();
        for unit in units.iter().filter(|unit| unit.rank == Rank::Free) {
            *room.entry(unit.numa_node).or_default() += unit.ids.len();
        }
        let best = units.iter().enumerate().min_by_key(|(_, unit)| {
            let room = room.get(&unit.numa_node).copied().unwrap_or(0);
            (
                unit.rank,
                !unit.group.is_some_and(|group| used_groups.contains(&group)),
                unit.ids.len() > wanted,
                !used_nodes.contains(&unit.numa_node),
                // NUMA nodes with room for all come first, the tightest of them; then the roomiest.
                if room < wanted { (true, Reverse(room), 0) } else { (false, Reverse(0), room) },
                Reverse(unit.ids.len()),
                unit.since.zip(first).map(|(since, first)| since.saturating_duration_since(first).as_secs()),
                (unit.numa_node, unit.group, unit.ids.first().copied()),
            )
        });
        let Some((index, _)) = best else { break };
        let unit = units.swap_remove(index);
        used_nodes.push(unit.numa_node);
        chosen.extend(unit.ids.into_iter().take(wanted).cloned());
    }
    chosen
}

/// Returns the available devices that are not chosen yet, by group.
fn units<'a>(
    snapshot: &NodeSnapshot,
    assignments: &Assignments,
    available: &'a [String],
    chosen: &[String],
) -> Vec<Unit<'a>> {
    let mut left: Vec<&String> = available.iter().filter(|id| !chosen.contains(id)).collect();
    left.sort();
    left.dedup();
    let mut units: Vec<Unit<'_>> = Vec::new();
    for id in left {
        let device = snapshot.device(id);
        let group = device.and_then(|device| device.device.group);
        if let Some(unit) = units.iter_mut().find(|unit| group.is_some() && unit.group == group) {
            unit.ids.push(id);
        } else {
            units.push(Unit {
                ids: vec![id],
                rank: device.map_or(Rank::Gone, |device| rank(device, assignments)),
                numa_node: device.and_then(|device| device.device.numa_node),
                group,
                since: device.and_then(|device| Some(device.group.as_ref()?.since)),
            });
        }
    }
    units
}

fn rank(device: &DeviceState, assignments: &Assignments) -> Rank {
    let free = device.group.as_ref().is_some_and(|group| group.occupancy == Occupancy::Free);
    match assignments.assignment(device) {
        None if free => Rank::Free,
        Some(_) if free => Rank::Assigned,
        _ => Rank::Held,
    }
}

#[cfg(test)]
mod tests;
