//! Pure: which of the available devices a pod had best be given.

use crate::assignments::index::Assignments;
use crate::device::{DeviceState, NodeSnapshot};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::time::Instant;
use vfio_probe::{GroupId, Occupancy};

/// Devices that had best go together: those of one group, or one that is not known.
struct Unit<'a> {
    ids: Vec<&'a String>,
    /// The lower the better.
    rank: Rank,
    node: Option<u16>,
    group: Option<GroupId>,
    /// Since when it is as it is.
    since: Option<Instant>,
}

/// How far a device can be given away. A kubelet without its checkpoint offers owned ones too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    /// Free and no pod's.
    Free,
    /// A pod's whose machine does not run: perhaps the very pod that asks.
    Owned,
    /// Held, or nobody can tell.
    Held,
    /// Not bound any more.
    Gone,
}

/// Chooses `size` of `available`, with all of `must_include` among them. Never fails: what it does not know comes last,
/// since an error would fail the admission (`callGetPreferredAllocationIfAvailable`).
///
/// Free before owned before held, which saves machines when the kubelet has lost its checkpoint; then whole groups, since what is left
/// of one is of no use to another pod; then the NUMA node that must be used anyway, or that has the fewest but enough free
/// ones, so that large requests find room later; then what was free longest, since what was freed a moment ago may be closing
/// still, or be reset. That counts in whole seconds from the one that was free first: all that was there when we started is as
/// good as the other, and goes by its id.
pub fn choose(
    snapshot: &NodeSnapshot,
    owners: &Assignments,
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
    let mut anchors = Vec::new();
    let mut begun = Vec::new();
    for view in chosen.iter().filter_map(|id| snapshot.device(id)) {
        anchors.push(view.device.numa_node);
        begun.extend(view.device.group);
    }
    let mut units = units(snapshot, owners, available, &chosen);
    let first = units.iter().filter_map(|unit| unit.since).min();
    while chosen.len() < size {
        let wanted = size - chosen.len();
        let mut room: BTreeMap<Option<u16>, usize> = BTreeMap::new();
        for unit in units.iter().filter(|unit| unit.rank == Rank::Free) {
            *room.entry(unit.node).or_default() += unit.ids.len();
        }
        let best = units.iter().enumerate().min_by_key(|(_, unit)| {
            let room = room.get(&unit.node).copied().unwrap_or(0);
            (
                unit.rank,
                !unit.group.is_some_and(|group| begun.contains(&group)),
                unit.ids.len() > wanted,
                !anchors.contains(&unit.node),
                // Nodes with room for all come first, the tightest of them; then the roomiest.
                if room < wanted { (true, Reverse(room), 0) } else { (false, Reverse(0), room) },
                Reverse(unit.ids.len()),
                unit.since.zip(first).map(|(since, first)| since.saturating_duration_since(first).as_secs()),
                (unit.node, unit.group, unit.ids.first().copied()),
            )
        });
        let Some((index, _)) = best else { break };
        let unit = units.swap_remove(index);
        anchors.push(unit.node);
        chosen.extend(unit.ids.into_iter().take(wanted).cloned());
    }
    chosen
}

fn units<'a>(
    snapshot: &NodeSnapshot,
    owners: &Assignments,
    available: &'a [String],
    chosen: &[String],
) -> Vec<Unit<'a>> {
    let mut left: Vec<&String> = available.iter().filter(|id| !chosen.contains(id)).collect();
    left.sort();
    left.dedup();
    let mut units: Vec<Unit<'_>> = Vec::new();
    for id in left {
        let view = snapshot.device(id);
        let group = view.and_then(|view| view.device.group);
        if let Some(unit) = units.iter_mut().find(|unit| group.is_some() && unit.group == group) {
            unit.ids.push(id);
        } else {
            units.push(Unit {
                ids: vec![id],
                rank: view.map_or(Rank::Gone, |view| rank(view, owners)),
                node: view.and_then(|view| view.device.numa_node),
                group,
                since: view.and_then(|view| Some(view.group.as_ref()?.since)),
            });
        }
    }
    units
}

