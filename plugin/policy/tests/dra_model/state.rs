//! The state of the whole model: devices, claims, the API server, the scheduler's view and the driver.

use super::driver::Driver;
use std::collections::{BTreeMap, BTreeSet};

/// The process that has a device open.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Holder {
    /// No process.
    None,
    /// The VM of a claim's pod.
    Claim(u8),
    /// A process of no pod, or the rest of a pod that has ended.
    Foreign,
}

/// A device.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Device {
    pub(super) bound: bool,
    pub(super) holder: Holder,
}

/// A claim with its pod. Each comes once. It has its device from the allocation until it is unprepared, or until the pod is deleted by
/// force.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Claim {
    /// It has not come yet.
    ToCome,
    /// The scheduler has allocated the device, and the kubelet has no answer yet.
    Allocated(u8),
    /// The kubelet has the answer, and the pod's VM can run.
    Prepared(u8),
    /// The pod was deleted by force. The scheduler can allocate the device again, and the pod's containers still run.
    Forced(u8),
    /// The containers have ended. Whether the kubelet had the answer, and whether the pod was deleted by force.
    Ended { device: u8, was_prepared: bool, was_forced: bool },
    /// It has no device any more.
    Gone,
}

impl Claim {
    pub(super) fn device(self) -> Option<u8> {
        match self {
            Self::Allocated(device)
            | Self::Prepared(device)
            | Self::Forced(device)
            | Self::Ended { device, .. } => Some(device),
            Self::ToCome | Self::Gone => None,
        }
    }

    /// Returns whether the scheduler can allocate the device of the claim to another one.
    pub(super) fn is_forced(self) -> bool {
        matches!(self, Self::Forced(_) | Self::Ended { was_forced: true, .. })
    }

    /// Returns the device if the kubelet has the answer of Prepare and the claim is not unprepared yet.
    pub(super) fn prepared_device(self) -> Option<u8> {
        match self {
            Self::Prepared(device)
            | Self::Forced(device)
            | Self::Ended { device, was_prepared: true, .. } => Some(device),
            _ => None,
        }
    }
}

/// What slices say about a device.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Entry {
    /// Whether it has a taint.
    pub(super) withheld: bool,
    /// Whether it consumes its group's counter.
    pub(super) counted: bool,
}

/// The slices of the node.
pub(super) type Slices = BTreeMap<u8, Entry>;

/// Everything.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct State {
    pub(super) devices: Vec<Device>,
    pub(super) claims: Vec<Claim>,
    pub(super) driver: Driver,
    /// Whether the API server answers.
    pub(super) answers: bool,
    /// What the API server stores.
    pub(super) stored: Slices,
    /// What the scheduler has seen of it.
    pub(super) seen: Slices,
    /// The driver's write that has not arrived.
    pub(super) write: Option<Slices>,
    /// A write that the driver has given up and that may still arrive. Another write makes it fail, by the resource version.
    pub(super) late: Option<Slices>,
    /// The held groups that were refused or given back, because the API server stored that they must not be allocated.
    pub(super) promised: BTreeSet<u32>,
    pub(super) restarts: u8,
    /// The forbidden event that happened.
    pub(super) violation: Option<&'static str>,
}

impl State {
    pub(super) fn all_devices(&self) -> impl Iterator<Item = u8> + use<> {
        0..u8::try_from(self.devices.len()).unwrap_or(u8::MAX)
    }

    pub(super) fn device(&self, device: u8) -> Device {
        self.devices[usize::from(device)]
    }

    pub(super) fn claim(&self, claim: u8) -> Claim {
        self.claims[usize::from(claim)]
    }

    pub(super) fn set_claim(&mut self, claim: u8, to: Claim) {
        self.claims[usize::from(claim)] = to;
    }

    pub(super) fn set_holder(&mut self, device: u8, holder: Holder) {
        self.devices[usize::from(device)].holder = holder;
    }

    /// Returns the devices that the scheduler has allocated.
    pub(super) fn allocated(&self) -> BTreeSet<u8> {
        self.claims.iter().filter(|claim| !claim.is_forced()).filter_map(|claim| claim.device()).collect()
    }
}
