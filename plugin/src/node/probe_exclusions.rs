//! Decides what the monitor must not probe and must keep offering, because it is assigned to a pod.

use std::collections::{BTreeMap, BTreeSet};
use vfio_plugin_policy::assignments::reserved::{AssignedDevices, AssignedResource, PinnedOffer};
use vfio_probe::device::Detail;
use vfio_probe::monitor::Assigned;
use vfio_probe::{Device, DeviceId, GroupId, Watch};

/// The assignments as the monitor needs them. An assigned group is not probed, because a probe makes the open of a VM that starts
/// fail.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct ProbeExclusions {
    /// The assigned devices; none until they are known.
    pub(crate) assigned: Option<AssignedDevices>,
    /// The devices that were assigned when the previous process ended. They count until `assigned` is known. None until the state
    /// file was read; until then any device may be assigned.
    pub(crate) restored: Option<AssignedDevices>,
    /// Assigned groups that Allocate refuses. They are probed, because only a probe shows when they are free.
    pub(crate) contested: BTreeSet<GroupId>,
}

impl ProbeExclusions {
    /// Returns the devices and groups that must not be probed: the assigned ones without the contested ones.
    pub(crate) fn not_to_probe(&self, watch: &Watch) -> Assigned {
        let AssignedDevices { devices, groups, .. } = self.known().clone();
        let mut excluded = Assigned { devices, groups };
        if self.contested.is_empty() {
            return excluded;
        }
        let devices = watch.monitor().devices();
        let group = |id| devices.iter().find(|tracked| tracked.device.id == id)?.device.group;
        excluded.devices.retain(|id| group(*id).is_none_or(|group| !self.contested.contains(&group)));
        excluded.groups.retain(|group| !self.contested.contains(group));
        excluded
    }

    fn known(&self) -> &AssignedDevices {
        static NOTHING: AssignedDevices = AssignedDevices {
            devices: Vec::new(),
            groups: Vec::new(),
            pinned_offers: BTreeMap::new(),
            resources: BTreeMap::new(),
        };
        self.assigned.as_ref().or(self.restored.as_ref()).unwrap_or(&NOTHING)
    }

    /// Returns how the plugin allocated the devices of pods that still exist.
    pub(crate) fn pinned_offers(&self) -> &BTreeMap<DeviceId, PinnedOffer> {
        &self.known().pinned_offers
    }

    /// Returns whether a device or its group is known to be assigned.
    pub(crate) fn is_assigned(&self, device: &Device) -> bool {
        self.assigned.as_ref().is_some_and(|assigned| {
            assigned.devices.binary_search(&device.id).is_ok()
                || device.group.is_some_and(|group| assigned.groups.contains(&group))
        })
    }

    /// Returns the resource by which a pod was allocated the device.
    pub(crate) fn resource(&self, device: DeviceId) -> Option<&AssignedResource> {
        self.known().resources.get(&device)
    }

    /// Returns whether any assigned device is not bound. Reads nothing.
    pub(crate) fn any_unbound(&self, watch: &Watch) -> bool {
        self.unbound_ids(watch).next().is_some()
    }

    /// Reads the assigned devices that are not bound, also those that were unbound before the plugin started.
    pub(crate) fn unbound(&self, watch: &Watch) -> UnboundDevices {
        let root = watch.monitor().root();
        let mut unbound = UnboundDevices::default();
        for id in self.unbound_ids(watch) {
            match root.device(id, Detail::Identity) {
                Ok(device) => unbound.existing.push(device),
                Err(_) if !root.has(id) => unbound.missing.push(id),
                Err(_) => unbound.unreadable.push(id),
            }
        }
        unbound
    }

    fn unbound_ids(&self, watch: &Watch) -> impl Iterator<Item = DeviceId> {
        let bound = watch.monitor().devices();
        let is_bound = |id: DeviceId| bound.binary_search_by_key(&id, |tracked| tracked.device.id).is_ok();
        self.known().devices.iter().copied().filter(move |id| !is_bound(*id))
    }
}

/// Assigned devices that are not bound.
#[derive(Debug, Default)]
pub(crate) struct UnboundDevices {
    /// The records of those that exist, whatever driver they have.
    pub(crate) existing: Vec<Device>,
    /// Those that do not exist.
    pub(crate) missing: Vec<DeviceId>,
    /// Those that exist and cannot be read now.
    pub(crate) unreadable: Vec<DeviceId>,
}
