//! Tests of the values, above all of the invariant: the scheduler counts as free what a new VM could open.

use super::*;
use crate::assignments::ledger::Ledger;
use crate::assignments::record::Assignment;
use crate::device::HardwareHealth;
use crate::health::tracker::{Facts, Policy};
use crate::metrics::history::HeldAfterPod;
use crate::metrics::resource::ResourceValues;
use crate::pools::terms::Busy;
use crate::testing::{allocate, device_state};
use proptest::prelude::*;
use std::time::{Duration, Instant};
use vfio_probe::text::Text;
use vfio_probe::{Occupancy, UnknownReason, Viability};

const GPU: &str = "nvidia.com/GPU";
const SETTLING: Duration = Duration::from_secs(3);

fn long_ago() -> Instant {
    Instant::now().checked_sub(Duration::from_secs(60)).unwrap()
}

/// Returns device `number`, in group 51 + `group`.
fn device(number: u8, group: u32, occupancy: Occupancy) -> DeviceState {
    let address = format!("0000:{number:02x}:00.0");
    device_state(&address, 51 + group, occupancy, long_ago(), Viability::Viable, false)
}

/// Returns this many free devices, each with a group of its own.
fn free(count: u8) -> Vec<DeviceState> {
    (0..count).map(|number| device(number, number.into(), Occupancy::Free)).collect()
}

fn hold(device: &mut DeviceState) {
    let held = device_state("0000:00:00.0", 0, Occupancy::Held, long_ago(), Viability::Viable, false);
    let held = held.group.unwrap();
    let group = device.group.as_mut().unwrap();
    (group.occupancy, group.peek, group.holders) = (held.occupancy, held.peek, held.holders);
}

fn assigned<'a>(known: bool, devices: impl IntoIterator<Item = &'a DeviceState>) -> Assignments {
    let mut ledger = Ledger::default();
    ledger.add_allocates(devices.into_iter().map(allocate));
    Assignments::new(known, &ledger)
}

/// Decides until nothing settles any more, and returns the facts of that pass.
fn settled(busy: Busy, snapshot: NodeSnapshot, assignments: Assignments) -> Pass {
    let mut tracker = HealthTracker::default();
    let policy = Policy { busy, settling: SETTLING, check_node: true };
    let gone = snapshot.missing.clone();
    for now in [long_ago(), Instant::now()] {
        tracker.decide(policy, &Facts { snapshot: &snapshot, assignments: &assignments, gone: &gone, now });
    }
    Pass {
        reported: Arc::new(Reported::new(&tracker, &snapshot)),
        contested: tracker.contested().collect(),
        snapshot: Arc::new(snapshot),
        assignments: Arc::new(assignments),
        held_after_pod: Arc::default(),
    }
}

fn node(devices: Vec<DeviceState>) -> NodeSnapshot {
    NodeSnapshot { devices: devices.into(), vfio_visible: true, ..NodeSnapshot::default() }
}

/// Returns the values of the resource of all test devices.
fn values(pass: &Pass) -> ResourceValues {
    *pass.values().resources.get(GPU).unwrap()
}

/// Returns schedulable, openable and unknown.
fn promise(pass: &Pass) -> (i64, u64, u64) {
    let values = values(pass);
    (values.schedulable(), values.openable, values.unknown)
}

/// Returns the promise of a node with one assigned device, one free device, and one that was changed.
fn promise_with(change: impl FnOnce(&mut DeviceState)) -> (i64, u64, u64) {
    let mut devices = free(3);
    hold(&mut devices[0]);
    let assignments = assigned(true, [&devices[0]]);
    change(&mut devices[2]);
    promise(&settled(Busy::Attributed, node(devices), assignments))
}

#[test]
fn free_devices_are_schedulable_and_openable() {
    assert_eq!(promise_with(|_| {}), (2, 2, 0));
}

