//! The bound devices of a snapshot, with an index by IOMMU group.

use crate::device::DeviceState;
use std::hash::{Hash, Hasher};
use std::ops::{Deref, DerefMut};
use std::sync::OnceLock;
use vfio_probe::{DeviceId, GroupId};

/// Devices in the order of their ids.
///
/// The index of their groups is made at its first use, and again after any mutable access, because the access may have changed a
/// group. An Allocate therefore reads only the devices of its own groups.
#[derive(Clone, Debug, Default)]
pub struct BoundDevices {
    list: Vec<DeviceState>,
    /// The devices with a group, as places in `list`, in the order of groups.
    by_group: OnceLock<Vec<(GroupId, usize)>>,
}

impl BoundDevices {
    /// Adds a device. The caller keeps the order of ids.
    pub fn push(&mut self, device: DeviceState) {
        self.mutable().push(device);
    }

    /// Keeps the devices for which `keep` returns true.
    pub fn retain(&mut self, keep: impl FnMut(&DeviceState) -> bool) {
        self.mutable().retain(keep);
    }

    /// Returns a device by its id.
    pub fn get(&self, id: DeviceId) -> Option<&DeviceState> {
        let place = self.list.binary_search_by_key(&id, |state| state.device.id).ok()?;
        self.list.get(place)
    }

    /// Returns the devices of a group, in the order of their ids.
    pub fn in_group(&self, group: GroupId) -> impl Iterator<Item = &DeviceState> {
        let index = self.by_group.get_or_init(|| {
            let groups = self.list.iter().enumerate();
            let mut index: Vec<(GroupId, usize)> =
                groups.filter_map(|(place, state)| Some((state.device.group?, place))).collect();
            index.sort_unstable();
            index
        });
        let first = index.partition_point(|(known, _)| *known < group);
        let places = index.iter().skip(first).take_while(move |(known, _)| *known == group);
        places.filter_map(|(_, place)| self.list.get(*place))
    }

    fn mutable(&mut self) -> &mut Vec<DeviceState> {
        self.by_group.take();
        &mut self.list
    }
}

impl Deref for BoundDevices {
    type Target = [DeviceState];

    fn deref(&self) -> &[DeviceState] {
        &self.list
    }
}

impl DerefMut for BoundDevices {
    fn deref_mut(&mut self) -> &mut [DeviceState] {
        self.mutable()
    }
}

impl PartialEq for BoundDevices {
    fn eq(&self, other: &Self) -> bool {
        self.list == other.list
    }
}

impl Eq for BoundDevices {}

impl Hash for BoundDevices {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.list.hash(state);
    }
}

impl From<Vec<DeviceState>> for BoundDevices {
    fn from(list: Vec<DeviceState>) -> Self {
        Self { list, by_group: OnceLock::new() }
    }
}

impl FromIterator<DeviceState> for BoundDevices {
    fn from_iter<I: IntoIterator<Item = DeviceState>>(devices: I) -> Self {
        devices.into_iter().collect::<Vec<_>>().into()
    }
}

impl<'a> IntoIterator for &'a BoundDevices {
    type Item = &'a DeviceState;
    type IntoIter = std::slice::Iter<'a, DeviceState>;

    fn into_iter(self) -> Self::IntoIter {
        self.list.iter()
    }
}

impl<'a> IntoIterator for &'a mut BoundDevices {
    type Item = &'a mut DeviceState;
    type IntoIter = std::slice::IterMut<'a, DeviceState>;

    fn into_iter(self) -> Self::IntoIter {
        self.mutable().iter_mut()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::device_state;
    use std::time::Instant;
    use vfio_probe::{Occupancy, Viability};

    fn device(address: &str, group: u32) -> DeviceState {
        device_state(address, group, Occupancy::Free, Instant::now(), Viability::Viable, false)
    }

    fn members(devices: &BoundDevices, group: u32) -> Vec<String> {
        devices.in_group(GroupId(group)).map(|state| state.device.id.to_string()).collect()
    }

    #[test]
    fn group_index_follows_every_change() {
        let mut devices: BoundDevices = vec![device("0000:01:00.0", 52), device("0000:01:00.1", 51)].into();
        assert_eq!(members(&devices, 51), ["0000:01:00.1"]);
        devices.push(device("0000:02:00.0", 52));
        assert_eq!(members(&devices, 52), ["0000:01:00.0", "0000:02:00.0"]);
        devices.iter_mut().for_each(|state| state.device.group = Some(GroupId(7)));
        assert_eq!((members(&devices, 52).len(), members(&devices, 7).len()), (0, 3));
        (&mut devices).into_iter().for_each(|state| state.device.group = None);
        assert_eq!(members(&devices, 7).len(), 0);
        let copy = devices.clone();
        devices.retain(|state| state.device.group.is_some());
        assert!(devices.is_empty() && copy.len() == 3);
    }
}
