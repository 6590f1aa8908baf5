//! What the monitor must not probe and must keep offering as it is, because it is assigned to a pod.

use crate::pools::terms::PinnedTerms;
use std::collections::BTreeMap;
use std::sync::Arc;
use vfio_probe::{DeviceId, GroupId};

/// What pods own.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AssignedDevices {
    /// Devices.
    pub devices: Vec<DeviceId>,
    /// Whole groups, where only that is known.
    pub groups: Vec<GroupId>,
    /// How we have given a device.
    pub pinned_offers: BTreeMap<DeviceId, PinnedOffer>,
}

/// How we have given a device to a pod, which stays so as long as the pod is there.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PinnedOffer {
    /// The resource, by which the kubelet's books name it.
    pub resource: Arc<str>,
    /// On which terms.
    pub pinned: PinnedTerms,
}