fn rank(view: &DeviceState, owners: &Assignments) -> Rank {
    let free = view.group.as_ref().is_some_and(|group| group.occupancy == Occupancy::Free);
    match owners.assignment(view) {
        None if free => Rank::Free,
        Some(_) if free => Rank::Owned,
        _ => Rank::Held,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::assignments::ledger::Ledger;
    use crate::testing::view;
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use std::time::Duration;
    use vfio_probe::Viability;

    /// Devices by letter: NUMA node, held.
    fn snapshot(devices: &[(u8, u16, bool)]) -> NodeSnapshot {
        let devices = devices.iter().map(|&(bus, node, held)| {
            let occupancy = if held { Occupancy::Held } else { Occupancy::Free };
            let mut view =
                view(&address(bus), u32::from(bus), occupancy, Instant::now(), Viability::Viable, false);
            view.device.numa_node = Some(node);
            view
        });
        NodeSnapshot { devices: devices.collect(), vfio_visible: true, ..NodeSnapshot::default() }
    }

    fn address(bus: u8) -> String {
        format!("0000:{bus:02x}:00.0")
    }

    fn ids(buses: &[u8]) -> Vec<String> {
        buses.iter().map(|&bus| address(bus)).collect()
    }

    #[test]
    fn free_first_then_one_numa_node() {
        let node = snapshot(&[
            (1, 0, true),
            (2, 0, false),
            (3, 1, false),
            (4, 1, false),
            (5, 0, false),
            (6, 0, false),
        ]);
        let all = ids(&[1, 2, 3, 4, 5, 6]);
        for (must, size, expected) in [
            (vec![], 1, vec![3]),
            (vec![], 2, vec![3, 4]),
            (vec![], 3, vec![2, 5, 6]),
            (vec![2], 2, vec![2, 5]),
            (vec![1], 2, vec![1, 2]),
            (vec![], 6, vec![2, 5, 6, 3, 4, 1]),
        ] {
            assert_eq!(
                choose(&node, &Assignments::default(), &all, &ids(&must), size),
                ids(&expected),
                "{must:?} {size}"
            );
        }
    }

    #[test]
    fn a_kubelet_without_its_checkpoint_is_given_what_its_pods_do_not_run_on() {
        let node = snapshot(&[(1, 0, true), (2, 0, false), (3, 0, false)]);
        let mut ledger = Ledger::default();
        for bus in [1, 2] {
            let owned = BTreeSet::from([address(bus)]);
            ledger.record_allocate("r", owned.clone(), owned, Default::default(), Instant::now());
        }
        let owners = Assignments::new(true, &ledger);
        let all = ids(&[1, 2, 3, 4]);
        assert_eq!(choose(&node, &owners, &all, &[], 4), ids(&[3, 2, 1, 4]));
    }

    #[test]
    fn groups_stay_whole() {
        let devices = [("0000:01:00.0", 1), ("0000:01:00.1", 1), ("0000:02:00.0", 2), ("0000:03:00.0", 3)];
        let devices = devices.map(|(address, group)| {
            view(address, group, Occupancy::Free, Instant::now(), Viability::Viable, false)
        });
        let node = NodeSnapshot { devices: devices.to_vec(), vfio_visible: true, ..NodeSnapshot::default() };
        let all: Vec<String> = node.devices.iter().map(|view| view.device.id.to_string()).collect();
        for (must, size, expected) in [
            (&[][..], 1, &[2][..]),
            (&[], 2, &[0, 1]),
            (&[], 3, &[0, 1, 2]),
            (&[1], 2, &[1, 0]),
            (&[1], 3, &[1, 0, 2]),
            (&[2], 2, &[2, 3]),
        ] {
            let pick =
                |indices: &[usize]| indices.iter().map(|&index| all[index].clone()).collect::<Vec<_>>();
            assert_eq!(
                choose(&node, &Assignments::default(), &all, &pick(must), size),
                pick(expected),
                "{must:?} {size}"
            );
        }
    }

    /// The devices have been like this for so many milliseconds.
    fn aged(mut node: NodeSnapshot, ages: &[u64]) -> NodeSnapshot {
        let now = Instant::now();
        for (view, age) in node.devices.iter_mut().zip(ages) {
            view.group.as_mut().unwrap().since = now.checked_sub(Duration::from_millis(*age)).unwrap();
        }
        node
    }

    #[test]
    fn of_equals_the_one_that_was_free_longest() {
        let pick = |node: &NodeSnapshot, available: &[u8], size| {
            choose(node, &Assignments::default(), &ids(available), &[], size)
        };
        let four = || snapshot(&[(1, 0, false), (2, 0, false), (3, 0, false), (4, 0, false)]);
        // The first one was freed a second ago.
        let node = aged(four(), &[1_000, 60_000, 20_000, 60_000]);
        assert_eq!(pick(&node, &[1, 2, 3, 4], 4), ids(&[2, 4, 3, 1]));
        assert_eq!(pick(&node, &[1, 3], 1), ids(&[3]));
        // As they were found at the start, one after the other.
        let node = aged(four(), &[60_000, 60_003, 60_001, 60_002]);
        assert_eq!(pick(&node, &[1, 2, 3, 4], 4), ids(&[1, 2, 3, 4]));
        // A NUMA node with room for all, the tighter one, and a free device come first.
        let node = snapshot(&[
            (1, 0, false),
            (2, 0, false),
            (3, 1, false),
            (4, 1, false),
            (5, 1, false),
            (6, 1, true),
        ]);
        let node = aged(node, &[9_000, 9_000, 60_000, 5_000, 40_000, 90_000]);
        assert_eq!(pick(&node, &[1, 2, 3, 4, 5, 6], 1), ids(&[1]));
        assert_eq!(pick(&node, &[1, 2, 3, 4, 5, 6], 3), ids(&[3, 5, 4]));
        assert_eq!(pick(&node, &[4, 6], 2), ids(&[4, 6]));
        // So do whole groups.
        let (old, fresh) = (Instant::now().checked_sub(Duration::from_secs(60)).unwrap(), Instant::now());
        let devices = [("0000:01:00.0", 1, fresh), ("0000:01:00.1", 1, fresh), ("0000:02:00.0", 2, old)];
        let devices = devices.map(|(address, group, since)| {
            view(address, group, Occupancy::Free, since, Viability::Viable, false)
        });
        let node = NodeSnapshot { devices: devices.to_vec(), vfio_visible: true, ..NodeSnapshot::default() };
        let all: Vec<String> = node.devices.iter().map(|view| view.device.id.to_string()).collect();
        assert_eq!(choose(&node, &Assignments::default(), &all, &[], 2), all[..2]);
        assert_eq!(choose(&node, &Assignments::default(), &all, &[], 1), all[2..]);
    }

    proptest! {
        #[test]
        fn always_as_many_as_can_be_and_each_once(
            available in proptest::collection::vec(0_u8..12, 0..12),
            must in proptest::collection::vec(0_u8..12, 0..4),
            size in 0_usize..12,
        ) {
            let node = snapshot(&[(1, 0, true), (2, 0, false), (3, 1, false), (4, 1, true)]);
            let (available, must) = (ids(&available), ids(&must));
            let chosen = choose(&node, &Assignments::default(), &available, &must, size);
            let mut unique = available.clone();
            unique.sort();
            unique.dedup();
            prop_assert_eq!(chosen.len(), size.min(unique.len()));
            prop_assert!(chosen.iter().all(|id| available.contains(id)));
            let mut once = chosen.clone();
            once.sort();
            once.dedup();
            prop_assert_eq!(once.len(), chosen.len());
        }
    }
}
