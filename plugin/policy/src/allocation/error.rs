//! Why an Allocate is refused.

use crate::device::DeviceState;
use crate::health::reason::Reason;
use crate::holders::describe;
use std::fmt;
use vfio_probe::text::{DriverName, Text};
use vfio_probe::{DeviceId, GroupId, Holder};

/// Why an Allocate is refused. The text names the device, says what is wrong and, where something helps, what to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AllocateError {
    /// The resource has no such device.
    UnknownDevice {
        /// The id as the kubelet sent it.
        id: String,
        /// The requested resource.
        resource: String,
    },
    /// The request names the device twice.
    RequestedTwice {
        /// The id as the kubelet sent it.
        id: String,
    },
    /// The request has more containers or device ids than the plugin takes.
    TooLarge {
        /// What there are too many of, in words.
        what: &'static str,
        /// How many the request has.
        count: usize,
        /// How many it may have.
        limit: usize,
    },
    /// The device has no IOMMU group.
    NoGroup {
        /// The device.
        device: DeviceId,
        /// The probable cause.
        reason: &'static str,
    },
    /// The device has fallen off the bus.
    Lost {
        /// The device.
        device: DeviceId,
    },
    /// The kernel is unbinding the device.
    Unbinding {
        /// The device.
        device: DeviceId,
    },
    /// A function of the device's group is bound to a driver with which VFIO cannot use the group.
    NotViable {
        /// The device.
        device: DeviceId,
        /// Its group.
        group: GroupId,
        /// The function and its driver, in words.
        offender: String,
    },
    /// A device of the group is assigned to a pod.
    GroupAssigned {
        /// The device.
        device: DeviceId,
        /// Its group.
        group: GroupId,
        /// The assigned device.
        peer: DeviceId,
        /// Its pod, in words.
        pod: String,
    },
    /// A prepared claim has the device.
    Claimed {
        /// The device.
        device: DeviceId,
        /// The claim, in words.
        claim: String,
    },
    /// The DRA driver offers the device, and the device plugin does not.
    OfferedByDra {
        /// The device.
        device: DeviceId,
    },
    /// Another Allocate is allocating the group.
    GroupReserved {
        /// The device.
        device: DeviceId,
        /// Its group.
        group: GroupId,
    },
    /// A process holds the group.
    Held {
        /// The device.
        device: DeviceId,
        /// Its group.
        group: Option<GroupId>,
        /// The holders, in words.
        holders: String,
        /// Why no other device was allocated instead. None if that was not tried.
        no_substitute: Option<NoSubstitute>,
    },
    /// The device was allocated to a pod as the substitute of another one. The kubelet's checkpoint shows it as free.
    Substituted {
        /// The device.
        device: DeviceId,
        /// The pod, in words.
        pod: String,
        /// Why no other device was allocated instead. None if that was not tried.
        no_substitute: Option<NoSubstitute>,
    },
    /// The kubelet stores an answer of Allocate for another pod that names the device's node. That pod could open the device.
    StaleAnswer {
        /// The device.
        device: DeviceId,
        /// Which pod, and what its answer names: [`Reason::StaleAnswerOfAnotherPod`].
        reason: Box<Reason>,
    },
    /// The group no longer exists.
    GroupGone {
        /// The device.
        device: DeviceId,
        /// Its former group.
        group: GroupId,
    },
    /// The device is bound to another driver than when it was listed.
    DriverChanged {
        /// The device.
        device: DeviceId,
        /// Its driver now. None if it has none.
        driver: Option<DriverName>,
    },
    /// The vendor's driver has made another vGPU of the virtual function, or none.
    VgpuTypeChanged {
        /// The device.
        device: DeviceId,
        /// Its type now. None without a vGPU.
        vgpu_type: Option<Text<64>>,
    },
}

/// Why no free device was allocated instead of a held one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum NoSubstitute {
    /// The kubelet's checkpoint cannot be read, so it is unknown which devices are allocated.
    CheckpointUnreadable,
    /// Too few other devices of the resource are free.
    NoneFree,
}

impl AllocateError {
    /// Returns the refusal of a held device.
    pub fn held(device: &DeviceState, holders: &[Holder], no_substitute: Option<NoSubstitute>) -> Self {
        let (id, group) = (device.device.id, device.device.group);
        Self::Held { device: id, group, holders: describe(holders), no_substitute }
    }

    /// Returns whether the request itself is wrong, rather than the state of a device.
    pub fn is_invalid_request(&self) -> bool {
        matches!(self, Self::UnknownDevice { .. } | Self::RequestedTwice { .. } | Self::TooLarge { .. })
    }
}

impl fmt::Display for AllocateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownDevice { id, resource } => write!(f, "{id}: {resource} has no such device"),
            Self::RequestedTwice { id } => write!(f, "{id}: the request names it twice"),
            Self::TooLarge { what, count, limit } => {
                write!(f, "the request has {count} {what}; at most {limit} are supported")
            }
            Self::NoGroup { device, reason } => write!(f, "{device}: {reason}"),
            Self::Lost { device } => write!(
                f,
                "{device}: {}: reset its slot or reseat it; dmesg may say when it was lost",
                Reason::Lost
            ),
            Self::Unbinding { device } => write!(f, "{device}: is being unbound from its VFIO driver"),
            Self::NotViable { device, group, offender } => {
                write!(f, "{device}: group {group} is not viable: {offender}")
            }
            Self::GroupAssigned { device, group, peer, pod } => {
                write!(f, "{device}: group {group} belongs to {peer} ({pod})")
            }
            Self::Claimed { device, claim } => write!(f, "{device}: {claim} has it"),
            Self::OfferedByDra { device } => {
                write!(
                    f,
                    "{device}: is offered to claims by the DRA driver, and no longer by the device plugin"
                )
            }
            Self::GroupReserved { device, group } => {
                write!(f, "{device}: group {group} is being allocated to another pod")
            }
            Self::Held { device, group, holders, no_substitute } => {
                let group = group.map(|group| group.to_string()).unwrap_or_default();
                write!(f, "{device} (group {group}) is held by {holders}")?;
                write_no_substitute(f, *no_substitute)
            }
            Self::Substituted { device, pod, no_substitute } => {
                write!(f, "{device}: {pod} got it as the substitute of another device")?;
                write_no_substitute(f, *no_substitute)
            }
            Self::StaleAnswer { device, reason } => write!(f, "{device}: {reason}"),
            Self::GroupGone { device, group } => write!(f, "{device}: group {group} no longer exists"),
            Self::DriverChanged { device, driver: Some(driver) } => {
                write!(f, "{device}: is now bound to {driver}")
            }
            Self::DriverChanged { device, driver: None } => {
                write!(f, "{device}: is no longer bound to a driver")
            }
            Self::VgpuTypeChanged { device, vgpu_type: Some(vgpu_type) } => {
                write!(f, "{device}: its vGPU was replaced; its type is now {vgpu_type}")
            }
            Self::VgpuTypeChanged { device, vgpu_type: None } => write!(f, "{device}: its vGPU was removed"),
        }
    }
}

impl std::error::Error for AllocateError {}

impl fmt::Display for NoSubstitute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CheckpointUnreadable => "the kubelet's checkpoint cannot be read",
            Self::NoneFree => "no other device is free",
        })
    }
}

/// Writes the end of a refusal: why there is no substitute, if one was tried.
fn write_no_substitute(f: &mut fmt::Formatter<'_>, no_substitute: Option<NoSubstitute>) -> fmt::Result {
    no_substitute.map_or(Ok(()), |reason| write!(f, "; no substitute: {reason}"))
}
