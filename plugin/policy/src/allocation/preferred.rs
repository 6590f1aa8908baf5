//! Chooses which of the available devices a pod should get.

use crate::assignments::index::Assignments;
use crate::device::{DeviceState, NodeSnapshot};
use crate::kubelet_id::KubeletDeviceId;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use vfio_probe::{GroupId, Occupancy};

/// An available device.
struct Member<'a> {
    group: Option<GroupId>,
    id: KubeletDeviceId,
    /// None if it is not bound.
    device: Option<&'a DeviceState>,
}

/// Available devices that should go together: those of one group, or one device whose group is not known.
type Unit<'a> = &'a [Member<'a>];

/// What of a unit decides how it ranks. Units with the same value differ only in their group and ids.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Kind {
    rank: Rank,
    /// Whether no device of the unit's group is chosen.
    is_new_group: bool,
    size: usize,
    /// Seconds after the first unit, since when the occupancy has its value.
    since: Option<u64>,
    numa_node: Option<u16>,
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
    available: &[KubeletDeviceId],
    must_include: &[KubeletDeviceId],
    size: usize,
) -> Vec<KubeletDeviceId> {
    let mut left: Vec<KubeletDeviceId> = available.to_vec();
    left.sort_unstable();
    left.dedup();
    let size = size.min(left.len());
    let (mut chosen, mut known) = (Vec::with_capacity(size), BTreeSet::new());
    for id in must_include.iter().filter(|id| left.binary_search(id).is_ok()) {
        if chosen.len() < size && known.insert(*id) {
            chosen.push(*id);
        }
    }
    left.retain(|id| !known.contains(id));
    let (mut used_nodes, mut used_groups) = (BTreeSet::new(), BTreeSet::new());
    for device in chosen.iter().filter_map(|id| snapshot.get(id.device()?)) {
        used_nodes.insert(device.device.numa_node);
        used_groups.extend(device.device.group);
    }
    let mut members = members(snapshot, &left);
    members.sort_unstable_by_key(|member| (member.group, member.id));
    let since = |member: &Member<'_>| Some(member.device?.group.as_ref()?.since);
    let first = members.iter().filter_map(since).min();
    let mut room: BTreeMap<Option<u16>, usize> = BTreeMap::new();
    let mut kinds: BTreeMap<Kind, VecDeque<Unit<'_>>> = BTreeMap::new();
    // In the order of groups and ids, so the first unit of each kind is the best of it.
    for unit in members.chunk_by(|one, other| one.group.is_some() && one.group == other.group) {
        let Some(member) = unit.first() else { continue };
        let kind = Kind {
            rank: member.device.map_or(Rank::Gone, |device| rank(device, assignments)),
            is_new_group: !member.group.is_some_and(|group| used_groups.contains(&group)),
            size: unit.len(),
            since: since(member)
                .zip(first)
                .map(|(since, first)| since.saturating_duration_since(first).as_secs()),
            numa_node: member.device.and_then(|device| device.device.numa_node),
        };
        if kind.rank == Rank::Free {
            *room.entry(kind.numa_node).or_default() += kind.size;
        }
        kinds.entry(kind).or_default().push_back(unit);
    }
    while chosen.len() < size {
        let wanted = size - chosen.len();
        let best = kinds.iter().min_by_key(|(kind, units)| {
            let room = room.get(&kind.numa_node).copied().unwrap_or(0);
            (
                kind.rank,
                kind.is_new_group,
                kind.size > wanted,
                !used_nodes.contains(&kind.numa_node),
                // NUMA nodes with room for all come first, the tightest of them; then the roomiest.
                if room < wanted { (true, Reverse(room), 0) } else { (false, Reverse(0), room) },
                Reverse(kind.size),
                kind.since,
                (
                    kind.numa_node,
                    units.front().and_then(|unit| unit.first()).map(|member| (member.group, member.id)),
                ),
            )
        });
        let Some(kind) = best.map(|(kind, _)| *kind) else { break };
        let Some(unit) = kinds.get_mut(&kind).and_then(VecDeque::pop_front) else { break };
        if kinds.get(&kind).is_some_and(VecDeque::is_empty) {
            kinds.remove(&kind);
        }
        if kind.rank == Rank::Free
            && let Some(room) = room.get_mut(&kind.numa_node)
        {
            *room -= kind.size;
        }
        used_nodes.insert(kind.numa_node);
        chosen.extend(unit.iter().take(wanted).map(|member| member.id));
    }
    chosen
}

/// Returns the devices of ids. Both the ids and the snapshot's devices are in order, so one walk over both finds all.
fn members<'a>(snapshot: &'a NodeSnapshot, ids: &[KubeletDeviceId]) -> Vec<Member<'a>> {
    let mut bound = snapshot.devices.iter().peekable();
    let member = |id: &KubeletDeviceId| {
        let wanted = id.device();
        let device = wanted.and_then(|wanted| {
            while bound.next_if(|device| device.device.id < wanted).is_some() {}
            bound.next_if(|device| device.device.id == wanted)
        });
        Member { group: device.and_then(|device| device.device.group), id: *id, device }
    };
    ids.iter().map(member).collect()
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
