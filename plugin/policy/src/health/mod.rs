//! Pure: what the kubelet is told of a device, and why.

pub mod checks;
pub mod debounce;
pub mod hardware;
pub mod tracker;

use crate::device::DeviceState;
use crate::holders::describe;
use crate::pools::terms::Busy;
use std::time::{Duration, Instant};
use vfio_probe::{DeviceId, Occupancy, Viability};

/// UnknownReason a device is Unhealthy that has fallen off the bus, whoever owns it.
pub const LOST: &str = "does not answer: its configuration space reads all ones";

/// How the reason ends of one that has had fatal errors.
const AER: &str = "(AER)";

/// A device's health as the kubelet is told it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Health {
    /// Pods may be given it.
    Healthy,
    /// They may not, because.
    Unhealthy(String),
}

/// Whose a device is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AssignmentState {
    /// A pod's: it is counted in `requested`, and stays Healthy whatever its machine does.
    Assigned,
    /// No pod's, since then; `peer` is another member of its group that is a pod's, and that pod.
    Unassigned {
        /// Since when that is known.
        since: Instant,
        /// Another member of its group, and the pod that owns it.
        peer: Option<(DeviceId, String)>,
    },
    /// The kubelet does not tell.
    Unknown,
}

/// What a decision rests on.
#[derive(Clone, Debug)]
pub struct Case<'a> {
    /// The policy.
    pub busy: Busy,
    /// The device.
    pub view: &'a DeviceState,
    /// Whether a missing node says anything: /dev/vfio can be listed, and is looked at.
    pub vfio_visible: bool,
    /// Whose it is.
    pub standing: AssignmentState,
    /// An Allocate of it was refused, and no open has succeeded since.
    pub refused: bool,
    /// What was told before.
    pub before: Option<&'a Health>,
    /// How long a machine that starts or ends may be without its pod, and a group without its node: the kubelet, udev and
    /// devtmpfs take a moment.
    pub settling: Duration,
    /// Now.
    pub now: Instant,
}

/// The decision.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Decision {
    /// What to tell the kubelet.
    pub health: Health,
    /// When to decide again though nothing has changed.
    pub again: Option<Instant>,
    /// What is wrong with a device that is called Healthy all the same, because a pod owns it.
    pub warning: Option<String>,
}

/// The health of a device.
///
/// One that has fallen off the bus is Unhealthy, whoever owns it: no machine can use it, and its pod's status has to say so.
/// Else one that a pod owns is never Unhealthy: the scheduler counts it as requested, and would count it twice. Of the others
/// the first row that fits: being unbound while held; of a group that belongs to a pod; held; group not viable, unless it
/// is held, which proves that it was viable; fatal errors; no node; unknown, which changes nothing; else Healthy. Policies
/// other than `attributed` do not ask whose a device is.
pub fn decide(case: &Case<'_>) -> Decision {
    if case.view.hardware.lost {
        return Decision { health: Health::Unhealthy(LOST.to_owned()), again: None, warning: None };
    }
    let attributed = case.busy == Busy::Attributed;
    if attributed && case.standing == AssignmentState::Assigned {
        // What was wrong before it was a pod's is no warning.
        let decision = trouble(&Case { before: None, ..case.clone() });
        // Held is what an owned device is for.
        let held = case.view.group.as_ref().is_some_and(|group| group.occupancy.is_held());
        let warning = decision.health.reason().filter(|_| !held || case.view.unbinding).map(str::to_owned);
        let warning = warning.or_else(|| fatal(case.view));
        return Decision { health: Health::Healthy, warning, ..decision };
    }
    trouble(case)
}

fn fatal(view: &DeviceState) -> Option<String> {
    match view.hardware.fatal {
        0 => None,
        1 => Some(format!("1 new fatal PCIe error {AER}")),
        count => Some(format!("{count} new fatal PCIe errors {AER}")),
    }
}

fn trouble(case: &Case<'_>) -> Decision {
    let view = case.view;
    let told = |health: Health| Decision { health, again: None, warning: None };
    let unhealthy = |reason: String| told(Health::Unhealthy(reason));
    // What was wrong with its hardware is over, whatever nobody knows of the rest.
    let over = |why: &str| why == LOST || (why.ends_with(AER) && view.hardware.fatal == 0);
    let over = |before: &&Health| before.reason().is_some_and(over);
    let as_before = || told(case.before.filter(|it| !over(it)).cloned().unwrap_or(Health::Healthy));
    let Some(group) = &view.group else {
        return unhealthy(view.without_group().to_owned());
    };
    if view.unbinding {
        return unhealthy(format!("unbinding, held by {}", describe(&group.holders)));
    }
    if case.busy == Busy::Attributed
        && let AssignmentState::Unassigned { peer: Some((peer, pod)), .. } = &case.standing
    {
        return unhealthy(format!("group {} belongs to {peer} ({pod})", group.id));
    }
    if group.occupancy.is_held() {
        let held = || unhealthy(format!("held by {}", describe(&group.holders)));
        return match (case.busy, &case.standing) {
            (Busy::Unhealthy, _) => held(),
            (Busy::Advertise, _) => told(Health::Healthy),
            (Busy::Attributed, _) if case.refused => held(),
            (Busy::Attributed, AssignmentState::Unassigned { since, .. }) => {
                let settled = group.since.max(*since) + case.settling;
                if case.now >= settled {
                    held()
                } else {
                    // A machine of a pod that the kubelet does not show yet, or one that is just closing.
                    Decision { again: Some(settled), ..as_before() }
                }
            }
            // Nobody knows whose it is: what was told stays, and Allocate refuses it.
            (Busy::Attributed, AssignmentState::Unknown) => as_before(),
            (Busy::Attributed, AssignmentState::Assigned) => told(Health::Healthy),
        };
    }
    if let Viability::NotViable { member, driver } = group.viability {
        return unhealthy(format!("group {} is not viable: {member} is bound to {driver}", group.id));
    }
    if let Some(reason) = fatal(view) {
        return unhealthy(reason);
    }
    match group.occupancy {
        Occupancy::Absent if case.vfio_visible => {
            let settled = group.since + case.settling;
            if case.now >= settled {
                unhealthy(format!("no device node {}", view.node()))
            } else {
                Decision { again: Some(settled), ..as_before() }
            }
        }
        Occupancy::Unknown(_) => as_before(),
        _ => told(Health::Healthy),
    }
}

impl Health {
    /// The constant of the device plugin API (`pluginapi.Healthy`, `pluginapi.Unhealthy`).
    pub fn as_str(&self) -> &'static str {
        match self {
            Self::Healthy => "Healthy",
            Self::Unhealthy(_) => "Unhealthy",
        }
    }

    /// UnknownReason, if it is Unhealthy.
    pub fn reason(&self) -> Option<&str> {
        match self {
            Self::Healthy => None,
            Self::Unhealthy(reason) => Some(reason),
        }
    }
}

#[cfg(test)]
mod tests;
