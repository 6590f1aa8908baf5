//! UnknownReason an Allocate is refused.

use crate::device::DeviceState;
use crate::holders::describe;
use std::fmt;
use vfio_probe::text::{DriverName, Text};
use vfio_probe::{DeviceId, GroupId, Holder};

/// UnknownReason an Allocate is refused. Its text names the device, says what is wrong and, where something helps, what to do.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum AllocateError {
    /// The resource has no such device.
    UnknownDevice {
        /// The id in the request.
        id: String,
        /// The resource that was asked for it.
        resource: String,
    },
    /// One request names the device twice.
    RequestedTwice {
        /// The id in the request.
        id: String,
    },
    /// The device has no IOMMU group.
    NoGroup {
        /// The device.
        device: DeviceId,
        /// UnknownReason it has none.
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
    /// A function of another driver is in the device's group.
    NotViable {
        /// The device.
        device: DeviceId,
        /// Its group.
        group: GroupId,
        /// What the group's offender is and its driver.
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
        /// Its pod.
        pod: String,
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
        /// The holders in words.
        holders: String,
        /// UnknownReason no other device was allocated instead; empty if that was not tried.
        no_substitute: &'static str,
    },
    /// A pod got this device as the substitute of another, which the kubelet does not know.
    Substituted {
        /// The device.
        device: DeviceId,
        /// The pod.
        pod: String,
        /// As above.
        no_substitute: &'static str,
    },
    /// The group has gone.
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
        /// Its driver now.
        driver: Option<DriverName>,
    },
    /// The vendor's driver has made another vGPU of the function.
    VgpuTypeChanged {
        /// The device.
        device: DeviceId,
        /// Its type now.
        vgpu_type: Option<Text<64>>,
    },
}

impl AllocateError {
    /// A held device, refused with its holders.
    pub fn held(view: &DeviceState, holders: &[Holder], no_substitute: &'static str) -> Self {
        let (device, group) = (view.device.id, view.device.group);
        Self::Held { device, group, holders: describe(holders), no_substitute }
    }

    /// Whether the request itself is wrong, rather than the state of a device.
    pub fn is_invalid_request(&self) -> bool {
        matches!(self, Self::UnknownDevice { .. } | Self::RequestedTwice { .. })
    }
}

impl fmt::Display for AllocateError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownDevice { id, resource } => write!(f, "{id}: {resource} has no such device"),
            Self::RequestedTwice { id } => write!(f, "{id}: one request names it twice"),
            Self::NoGroup { device, reason } => write!(f, "{device}: {reason}"),
            Self::Lost { device } => write!(
                f,
                "{device}: {}: reset its slot or reseat it; dmesg may say when it was lost",
                crate::health::LOST
            ),
            Self::Unbinding { device } => write!(f, "{device}: is being unbound from its VFIO driver"),
            Self::NotViable { device, group, offender } => {
                write!(f, "{device}: group {group} is not viable: {offender}")
            }
            Self::GroupAssigned { device, group, peer, pod } => {
                write!(f, "{device}: group {group} belongs to {peer} ({pod})")
            }
            Self::GroupReserved { device, group } => {
                write!(f, "{device}: group {group} is being allocated to another pod")
            }
            Self::Held { device, group, holders, no_substitute } => {
                let group = group.map(|group| group.to_string()).unwrap_or_default();
                write!(f, "{device} (group {group}) is held by {holders}{no_substitute}")
            }
            Self::Substituted { device, pod, no_substitute } => {
                write!(f, "{device}: {pod} got it as the substitute of another device{no_substitute}")
            }
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
