//! Decides what the plugin reports to the kubelet about a device, and why.
//!
//! [`decide`] is the rule for one device at one moment. [`tracker`] adds what of the past matters, [`reason`] has the typed
//! reasons, [`stored`] their file, `stale_answers` those of the kubelet's stored answers, [`hardware`] and [`debounce`] the
//! confirmed state of the hardware, [`bar_users`] what else uses a device's memory.

pub mod bar_users;
pub mod checks;
pub mod debounce;
mod encode;
pub mod hardware;
pub mod reason;
mod stale_answers;
pub mod stored;
pub mod tracker;

use crate::device::{DeviceState, GroupState};
use crate::pools::terms::{Busy, OfferBy};
use reason::{HolderName, Offender, Reason, Severity};
use std::time::{Duration, Instant};
use vfio_probe::{DeviceId, Member, Occupancy};

/// A device's health as reported to the kubelet.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Health {
    /// The kubelet may allocate the device.
    Healthy,
    /// The kubelet may not allocate the device, for this reason. Boxed, because almost all devices are Healthy.
    Unhealthy(Box<Reason>),
}

/// Whether a device is assigned to a pod.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AssignmentState {
    /// The device is assigned to a pod. The scheduler counts it as requested, so it stays Healthy whatever its VM does.
    Assigned,
    /// The device is assigned to no pod.
    Unassigned {
        /// Since when that is known.
        since: Instant,
        /// A device of the same group that is assigned to a pod, and the pod in words.
        peer: Option<(DeviceId, String)>,
    },
    /// Neither pod resources nor the kubelet's checkpoint could be read.
    Unknown,
}

/// All facts that a decision rests on.
#[derive(Clone, Debug)]
pub struct Case<'a> {
    /// The policy for held devices.
    pub busy: Busy,
    /// The device.
    pub device: &'a DeviceState,
    /// Whether a missing device node counts: the plugin can list /dev/vfio, and the check `node` is on.
    pub node_counts: bool,
    /// Whether the device is assigned to a pod.
    pub assignment: AssignmentState,
    /// What a stale answer that the kubelet stores does to the device: [`Reason::StaleAnswer`] or
    /// [`Reason::StaleAnswerOfAnotherPod`].
    pub stale_answer: Option<&'a Reason>,
    /// Whether an Allocate or a claim of the device was refused, or a claim ended while its group was held, and no open has succeeded
    /// since.
    pub refused: bool,
    /// The reason of the previous report. None if the device was Healthy or was not reported yet.
    pub reported: Option<&'a Reason>,
    /// How long a VM that starts or ends may be without its pod, and a group without its device node. The kubelet, udev and
    /// devtmpfs take a moment.
    pub settling: Duration,
    /// The time of the decision.
    pub now: Instant,
}

/// What to report about a device.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Decision {
    /// The health to report.
    pub health: Health,
    /// When to decide again even if nothing changes.
    pub decide_again: Option<Instant>,
    /// What is wrong with a device that is Healthy all the same, because it is assigned to a pod.
    pub warning: Option<Box<Reason>>,
}

/// Decides the health of a device.
///
/// A device that has fallen off the bus is Unhealthy, assigned or not: no VM can use it, and the status of its pod has to say
/// so. Any other assigned device is Healthy: the scheduler counts it as requested, and would subtract it a second time if it
/// were not allocatable. For the rest, the first row that fits decides:
///
/// 1. without an IOMMU group: Unhealthy
/// 2. its unbind waits for a holder: Unhealthy
/// 3. a group peer is assigned to a pod: Unhealthy
/// 4. the kubelet stores an answer with its device node for another pod: Unhealthy
/// 5. held: by the policy, see [`Busy`]; a held group is not judged by row 6, because it could not be held if it were not viable
/// 6. group not viable: Unhealthy
/// 7. fatal errors: Unhealthy
/// 8. memory used by the host, as by a boot framebuffer: Unhealthy
/// 8. device node missing for longer than the settling time: Unhealthy
/// 9. occupancy unknown: as reported before
/// 10. else Healthy
///
/// Policies other than `attributed` ignore assignments.
pub fn decide(case: &Case<'_>) -> Decision {
    if case.device.hardware.lost {
        return Decision::unhealthy(Reason::Lost);
    }
    if case.busy == Busy::Attributed && case.assignment == AssignmentState::Assigned {
        // A fault from before the assignment is no warning.
        let Decision { health, decide_again, .. } =
            decide_unassigned(&Case { reported: None, ..case.clone() });
        let stale_answer = case.stale_answer.cloned();
        return match stale_answer.or_else(|| health.into_reason()).or_else(|| hardware_fault(case.device)) {
            Some(reason) => Decision { decide_again, ..Decision::assigned(reason) },
            None => Decision { decide_again, ..Decision::healthy() },
        };
    }
    decide_unassigned(case)
}