#[test]
fn device_that_no_vm_can_open_is_in_neither_number() {
    type Change = fn(&mut DeviceState);
    let changes: [(&str, Change); 7] = [
        ("foreign hold", hold),
        ("lost", |device| device.hardware.lost = true),
        ("fatal errors", |device| device.hardware.fatal = 2),
        ("framebuffer", |device| {
            device.hardware = HardwareHealth { bar_user: Some(Text::lossy(b"BOOTFB")), ..Default::default() };
        }),
        ("unbinding", |device| {
            hold(device);
            device.unbinding = true;
        }),
        ("not viable", |device| {
            let (member, driver) = (Text::lossy(b"0000:09:00.0"), Text::lossy(b"snd_hda_intel"));
            device.group.as_mut().unwrap().viability = Viability::NotViable { member, driver };
        }),
        ("no device node", |device| device.group.as_mut().unwrap().occupancy = Occupancy::Absent),
    ];
    for (name, change) in changes {
        assert_eq!(promise_with(change), (1, 1, 0), "{name}");
    }
    assert_eq!(promise_with(|device| (device.group, device.device.group) = (None, None)), (1, 1, 0));
}

#[test]
fn state_that_cannot_be_checked_counts_as_unknown() {
    for reason in [UnknownReason::Denied, UnknownReason::TimedOut, UnknownReason::NotProbed] {
        let unknown = |device: &mut DeviceState| {
            device.group.as_mut().unwrap().occupancy = Occupancy::Unknown(reason);
        };
        assert_eq!(promise_with(unknown), (2, 1, 1), "{reason:?}");
    }
    let mut devices = free(2);
    devices[1].group.as_mut().unwrap().occupancy = Occupancy::Absent;
    let invisible = NodeSnapshot { vfio_visible: false, ..node(devices) };
    let pass = settled(Busy::Attributed, invisible, Assignments::new(true, &Ledger::default()));
    assert_eq!(promise(&pass), (2, 1, 1), "where /dev/vfio is not visible, a missing node is no evidence");
    assert_eq!(pass.values().devices[1].state, device::State::Absent);
}

#[test]
fn group_peers_count_each_until_one_is_assigned() {
    let devices = || vec![device(0, 0, Occupancy::Free), device(1, 0, Occupancy::Free)];
    let nothing = Assignments::new(true, &Ledger::default());
    assert_eq!(promise(&settled(Busy::Attributed, node(devices()), nothing)), (2, 2, 0));
    let one = assigned(true, &devices()[..1]);
    let pass = settled(Busy::Attributed, node(devices()), one);
    assert_eq!(promise(&pass), (0, 0, 0));
    assert_eq!(pass.values().devices[1].report.unhealthy, Some("group_peer"));
    let mut held = devices();
    held.iter_mut().for_each(hold);
    let pass = settled(Busy::Attributed, node(held), assigned(true, &devices()[..1]));
    assert_eq!(promise(&pass), (0, 0, 0));
    assert_eq!(
        pass.values().devices[1].foreign_held,
        Some(false),
        "the holder may be that of the peer's pod"
    );
}

#[test]
fn lost_assigned_device_is_the_exception_of_the_invariant() {
    let mut devices = free(3);
    devices[0].hardware.lost = true;
    let assignments = assigned(true, [&devices[0]]);
    let pass = settled(Busy::Attributed, node(devices), assignments);
    assert_eq!(promise(&pass), (1, 2, 0), "the scheduler subtracts the device twice");
    let mut values = pass.values();
    let lost = values.devices.remove(0);
    assert_eq!((lost.report.unhealthy, lost.is_requested), (Some("lost"), true));
}

