//! The values of one device.

use crate::assignments::claims::Claim;
use crate::assignments::record::Assignment;
use crate::device::{DeviceState, GroupState};
#[cfg(feature = "dra")]
use crate::dra::taints::{DEVICE_PLUGIN, is_with_device_plugin};
use crate::metrics::{Pass, Report};
use crate::pools::terms::OfferBy;
use vfio_probe::Occupancy;

/// The values of one device.
#[derive(Debug)]
pub struct DeviceValues<'a> {
    /// The device.
    pub device: &'a DeviceState,
    /// What was reported to the kubelet.
    pub report: Report,
    /// Whether a process holds it.
    pub state: State,
    /// Its assignment, under any resource.
    pub assignment: Option<&'a Assignment>,
    /// The prepared claim that has it.
    pub claim: Option<&'a Claim>,
    /// How it is offered.
    pub offer: OfferBy,
    /// The name of the taint that keeps claims from it. None if it has none, or if the device plugin offers it.
    pub taint: Option<&'static str>,
    /// Whether the scheduler counts it as requested of its resource.
    pub is_requested: bool,
    /// Whether a process holds it that belongs to no pod it is assigned to. None if that cannot be known: it is held, and the
    /// kubelet shows no assignments.
    pub foreign_held: Option<bool>,
    /// Whether it is still held though the pod that it was assigned to has ended.
    pub held_after_pod: bool,
    /// Whether a new VM could open it now.
    pub openable: bool,
    /// Whether a new VM could open it if no process holds it, and whether one does cannot be checked.
    pub unknown: bool,
}

/// The state of a device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// No process holds its group.
    Free,
    /// A process holds its group.
    Held,
    /// It is not bound to a VFIO driver or does not exist, or its device node is missing.
    Absent,
    /// None of these is known.
    Unknown,
}

impl State {
    /// All states.
    pub const ALL: [Self; 4] = [Self::Free, Self::Held, Self::Absent, Self::Unknown];

    /// Returns the word for the state.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Held => "held",
            Self::Absent => "absent",
            Self::Unknown => "unknown",
        }
    }
}

impl<'a> DeviceValues<'a> {
    pub(super) fn new(pass: &'a Pass, device: &'a DeviceState, report: Report) -> Self {
        let state = state(pass, device);
        let assignment = pass.assignments.assignment(device);
        let is_requested = pass.is_requested(device);
        let is_reserved = is_requested || blocked(pass, device);
        let claim = assignment.and_then(|assignment| pass.assignments.claim_of(assignment));
        let offer = pass.assignments.offer_of(device);
        let may_be_openable = !is_reserved && is_usable(device, report);
        Self {
            device,
            report,
            state,
            assignment,
            claim,
            offer,
            taint: if offer == OfferBy::Dra { taint(pass, device, report) } else { None },
            is_requested,
            foreign_held: foreign_held(pass, device, state, assignment),
            held_after_pod: pass.held_after_pod.contains(&device.device.id) && state == State::Held,
            openable: may_be_openable && state == State::Free,
            unknown: may_be_openable && !can_be_checked(pass, state),
        }
    }
}

/// Returns the name of the taint of a device that is offered by DRA.
#[cfg(feature = "dra")]
fn taint(pass: &Pass, device: &DeviceState, report: Report) -> Option<&'static str> {
    match report.unhealthy {
        Some(_) => report.taint,
        None => is_with_device_plugin(device, &pass.assignments).then_some(DEVICE_PLUGIN),
    }
}

/// A program without DRA taints no device.
#[cfg(not(feature = "dra"))]
fn taint(_: &Pass, _: &DeviceState, _: Report) -> Option<&'static str> {
    None
}

fn state(pass: &Pass, device: &DeviceState) -> State {
    let id = device.device.id;
    if pass.snapshot.get(id).is_none() {
        // The device as last seen, so its occupancy is a former one.
        return if pass.snapshot.may_lack(id) { State::Unknown } else { State::Absent };
    }
    match device.group.as_ref().map(|group| group.occupancy) {
        Some(Occupancy::Free) => State::Free,
        Some(Occupancy::Held) => State::Held,
        Some(Occupancy::Absent) => State::Absent,
        Some(Occupancy::Unknown(_)) | None => State::Unknown,
    }
}

/// Returns whether the state says if a new VM could open the device. Where /dev/vfio is not visible, a missing node is no evidence.
fn can_be_checked(pass: &Pass, state: State) -> bool {
    match state {
        State::Free | State::Held => true,
        State::Absent => pass.snapshot.vfio_visible,
        State::Unknown => false,
    }
}

/// Returns whether another pod's assignment keeps the device from new VMs: that of a group peer, or its own under another
/// resource.
fn blocked(pass: &Pass, device: &DeviceState) -> bool {
    let peers = pass.snapshot.in_group_of(device).chain(&pass.reported.unbound);
    pass.assignments.blocker(device, peers).is_some()
}

/// Returns whether nothing but its state keeps a VM from the device: rules 1 to 8 of [`crate::health::decide`], except those about
/// holders, peers and the device node.
fn is_usable(device: &DeviceState, report: Report) -> bool {
    let hardware = &device.hardware;
    let is_sound = !hardware.lost && hardware.fatal == 0 && hardware.bar_user.is_none();
    let is_viable = |group: &GroupState| group.viability.is_viable();
    let is_bound = !device.unbinding && device.group.as_ref().is_some_and(is_viable);
    is_sound && is_bound && !report.keeps_new_pods_out
}

fn foreign_held(
    pass: &Pass,
    device: &DeviceState,
    state: State,
    assignment: Option<&Assignment>,
) -> Option<bool> {
    if state != State::Held {
        return Some(false);
    }
    match assignment {
        Some(assignment) => Some(is_held_by_another_pod(device, assignment)),
        // A pod may be assigned the device or a group peer of it.
        None if blocked(pass, device) => Some(false),
        None => pass.assignments.knows(device).then_some(true),
    }
}

/// Returns whether the cgroup of a holder names another pod than the assigned one. A holder whose cgroup names no pod is not
/// foreign: Kata Containers and container runtimes start VMs of pods in such cgroups.
fn is_held_by_another_pod(device: &DeviceState, assignment: &Assignment) -> bool {
    let Some(assigned) = &assignment.pod.uid else { return false };
    let holders = device.group.iter().flat_map(|group| &group.holders);
    holders.filter_map(|holder| holder.container.pod_uid).any(|uid| uid.as_str() != assigned)
}
