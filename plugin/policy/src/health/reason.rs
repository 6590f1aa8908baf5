//! Why a device is Unhealthy, as a typed value: its code, its text, its severity and its JSON.
//!
//! Decisions match on [`Reason`] and never compare texts, because a text may contain words that a foreign process chose.

use super::encode;
use crate::device::no_group_text;
use crate::holders::write_in_words;
use serde::{Deserialize, Serialize};
use std::fmt;
use vfio_probe::text::{DriverName, Text};
use vfio_probe::{DeviceId, GroupId, Holder, Kind};

/// Why a device is Unhealthy, or what is wrong with a device that stays Healthy because it is assigned to a pod.
///
/// In JSON it is an object whose `code` is [`Reason::code`]. A change of a code or of a field is a new version of the state
/// file ([`super::stored`]).
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(tag = "code", rename_all = "snake_case")]
pub enum Reason {
    /// The function has fallen off the bus: its registers read all ones.
    Lost,
    /// The device is assigned to a pod and no longer exists.
    Gone,
    /// The device is assigned to a pod and is no longer bound to a VFIO driver. Only ever a warning: a device without an
    /// assignment leaves the list instead.
    NoLongerBound,
    /// The device has no IOMMU group.
    NoGroup {
        /// The device's kind, which decides what the likely cause is.
        #[serde(with = "encode::kind")]
        kind: Kind,
    },
    /// The kernel's unbind waits until the holders close the device.
    Unbinding {
        /// The known holders. Empty if they could not be found.
        holders: Vec<HolderName>,
    },
    /// A process that belongs to no assigned pod holds the group.
    Held {
        /// The known holders. Empty if they could not be found.
        holders: Vec<HolderName>,
    },
    /// Another device of the group is assigned to a pod, or the device itself is, under another resource.
    GroupPeer {
        /// The group.
        #[serde(with = "encode::group_id")]
        group: GroupId,
        /// The device that is assigned.
        #[serde(with = "encode::device_id")]
        peer: DeviceId,
        /// The pod in words, such as `pod default/vm-1` or `a pod being admitted`.
        pod: String,
    },
    /// VFIO cannot use the group while these devices are bound to other drivers.
    NotViable {
        /// The group.
        #[serde(with = "encode::group_id")]
        group: GroupId,
        /// The members that keep the group from being viable. The core names the first of them.
        offenders: Vec<Offender>,
    },
    /// The device node by which the device is opened is missing.
    NoDeviceNode {
        /// The path of the device node.
        path: String,
    },
    /// The kernel counted fatal PCIe errors (AER) since the first check.
    FatalErrors {
        /// The number of new errors, at least 1.
        count: u64,
    },
    /// The kubelet stores an answer of Allocate for the device's own pod that names another device node. Only ever a warning,
    /// because the device is assigned.
    StaleAnswer {
        /// The pod in words.
        pod: String,
        /// The node or CDI name in the answer.
        stored: String,
        /// The device's node now. None if it has none.
        now: Option<String>,
    },
    /// The kubelet stores an answer of Allocate for another pod that names this device's node. It was another device's node when
    /// Allocate was answered.
    StaleAnswerOfAnotherPod {
        /// The pod in words.
        pod: String,
        /// The device that is assigned to that pod.
        #[serde(with = "encode::device_id")]
        device: DeviceId,
        /// The node or CDI name in the answer.
        stored: String,
        /// The node of that pod's device now. None if it has none.
        now: Option<String>,
    },
    /// The host itself uses the device's memory, as a boot framebuffer does.
    Framebuffer {
        /// The name in /proc/iomem.
        #[serde(with = "encode::text")]
        user: Text<32>,
    },
}

/// A process that holds a device.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct HolderName {
    /// The process id.
    pub pid: u32,
    /// The command name. Untrusted: the process chooses it freely.
    #[serde(with = "encode::text")]
    pub command: Text<16>,
    /// The uid of the pod in its cgroup. None for a process outside of pods.
    #[serde(with = "encode::optional_text")]
    pub pod_uid: Option<Text<36>>,
}

/// A member of a group that keeps the group from being viable.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Offender {
    /// The member's name in sysfs.
    #[serde(with = "encode::text")]
    pub device: Text<64>,
    /// The driver that it is bound to.
    #[serde(with = "encode::text")]
    pub driver: DriverName,
}

/// How much a reason weighs.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Severity {
    /// A new pod cannot use the device. A device that is assigned to a pod stays Healthy, with a warning.
    Warning,
    /// No VM can use the device. It is Unhealthy even while it is assigned to a pod.
    Error,
}

impl Reason {
    /// Every value of [`Reason::code`]. The metrics have a counter for each.
    pub const CODES: [&str; 13] = [
        "lost",
        "gone",
        "no_longer_bound",
        "no_group",
        "unbinding",
        "held",
        "group_peer",
        "not_viable",
        "no_device_node",
        "fatal_errors",
        "stale_answer",
        "stale_answer_of_another_pod",
        "framebuffer",
    ];