#[test]
fn gone_assigned_device_stays_in_capacity() {
    let devices = free(2);
    let assignments = assigned(true, [&devices[0]]);
    let mut snapshot = node(devices);
    let gone = snapshot.devices[0].clone();
    snapshot.devices.retain(|device| device.device.id != gone.device.id);
    snapshot.missing.insert(gone.device.id);
    snapshot.unbound.push(gone.clone());
    let pass = settled(Busy::Attributed, snapshot.clone(), assignments.clone());
    let of_pass = values(&pass);
    assert_eq!((of_pass.capacity, of_pass.allocatable, of_pass.assigned), (2, 1, 1));
    assert_eq!(promise(&pass), (0, 1, 0));
    let values = pass.values();
    assert_eq!(
        (values.devices[1].state, values.devices[1].report.unhealthy),
        (device::State::Absent, Some("gone"))
    );
    // Bound to another driver: Healthy with a warning, so the numbers agree.
    snapshot.missing.clear();
    let pass = settled(Busy::Attributed, snapshot.clone(), assignments.clone());
    assert_eq!(promise(&pass), (1, 1, 0));
    assert_eq!(pass.values().devices[1].report.warning, Some("no_longer_bound"));
    snapshot.listing_failed = true;
    let pass = settled(Busy::Attributed, snapshot, assignments);
    assert_eq!(pass.values().devices[1].state, device::State::Unknown, "it may be bound all the same");
}

#[test]
fn device_under_another_resource_counts_as_assigned_there() {
    let mut devices = free(3);
    devices[1].resource = "nvidia.com/OTHER".into();
    let ids = BTreeSet::from([devices[0].device.id.to_string()]);
    let elsewhere =
        Assignment::allocated("nvidia.com/OTHER", ids.clone(), ids, Default::default(), Instant::now());
    let mut ledger = Ledger::default();
    ledger.add_allocates([elsewhere]);
    let pass = settled(Busy::Attributed, node(devices), Assignments::new(true, &ledger));
    let values = pass.values();
    let sums = |resource| {
        let of: &ResourceValues = values.resources.get(resource).unwrap();
        (of.capacity, of.allocatable, of.assigned, of.schedulable(), of.openable)
    };
    assert_eq!(sums(GPU), (2, 1, 0, 1, 1), "Unhealthy: it belongs to the pod of the other resource");
    assert_eq!(sums("nvidia.com/OTHER"), (1, 1, 1, 0, 1), "the scheduler counts a device that is not listed");
}

#[test]
fn policy_unhealthy_shows_minus_four_as_in_the_incident() {
    let mut devices = free(8);
    devices.iter_mut().take(6).for_each(hold);
    let assignments = || assigned(true, &free(8)[..6]);
    let pass = settled(Busy::Unhealthy, node(devices.clone()), assignments());
    assert_eq!(promise(&pass), (-4, 2, 0));
    let pass = settled(Busy::Attributed, node(devices), assignments());
    assert_eq!(promise(&pass), (2, 2, 0));
}

#[test]
fn policy_advertise_promises_held_devices() {
    let mut devices = free(2);
    hold(&mut devices[0]);
    let pass = settled(Busy::Advertise, node(devices), Assignments::new(true, &Ledger::default()));
    assert_eq!(promise(&pass), (2, 1, 0));
}

#[test]
fn foreign_hold_is_not_claimed_without_assignments() {
    let mut devices = free(2);
    hold(&mut devices[0]);
    let foreign = |known| {
        let pass = settled(Busy::Attributed, node(devices.clone()), assigned(known, []));
        let values = pass.values();
        let of_devices: Vec<_> = values.devices.iter().map(|values| values.foreign_held).collect();
        (of_devices, values.resources[GPU].foreign_held)
    };
    assert_eq!(foreign(true), (vec![Some(true), Some(false)], 1));
    assert_eq!(foreign(false), (vec![None, Some(false)], 0), "the holder may belong to a pod");
}

#[test]
fn holder_of_another_pod_is_foreign_to_an_assigned_device() {
    let mut devices = free(1);
    hold(&mut devices[0]);
    let uid = |number: u8| format!("7b1f2d7c-0000-0000-0000-{number:012}");
    let foreign = |holder: Option<String>| {
        let mut device = devices[0].clone();
        let holders = &mut device.group.as_mut().unwrap().holders;
        holders[0].container.pod_uid = holder.map(|uid| Text::lossy(uid.as_bytes()));
        let mut assignment = allocate(&device);
        assignment.pod.uid = Some(uid(1));
        let mut ledger = Ledger::default();
        ledger.add_allocates([assignment]);
        let pass = settled(Busy::Attributed, node(vec![device]), Assignments::new(true, &ledger));
        pass.values().devices[0].foreign_held
    };
    assert_eq!(foreign(Some(uid(1))), Some(false));
    assert_eq!(foreign(Some(uid(2))), Some(true));
    assert_eq!(foreign(None), Some(false), "Kata runs VMs of pods in cgroups that name no pod");
}

