//! Remembers which slices the API server stores.

use k8s_openapi::api::resource::v1::{Device, ResourceSlice};
use std::collections::{BTreeMap, BTreeSet};
use vfio_plugin_policy::dra::names::{DraDriver, device_id};
use vfio_probe::DeviceId;

/// The effects of a taint that keep the scheduler from allocating a device.
const WITHHOLD: [&str; 2] = ["NoSchedule", "NoExecute"];

/// The driver's slices of this node, as the watch and the answers to writes show them.
#[derive(Clone, Debug, Default)]
pub(super) struct StoredSlices {
    slices: BTreeMap<String, ResourceSlice>,
    /// The slices of a list that has not ended.
    list: BTreeMap<String, ResourceSlice>,
    are_known: bool,
    was_forgotten: bool,
    /// The highest generation ever seen.
    generation: i64,
}

impl StoredSlices {
    /// Returns whether any list has ended since the start or [`forget`](Self::forget).
    pub(super) fn are_known(&self) -> bool {
        self.are_known
    }

    /// Returns all slices, in the order of their names.
    pub(super) fn all(&self) -> Vec<ResourceSlice> {
        self.slices.values().cloned().collect()
    }

    /// Returns the highest generation ever seen.
    pub(super) fn generation(&self) -> i64 {
        self.generation
    }

    /// Notes that a request has failed, so that the slices are not known before the next list.
    pub(super) fn forget(&mut self) {
        (self.are_known, self.was_forgotten) = (false, true);
    }

    /// Returns whether the slices were known before a request has failed, and are to be listed again.
    pub(super) fn were_forgotten(&self) -> bool {
        self.was_forgotten
    }

    /// Begins a list.
    pub(super) fn begin_list(&mut self) {
        self.list.clear();
    }

    /// Adds a slice to the list.
    pub(super) fn listed(&mut self, slice: ResourceSlice) {
        self.list.insert(name(&slice), slice);
    }

    /// Ends the list. Slices that it lacks are gone. A slice that was written since the list was made stays as it is.
    pub(super) fn end_list(&mut self) {
        let list = std::mem::take(&mut self.list);
        self.slices.retain(|name, _| list.contains_key(name));
        for slice in list.into_values() {
            self.applied(slice);
        }
        (self.are_known, self.was_forgotten) = (true, false);
    }

    /// Takes a slice as it is stored now. An event of the watch may be older than the answer to a write.
    pub(super) fn applied(&mut self, slice: ResourceSlice) {
        self.generation = self.generation.max(slice.spec.pool.generation);
        let name = name(&slice);
        let is_older = |known: &ResourceSlice| {
            known.metadata.uid == slice.metadata.uid
                && version(&slice).is_some_and(|new| version(known) > Some(new))
        };
        if !self.slices.get(&name).is_some_and(is_older) {
            self.slices.insert(name, slice);
        }
    }

    /// Removes a slice that was deleted, and not one that was created since with the same name.
    pub(super) fn deleted(&mut self, slice: &ResourceSlice) {
        let name = name(slice);
        if self.slices.get(&name).is_some_and(|known| known.metadata.uid == slice.metadata.uid) {
            self.slices.remove(&name);
        }
    }

    /// Returns the numbers of slices and of devices in them.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.slices.len(), self.devices().count())
    }

    /// Returns whether any device has a taint.
    pub(super) fn have_taints(&self) -> bool {
        self.devices().any(|device| device.taints.as_ref().is_some_and(|taints| !taints.is_empty()))
    }

    /// Returns the names of all stored devices and of all counter sets.
    pub(super) fn names(&self) -> (BTreeSet<String>, BTreeSet<String>) {
        let sets = self.slices.values().flat_map(|slice| slice.spec.shared_counters.iter().flatten());
        let devices = self.devices().map(|device| device.name.clone());
        (devices.collect(), sets.map(|set| set.name.clone()).collect())
    }

    /// Returns the devices that the scheduler may allocate.
    pub(super) fn allocatable(&self, driver: &DraDriver) -> BTreeSet<DeviceId> {
        let withholds = |device: &Device| {
            let mut taints = device.taints.iter().flatten();
            taints.any(|taint| {
                WITHHOLD.contains(&taint.effect.as_str()) && taint.key.starts_with(driver.as_str())
            })
        };
        self.devices()
            .filter(|device| !withholds(device))
            .filter_map(|device| device_id(&device.name))
            .collect()
    }

    fn devices(&self) -> impl Iterator<Item = &Device> {
        self.slices.values().flat_map(|slice| slice.spec.devices.iter().flatten())
    }
}

fn name(slice: &ResourceSlice) -> String {
    slice.metadata.name.clone().unwrap_or_default()
}

/// Returns the resource version as a number, as which the versions of one object can be compared (KEP-5504).
fn version(slice: &ResourceSlice) -> Option<u128> {
    slice.metadata.resource_version.as_ref()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn slice(name: &str, version: u32, generation: i64, taint: Option<&str>) -> ResourceSlice {
        let taints: Vec<_> =
            taint.map(|effect| json!({"key": "a.io/held", "effect": effect})).into_iter().collect();
        serde_json::from_value(json!({
            "metadata": {"name": name, "uid": name, "resourceVersion": version.to_string()},
            "spec": {
                "driver": "a.io", "nodeName": "n",
                "pool": {"name": "n", "generation": generation, "resourceSliceCount": 1},
                "devices": [{"name": "pci-0000-1b-00-0", "taints": taints}],
            },
        }))
        .unwrap()
    }

    #[test]
    fn older_event_does_not_replace_the_answer_to_a_write() {
        let mut slices = StoredSlices::default();
        let driver = "a.io".parse().unwrap();
        slices.begin_list();
        slices.listed(slice("x", 5, 1, None));
        assert!(!slices.are_known());
        slices.end_list();
        assert!(slices.are_known() && slices.allocatable(&driver).len() == 1);
        slices.applied(slice("x", 7, 1, Some("NoSchedule")));
        slices.applied(slice("x", 6, 1, None));
        assert!(slices.allocatable(&driver).is_empty());
        slices.begin_list();
        slices.listed(slice("x", 5, 1, None));
        slices.end_list();
        assert!(slices.allocatable(&driver).is_empty());
        slices.applied(slice("x", 8, 1, Some("None")));
        assert_eq!(slices.allocatable(&driver).len(), 1);
    }

    #[test]
    fn deleted_slice_leaves_its_generation() {
        let mut slices = StoredSlices::default();
        slices.applied(slice("x", 5, 7, None));
        slices.deleted(&slice("y", 6, 7, None));
        assert_eq!(slices.all().len(), 1);
        slices.deleted(&slice("x", 6, 7, None));
        assert_eq!((slices.all().len(), slices.generation()), (0, 7));
    }
}
