//! Pure: which of the available devices a pod had best be given.

use crate::snapshot::{DeviceView, Snapshot};
use std::cmp::Reverse;
use std::collections::BTreeMap;
use vfio_probe::Occupancy;

/// Chooses `size` of `available`, with all of `must_include` among them. Never fails: what it does not know comes last,
/// since an error would fail the admission (`callGetPreferredAllocationIfAvailable`).
///
/// Free before held, which saves machines when the kubelet has lost its checkpoint; then whole groups together, on the
/// NUMA node that must be used anyway, or that has the fewest but enough free ones, so that large requests find room later.
pub(crate) fn choose(
    snapshot: &Snapshot,
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
    let node_of = |id: &String| snapshot.device(id).and_then(|view| view.device.numa_node);
    let mut left: Vec<&String> = available.iter().filter(|id| !chosen.contains(id)).collect();
    left.sort();
    left.dedup();
    let mut free_on: BTreeMap<Option<u16>, usize> = BTreeMap::new();
    for id in left.iter().filter(|id| snapshot.device(id).is_some_and(is_free)) {
        *free_on.entry(node_of(id)).or_default() += 1;
    }
    let wanted = size - chosen.len();
    let anchors: Vec<_> = chosen.iter().map(node_of).collect();
    let groups: Vec<_> = chosen.iter().filter_map(|id| snapshot.device(id)?.device.group).collect();
    left.sort_by_key(|id| {
        let view = snapshot.device(id);
        let node = node_of(id);
        let free = free_on.get(&node).copied().unwrap_or(0);
        let group = view.and_then(|view| view.device.group);
        (
            !view.is_some_and(is_free),
            view.is_none(),
            !group.is_some_and(|group| groups.contains(&group)),
            !anchors.contains(&node),
            // Nodes with room for all come first, the tightest of them; then the roomiest.
            free < wanted,
            if free < wanted { (Reverse(free), 0) } else { (Reverse(0), free) },
            node,
            group,
            *id,
        )
    });
    chosen.extend(left.into_iter().take(wanted).cloned());
    chosen
}

fn is_free(view: &DeviceView) -> bool {
    view.group.as_ref().is_some_and(|group| group.occupancy == Occupancy::Free)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::tests::view;
    use proptest::prelude::*;
    use std::time::Instant;
    use vfio_probe::Viability;

    /// Devices by letter: NUMA node, held.
    fn snapshot(devices: &[(u8, u16, bool)]) -> Snapshot {
        let devices = devices.iter().map(|&(bus, node, held)| {
            let occupancy = if held { Occupancy::Held } else { Occupancy::Free };
            let mut view =
                view(&address(bus), u32::from(bus), occupancy, Instant::now(), Viability::Viable, false);
            view.device.numa_node = Some(node);
            view
        });
        Snapshot { devices: devices.collect(), vfio_visible: true, errors: Vec::new() }
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
            assert_eq!(choose(&node, &all, &ids(&must), size), ids(&expected), "{must:?} {size}");
        }
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
            let chosen = choose(&node, &available, &must, size);
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
