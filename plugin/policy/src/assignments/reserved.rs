//! What the monitor must not probe and must keep offering as it is, because it is assigned to a pod.

use crate::pools::terms::PinnedTerms;
use std::collections::BTreeMap;
use std::sync::Arc;
use vfio_probe::{DeviceId, GroupId};

/// The devices and groups that are assigned to pods.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct AssignedDevices {
    /// Devices, in the order of their ids.
    pub devices: Vec<DeviceId>,
    /// Whole groups, where an older plugin's id names only the group.
    pub groups: Vec<GroupId>,
    /// How this plugin allocated a device.
    pub pinned_offers: BTreeMap<DeviceId, PinnedOffer>,
    /// The resource of each device, by which a device stays listed that is not bound or does not exist.
    pub resources: BTreeMap<DeviceId, AssignedResource>,
}

/// The resource by which the kubelet has allocated a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AssignedResource {
    /// The resource.
    pub resource: Arc<str>,
    /// Whether it is known to be this plugin's. If not, the pools decide ([`crate::pools::assigned`]).
    pub is_of_this_plugin: bool,
}

impl AssignedDevices {
    /// Adds a device of a granted Allocate.
    pub fn add(&mut self, id: DeviceId, offer: PinnedOffer) {
        if let Err(place) = self.devices.binary_search(&id) {
            self.devices.insert(place, id);
        }
        self.pinned_offers.insert(id, offer);
    }
}

/// How this plugin allocated a device to a pod. It stays so while the pod exists.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PinnedOffer {
    /// The resource under which the kubelet's checkpoint names the device.
    pub resource: Arc<str>,
    /// The terms of the Allocate.
    pub pinned: PinnedTerms,
}
