//! What the monitor must not open, and what it must remember, because a pod owns it.

use std::collections::{BTreeMap, BTreeSet};
use vfio_plugin_policy::assignments::reserved::{AssignedDevices, PinnedOffer};
use vfio_probe::device::Detail;
use vfio_probe::monitor::Assigned;
use vfio_probe::{Device, DeviceId, GroupId, Watch};

/// What pods own, which is not opened, but for what is refused all the same.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct ProbeExclusions {
    /// None until it is known.
    pub(crate) owned: Option<AssignedDevices>,
    /// What an earlier process of ours has remembered; counts until then. None until that is told: nobody knows then what must
    /// stay as it is.
    pub(crate) remembered: Option<AssignedDevices>,
    /// Groups that are refused all the same.
    pub(crate) contested: BTreeSet<GroupId>,
}

impl ProbeExclusions {
    /// What pods own, but for what is contested.
    pub(crate) fn not_to_open(&self, watch: &Watch) -> Assigned {
        let AssignedDevices { devices, groups, .. } = self.known().clone();
        let mut owned = Assigned { devices, groups };
        if self.contested.is_empty() {
            return owned;
        }
        let devices = watch.monitor().devices();
        let group = |id| devices.iter().find(|tracked| tracked.device.id == id)?.device.group;
        owned.devices.retain(|id| group(*id).is_none_or(|group| !self.contested.contains(&group)));
        owned.groups.retain(|group| !self.contested.contains(group));
        owned
    }

    fn known(&self) -> &AssignedDevices {
        static NOTHING: AssignedDevices =
            AssignedDevices { devices: Vec::new(), groups: Vec::new(), pinned_offers: BTreeMap::new() };
        self.owned.as_ref().or(self.remembered.as_ref()).unwrap_or(&NOTHING)
    }

    /// What we have given to pods that are there.
    pub(crate) fn pinned_offers(&self) -> &BTreeMap<DeviceId, PinnedOffer> {
        &self.known().pinned_offers
    }

    /// Whether a pod is known to own a device, or its group.
    pub(crate) fn owns(&self, device: &Device) -> bool {
        self.owned.as_ref().is_some_and(|owned| {
            owned.devices.contains(&device.id)
                || device.group.is_some_and(|group| owned.groups.contains(&group))
        })
    }

    /// Devices that pods own and that are there, but not bound: also those that were unbound before we have started.
    pub(crate) fn unbound(&self, watch: &Watch) -> impl Iterator<Item = Device> {
        let monitor = watch.monitor();
        let bound = |id| monitor.devices().iter().any(|tracked| tracked.device.id == id);
        let owned = self.owned.iter().flat_map(|owned| &owned.devices);
        let unbound = owned.filter(move |id| !bound(**id));
        unbound.filter_map(|id| monitor.root().device(*id, Detail::Identity).ok())
    }
}
