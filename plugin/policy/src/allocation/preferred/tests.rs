//! Tests of the order in which devices are preferred.

use super::*;
use crate::assignments::ledger::Ledger;
use crate::testing::device_state;
use proptest::prelude::*;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use vfio_probe::Viability;

/// Returns a node with these devices: bus number, NUMA node, held.
fn snapshot(devices: &[(u8, u16, bool)]) -> NodeSnapshot {
    let devices = devices.iter().map(|&(bus, numa_node, held)| {
        let occupancy = if held { Occupancy::Held } else { Occupancy::Free };
        let mut device =
            device_state(&address(bus), u32::from(bus), occupancy, Instant::now(), Viability::Viable, false);
        device.device.numa_node = Some(numa_node);
        device
    });
    NodeSnapshot { devices: devices.collect(), vfio_visible: true, ..NodeSnapshot::default() }
}

fn address(bus: u8) -> String {
    format!("0000:{bus:02x}:00.0")
}

fn ids(buses: &[u8]) -> Vec<KubeletDeviceId> {
    buses.iter().map(|&bus| address(bus).parse().unwrap()).collect()
}

#[test]
fn free_devices_come_first_then_one_numa_node() {
    let node =
        snapshot(&[(1, 0, true), (2, 0, false), (3, 1, false), (4, 1, false), (5, 0, false), (6, 0, false)]);
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
fn devices_of_running_pods_come_after_free_ones() {
    let node = snapshot(&[(1, 0, true), (2, 0, false), (3, 0, false)]);
    let mut ledger = Ledger::default();
    for bus in [1, 2] {
        let ids = BTreeSet::from([address(bus)]);
        ledger.record_allocate("r", ids.clone(), ids, Default::default(), Instant::now());
    }
    let assignments = Assignments::new(true, &ledger);
    let all = ids(&[1, 2, 3, 4]);
    assert_eq!(choose(&node, &assignments, &all, &[], 4), ids(&[3, 2, 1, 4]));
}

#[test]
fn whole_groups_are_chosen_together() {
    let devices = [("0000:01:00.0", 1), ("0000:01:00.1", 1), ("0000:02:00.0", 2), ("0000:03:00.0", 3)];
    let devices = devices.map(|(address, group)| {
        device_state(address, group, Occupancy::Free, Instant::now(), Viability::Viable, false)
    });
    let node =
        NodeSnapshot { devices: devices.to_vec().into(), vfio_visible: true, ..NodeSnapshot::default() };
    let all: Vec<_> = node.devices.iter().map(|device| KubeletDeviceId::Device(device.device.id)).collect();
    for (must, size, expected) in [
        (&[][..], 1, &[2][..]),
        (&[], 2, &[0, 1]),
        (&[], 3, &[0, 1, 2]),
        (&[1], 2, &[1, 0]),
        (&[1], 3, &[1, 0, 2]),
        (&[2], 2, &[2, 3]),
    ] {
        let pick = |indices: &[usize]| indices.iter().map(|&index| all[index]).collect::<Vec<_>>();
        assert_eq!(
            choose(&node, &Assignments::default(), &all, &pick(must), size),
            pick(expected),
            "{must:?} {size}"
        );
    }
}

/// Returns the node with devices whose occupancy has had its value for these milliseconds.
fn aged(mut node: NodeSnapshot, ages: &[u64]) -> NodeSnapshot {
    let now = Instant::now();
    for (device, age) in node.devices.iter_mut().zip(ages) {
        device.group.as_mut().unwrap().since = now.checked_sub(Duration::from_millis(*age)).unwrap();
    }
    node
}

#[test]
fn equal_devices_are_chosen_by_time_since_freed() {
    let pick = |node: &NodeSnapshot, available: &[u8], size| {
        choose(node, &Assignments::default(), &ids(available), &[], size)
    };
    let four = || snapshot(&[(1, 0, false), (2, 0, false), (3, 0, false), (4, 0, false)]);
    // The first one was freed a second ago.
    let node = aged(four(), &[1_000, 60_000, 20_000, 60_000]);
    assert_eq!(pick(&node, &[1, 2, 3, 4], 4), ids(&[2, 4, 3, 1]));
    assert_eq!(pick(&node, &[1, 3], 1), ids(&[3]));
    // All were found at the start, one after the other.
    let node = aged(four(), &[60_000, 60_003, 60_001, 60_002]);
    assert_eq!(pick(&node, &[1, 2, 3, 4], 4), ids(&[1, 2, 3, 4]));
    // A NUMA node with room for all, the tightest such node, and a free device count more than the time.
    let node =
        snapshot(&[(1, 0, false), (2, 0, false), (3, 1, false), (4, 1, false), (5, 1, false), (6, 1, true)]);
    let node = aged(node, &[9_000, 9_000, 60_000, 5_000, 40_000, 90_000]);
    assert_eq!(pick(&node, &[1, 2, 3, 4, 5, 6], 1), ids(&[1]));
    assert_eq!(pick(&node, &[1, 2, 3, 4, 5, 6], 3), ids(&[3, 5, 4]));
    assert_eq!(pick(&node, &[4, 6], 2), ids(&[4, 6]));
    // So do whole groups.
    let (old, fresh) = (Instant::now().checked_sub(Duration::from_secs(60)).unwrap(), Instant::now());
    let devices = [("0000:01:00.0", 1, fresh), ("0000:01:00.1", 1, fresh), ("0000:02:00.0", 2, old)];
    let devices = devices.map(|(address, group, since)| {
        device_state(address, group, Occupancy::Free, since, Viability::Viable, false)
    });
    let node =
        NodeSnapshot { devices: devices.to_vec().into(), vfio_visible: true, ..NodeSnapshot::default() };
    let all: Vec<_> = node.devices.iter().map(|device| KubeletDeviceId::Device(device.device.id)).collect();
    assert_eq!(choose(&node, &Assignments::default(), &all, &[], 2), all[..2]);
    assert_eq!(choose(&node, &Assignments::default(), &all, &[], 1), all[2..]);
}

proptest! {
    #[test]
    fn as_many_as_possible_are_chosen_each_once(
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
