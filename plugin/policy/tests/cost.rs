//! Counts what decisions cost: how their work grows with the node, and that a pass without a change allocates no memory.
//!
//! Memory allocations are counted, not time: every copy of an id, a record or a list is one.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may fail loudly, and needs any moment"
)]

use allocation_counter::measure;
use std::collections::BTreeSet;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vfio_plugin_policy::allocation::plan;
use vfio_plugin_policy::allocation::preferred::choose;
use vfio_plugin_policy::assignments::index::Assignments;
use vfio_plugin_policy::device::NodeSnapshot;
use vfio_plugin_policy::health::tracker::{Facts, HealthTracker, Pass, Policy};
use vfio_plugin_policy::kubelet_id::KubeletDeviceId;
use vfio_plugin_policy::pools::terms::Busy;
use vfio_plugin_policy::testing::{allocate, allocated, node_of, request};

const RESOURCE: &str = "nvidia.com/GPU";
const POLICY: Policy = Policy { busy: Busy::Attributed, settling: Duration::from_secs(3), check_node: true };

fn pass(tracker: &mut HealthTracker, snapshot: &NodeSnapshot, assignments: &Assignments) -> Pass {
    tracker.decide(POLICY, &Facts { snapshot, assignments, gone: &BTreeSet::new(), now: Instant::now() })
}

/// Counts the memory allocations of an Allocate of `count` devices of a node with `size`: plan, assignments and decisions. All
/// devices of the node were allocated before.
fn allocations(size: u32, count: usize) -> u64 {
    let snapshot = node_of(size);
    let assignments = allocated(&snapshot);
    let mut tracker = HealthTracker::default();
    pass(&mut tracker, &snapshot, &assignments);
    let request = request(snapshot.devices.iter().take(count));
    let mut work = || {
        let plan = plan(RESOURCE, &request, &snapshot, &assignments).unwrap();
        let allocates: Vec<_> = plan.devices().map(|device| Arc::new(allocate(device))).collect();
        let next = assignments.with_allocates(&allocates).unwrap();
        let ids: Vec<_> = plan.devices().map(|device| device.device.id).collect();
        let gone = BTreeSet::new();
        let facts = Facts { snapshot: &snapshot, assignments: &next, gone: &gone, now: Instant::now() };
        assert!(tracker.decide_assigned(POLICY, &facts, &ids).unwrap().changes.is_empty());
        black_box(plan);
    };
    // The first call makes the snapshot's index.
    work();
    measure(work).count_total
}

#[test]
fn allocate_of_one_device_costs_the_same_on_any_node() {
    let costs = [8, 256, 1024, 10_000].map(|size| allocations(size, 1));
    assert_eq!(costs, [costs[0]; 4]);
}

#[test]
fn allocate_of_many_devices_costs_linear_work() {
    let (some, more) = (allocations(10_000, 500), allocations(10_000, 1000));
    assert!(10 * more <= 22 * some, "{some} for 500 devices, {more} for 1,000");
    // One more device costs no more than the first one.
    assert!(more <= 1000 * allocations(10_000, 1), "{more} for 1,000 devices");
}

#[test]
fn preferred_devices_cost_linear_work() {
    let count = |size| {
        let snapshot = node_of(size);
        let ids: Vec<_> =
            snapshot.devices.iter().map(|device| KubeletDeviceId::Device(device.device.id)).collect();
        let half = ids.len() / 2;
        measure(|| {
            black_box(choose(&snapshot, &Assignments::default(), &ids, &[], half));
        })
        .count_total
    };
    let (some, more) = (count(1000), count(2000));
    assert!(10 * more <= 22 * some, "{some} for 1,000 devices, {more} for 2,000");
}

#[test]
fn pass_without_a_change_allocates_nothing() {
    let snapshot = node_of(1024);
    for assignments in [allocated(&snapshot), Assignments::default()] {
        let mut tracker = HealthTracker::default();
        pass(&mut tracker, &snapshot, &assignments);
        let counted = measure(|| assert!(pass(&mut tracker, &snapshot, &assignments).changes.is_empty()));
        assert_eq!(counted.count_total, 0);
    }
}