    /// Returns the stable word for the reason, for metrics, logs and JSON: `held`, `no_device_node`.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Lost => "lost",
            Self::Gone => "gone",
            Self::NoLongerBound => "no_longer_bound",
            Self::NoGroup { .. } => "no_group",
            Self::Unbinding { .. } => "unbinding",
            Self::Held { .. } => "held",
            Self::GroupPeer { .. } => "group_peer",
            Self::NotViable { .. } => "not_viable",
            Self::NoDeviceNode { .. } => "no_device_node",
            Self::FatalErrors { .. } => "fatal_errors",
            Self::StaleAnswer { .. } => "stale_answer",
            Self::StaleAnswerOfAnotherPod { .. } => "stale_answer_of_another_pod",
            Self::Framebuffer { .. } => "framebuffer",
        }
    }

    /// Returns how much the reason weighs.
    pub const fn severity(&self) -> Severity {
        match self {
            Self::Lost | Self::Gone => Severity::Error,
            Self::NoLongerBound
            | Self::NoGroup { .. }
            | Self::Unbinding { .. }
            | Self::Held { .. }
            | Self::GroupPeer { .. }
            | Self::NotViable { .. }
            | Self::NoDeviceNode { .. }
            | Self::FatalErrors { .. }
            | Self::StaleAnswer { .. }
            | Self::StaleAnswerOfAnotherPod { .. }
            | Self::Framebuffer { .. } => Severity::Warning,
        }
    }

    /// Returns whether both say the same, so that the later one is no news. The pod of a stale answer may become known by its name
    /// after its uid.
    pub fn is_same_news(&self, other: &Self) -> bool {
        match (self, other) {
            (
                Self::StaleAnswer { stored, now, .. },
                Self::StaleAnswer { stored: other_stored, now: other_now, .. },
            ) => (stored, now) == (other_stored, other_now),
            (
                Self::StaleAnswerOfAnotherPod { device, stored, now, .. },
                Self::StaleAnswerOfAnotherPod {
                    device: other_device,
                    stored: other_stored,
                    now: other_now,
                    ..
                },
            ) => (device, stored, now) == (other_device, other_stored, other_now),
            _ => self == other,
        }
    }

    /// Returns the holders that the reason names.
    pub fn holders(&self) -> &[HolderName] {
        match self {
            Self::Held { holders } | Self::Unbinding { holders } => holders,
            _ => &[],
        }
    }
}

/// Writes the reason for people: `held by pid 4711 (qemu-system-x86)`. Programs use [`Reason::code`].
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost => f.write_str("does not answer: its configuration space reads all ones"),
            Self::Gone => f.write_str("the device is gone"),
            Self::NoLongerBound => f.write_str("no longer bound to a VFIO driver"),
            Self::NoGroup { kind } => f.write_str(no_group_text(*kind)),
            Self::Unbinding { holders } => {
                f.write_str("unbinding, held by ")?;
                write_holders(f, holders)
            }
            Self::Held { holders } => {
                f.write_str("held by ")?;
                write_holders(f, holders)
            }
            Self::GroupPeer { group, peer, pod } => write!(f, "group {group} belongs to {peer} ({pod})"),
            Self::NotViable { group, offenders } => {
                write!(f, "group {group} is not viable")?;
                let mut separator = ": ";
                for Offender { device, driver } in offenders {
                    write!(f, "{separator}{device} is bound to {driver}")?;
                    separator = ", ";
                }
                Ok(())
            }
            Self::NoDeviceNode { path } => write!(f, "no device node {path}"),
            Self::FatalErrors { count: 1 } => f.write_str("1 new fatal PCIe error (AER)"),
            Self::FatalErrors { count } => write!(f, "{count} new fatal PCIe errors (AER)"),
            Self::StaleAnswer { pod, stored, now } => {
                write!(f, "stale answer: the kubelet starts {pod} with {stored}")?;
                write_now(f, "this device", now.as_deref())
            }
            Self::StaleAnswerOfAnotherPod { pod, device, stored, now } => {
                write!(f, "stale answer of another pod: the kubelet starts {pod} with {stored}")?;
                write_now(f, device, now.as_deref())
            }
            Self::Framebuffer { user } => write!(f, "its memory is used by the host: {user}"),
        }
    }
}

/// Writes the end of a stale answer: the node that the pod's device has now, and what to do.
fn write_now(f: &mut fmt::Formatter<'_>, device: impl fmt::Display, now: Option<&str>) -> fmt::Result {
    match now {
        Some(now) => write!(f, ", and {device} is {now} now; delete that pod"),
        None => write!(f, ", and {device} has no such node now; delete that pod"),
    }
}

fn write_holders(f: &mut fmt::Formatter<'_>, holders: &[HolderName]) -> fmt::Result {
    write_in_words(f, holders.iter().map(|holder| (holder.pid, &holder.command, holder.pod_uid)))
}

impl From<&Holder> for HolderName {
    fn from(holder: &Holder) -> Self {
        Self { pid: holder.pid, command: holder.command, pod_uid: holder.container.pod_uid }
    }
}

#[cfg(test)]
pub(super) mod tests;