#[test]
fn held_device_is_marked_after_its_pod_until_freed_or_assigned() {
    let mut devices = free(2);
    hold(&mut devices[0]);
    let id = devices[0].device.id;
    let (held, freed) = (node(devices.clone()), node(free(2)));
    let mut history = HeldAfterPod::default();
    let nothing = || assigned(true, []);
    history.update(&held, &nothing());
    assert!(history.devices().is_empty(), "no pod had it");
    let with_pod = || assigned(true, [&devices[0]]);
    history.update(&held, &with_pod());
    assert!(history.devices().is_empty());
    for _ in 0..2 {
        history.update(&held, &nothing());
        assert_eq!(*history.devices(), BTreeSet::from([id]));
    }
    let mut again = history.clone();
    again.assigned(&[id]);
    assert!(again.devices().is_empty(), "another pod has it");
    again.update(&held, &nothing());
    assert_eq!(*again.devices(), BTreeSet::from([id]), "and has ended");
    history.update(&freed, &nothing());
    history.update(&held, &nothing());
    assert!(history.devices().is_empty(), "a later holder is another one");
}

/// What a random device is like.
#[derive(Clone, Debug)]
struct Shape {
    group: u32,
    assigned: bool,
    lost: bool,
    fatal: bool,
}

fn shape() -> impl Strategy<Value = Shape> {
    let rarely = || prop::bool::weighted(0.15);
    (0..4_u32, prop::bool::weighted(0.3), rarely(), rarely())
        .prop_map(|(group, assigned, lost, fatal)| Shape { group, assigned, lost, fatal })
}

fn group_state() -> impl Strategy<Value = (Occupancy, bool)> {
    let occupancy = prop_oneof![
        4 => Just(Occupancy::Free),
        3 => Just(Occupancy::Held),
        1 => Just(Occupancy::Absent),
        1 => Just(Occupancy::Unknown(UnknownReason::Denied)),
    ];
    (occupancy, prop::bool::weighted(0.8))
}

proptest! {
    /// The invariant of the policy `attributed` on any node, once everything has settled: schedulable = openable + unknown, except
    /// that each lost device that is assigned counts twice.
    #[test]
    fn schedulable_is_what_may_be_openable(
        shapes in prop::collection::vec(shape(), 1..10),
        groups in prop::collection::vec(group_state(), 4),
        visible: bool,
    ) {
        let devices: Vec<DeviceState> = (0..).zip(&shapes).map(|(number, shape)| {
            let (occupancy, is_viable) = groups[shape.group as usize];
            let mut device = device(number, shape.group, Occupancy::Free);
            if occupancy == Occupancy::Held {
                hold(&mut device);
            }
            let group = device.group.as_mut().unwrap();
            group.occupancy = occupancy;
            // A held group is viable by proof.
            if !is_viable && occupancy != Occupancy::Held {
                let (member, driver) = (Text::lossy(b"0000:0f:00.0"), Text::lossy(b"nvme"));
                group.viability = Viability::NotViable { member, driver };
            }
            device.hardware = HardwareHealth { lost: shape.lost, fatal: shape.fatal.into(), bar_user: None };
            device
        }).collect();
        let with_pods: Vec<&DeviceState> =
            devices.iter().zip(&shapes).filter(|(_, shape)| shape.assigned).map(|(device, _)| device).collect();
        let lost = with_pods.iter().filter(|device| device.hardware.lost).count() as i64;
        let assignments = assigned(true, with_pods);
        let snapshot = NodeSnapshot { vfio_visible: visible, ..node(devices) };
        let pass = settled(Busy::Attributed, snapshot, assignments);
        let (schedulable, openable, unknown) = promise(&pass);
        prop_assert_eq!(schedulable + lost, (openable + unknown) as i64);
    }
}