/// Applies the numbered rows of [`decide`].
fn decide_unassigned(case: &Case<'_>) -> Decision {
    let device = case.device;
    let Some(group) = &device.group else {
        return Decision::unhealthy(Reason::NoGroup { kind: device.device.kind });
    };
    if device.unbinding {
        return Decision::unhealthy(Reason::Unbinding { holders: holder_names(group) });
    }
    if case.busy == Busy::Attributed
        && let AssignmentState::Unassigned { peer: Some((peer, pod)), .. } = &case.assignment
    {
        return Decision::unhealthy(Reason::GroupPeer { group: group.id, peer: *peer, pod: pod.clone() });
    }
    if let (Busy::Attributed, Some(reason)) = (case.busy, case.stale_answer) {
        return Decision::unhealthy(reason.clone());
    }
    if group.occupancy.is_held() {
        return decide_held(case, group);
    }
    if !group.viability.is_viable() {
        let offender = |member: &Member| Some(Offender { device: member.name, driver: member.driver? });
        let offenders = group.offenders.iter().filter_map(offender).collect();
        return Decision::unhealthy(Reason::NotViable { group: group.id, offenders });
    }
    if let Some(reason) = hardware_fault(device) {
        return Decision::unhealthy(reason);
    }
    match group.occupancy {
        Occupancy::Absent if case.node_counts => {
            let settled = group.since + case.settling;
            if case.now >= settled {
                Decision::unhealthy(Reason::NoDeviceNode { path: device.node_path() })
            } else {
                Decision { decide_again: Some(settled), ..as_reported(case) }
            }
        }
        Occupancy::Unknown(_) => as_reported(case),
        _ => Decision::healthy(),
    }
}

/// Applies row 5 of [`decide`]: the group is held.
fn decide_held(case: &Case<'_>, group: &GroupState) -> Decision {
    let held = || Decision::unhealthy(Reason::Held { holders: holder_names(group) });
    match (case.busy, &case.assignment) {
        (Busy::Unhealthy, _) => held(),
        // An assigned device is expected to be held.
        (Busy::Attributed | Busy::Advertise, AssignmentState::Assigned) => Decision::healthy(),
        // The DRA driver unprepares a claim whose group is held only after the taint is stored.
        (Busy::Advertise, _) if case.refused && case.device.terms.offer == OfferBy::Dra => held(),
        (Busy::Advertise, _) => Decision::healthy(),
        (Busy::Attributed, _) if case.refused => held(),
        (Busy::Attributed, AssignmentState::Unassigned { since, .. }) => {
            let settled = group.since.max(*since) + case.settling;
            if case.now >= settled {
                held()
            } else {
                // The VM of a pod that the kubelet does not show yet, or a VM that is just closing.
                Decision { decide_again: Some(settled), ..as_reported(case) }
            }
        }
        // The holder may belong to a pod. The report stays, and Allocate refuses the device.
        (Busy::Attributed, AssignmentState::Unknown) => as_reported(case),
    }
}

/// Repeats the previous report, unless its reason is known to be over.
fn as_reported(case: &Case<'_>) -> Decision {
    let may_hold = |reason: &&Reason| match reason {
        // The device is bound and responds, or this function would not be called.
        Reason::Lost | Reason::Gone => false,
        // Each pass finds them again.
        Reason::StaleAnswer { .. } | Reason::StaleAnswerOfAnotherPod { .. } => false,
        Reason::FatalErrors { .. } => case.device.hardware.fatal > 0,
        Reason::Framebuffer { .. } => case.device.hardware.bar_user.is_some(),
        _ => true,
    };
    case.reported.filter(may_hold).cloned().map_or_else(Decision::healthy, Decision::unhealthy)
}

/// Returns what the optional checks found: fatal errors, or a user of the device's memory.
fn hardware_fault(device: &DeviceState) -> Option<Reason> {
    let count = device.hardware.fatal;
    let framebuffer = || Some(Reason::Framebuffer { user: device.hardware.bar_user? });
    (count > 0).then_some(Reason::FatalErrors { count }).or_else(framebuffer)
}

fn holder_names(group: &GroupState) -> Vec<HolderName> {
    group.holders.iter().map(HolderName::from).collect()
}

impl Decision {
    fn healthy() -> Self {
        Self { health: Health::Healthy, decide_again: None, warning: None }
    }

    fn unhealthy(reason: Reason) -> Self {
        Self { health: Health::Unhealthy(Box::new(reason)), ..Self::healthy() }
    }

    /// Returns the decision about an assigned device with a fault: Unhealthy only if no VM can use the device.
    fn assigned(reason: Reason) -> Self {
        match reason.severity() {
            Severity::Error => Self::unhealthy(reason),
            Severity::Warning => Self { warning: Some(Box::new(reason)), ..Self::healthy() },
        }
    }

    /// Returns why the device is Unhealthy, or the warning about a Healthy one.
    pub fn reason(&self) -> Option<&Reason> {
        self.health.reason().or(self.warning.as_deref())
    }
}

impl Health {
    /// Returns the constant of the device plugin API (`pluginapi.Healthy`, `pluginapi.Unhealthy`).
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Healthy => "Healthy",
            Self::Unhealthy(_) => "Unhealthy",
        }
    }

    /// Returns why the device is Unhealthy. None if it is Healthy.
    pub fn reason(&self) -> Option<&Reason> {
        match self {
            Self::Healthy => None,
            Self::Unhealthy(reason) => Some(reason),
        }
    }

    /// Returns why the device is Unhealthy, by value. None if it is Healthy.
    fn into_reason(self) -> Option<Reason> {
        match self {
            Self::Healthy => None,
            Self::Unhealthy(reason) => Some(*reason),
        }
    }
}

#[cfg(test)]
mod tests;
