//! Remembers which slices the API server stores.

use k8s_openapi::api::resource::v1::ResourceSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::{BTreeMap, BTreeSet};
use vfio_plugin_policy::dra::names::{DraDriver, device_id};
use vfio_plugin_policy::dra::stored::{StoredDevice, StoredSlice};
use vfio_probe::DeviceId;

/// The effects of a taint that keep the scheduler from allocating a device.
const WITHHOLD: [&str; 2] = ["NoSchedule", "NoExecute"];

/// The driver's slices of this node, as the watch and the answers to writes show them.
#[derive(Clone, Debug, Default)]
pub(super) struct StoredSlices {
    slices: BTreeMap<String, StoredSlice>,
    /// The slices of a list that has not ended.
    list: BTreeMap<String, StoredSlice>,
    is_listing: bool,
    are_known: bool,
    was_forgotten: bool,
    /// Whether a write without an answer may still be carried out.
    has_unanswered: bool,
    /// The highest generation ever seen or sent.
    generation: i64,
    /// How often the slices may have changed.
    revision: u64,
}

impl StoredSlices {
    /// Returns whether any list has ended since the start or [`forget`](Self::forget).
    pub(super) fn are_known(&self) -> bool {
        self.are_known
    }

    /// Returns all slices, in the order of their names.
    pub(super) fn all(&self) -> impl ExactSizeIterator<Item = &StoredSlice> {
        self.slices.values()
    }

    /// Returns whether no slice is stored.
    pub(super) fn is_empty(&self) -> bool {
        self.slices.is_empty()
    }

    /// Returns the highest generation ever seen or sent.
    pub(super) fn generation(&self) -> i64 {
        self.generation
    }

    /// Returns a number that is another one after each change of the slices.
    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// Notes that a request has failed, so that the slices are not known before the next list.
    pub(super) fn forget(&mut self) {
        (self.are_known, self.was_forgotten) = (false, true);
    }

    /// Returns whether the slices were known before a request has failed, and are to be listed again.
    pub(super) fn were_forgotten(&self) -> bool {
        self.was_forgotten
    }

    /// Returns whether a write without an answer may still be carried out: not all slices have been written since.
    pub(super) fn has_unanswered(&self) -> bool {
        self.has_unanswered
    }

    /// Notes that a write had no answer, or that an earlier process may have left one.
    pub(super) fn note_unanswered(&mut self) {
        self.has_unanswered = true;
    }

    /// Notes that all slices have been written.
    pub(super) fn note_answered(&mut self) {
        self.has_unanswered = false;
    }

    /// Notes the generation of a slice that is about to be sent. It may be stored although there is no answer.
    pub(super) fn note_generation(&mut self, slice: &ResourceSlice) {
        self.generation = self.generation.max(slice.spec.pool.generation);
    }

    /// Begins a list.
    pub(super) fn begin_list(&mut self) {
        self.list.clear();
        self.is_listing = true;
    }

    /// Adds a slice to the list.
    pub(super) fn listed(&mut self, slice: ResourceSlice) {
        insert(&mut self.list, slice.into());
    }

    /// Ends the list. Slices that it lacks are gone, except those that were written since it was begun.
    pub(super) fn end_list(&mut self) {
        self.revision += 1;
        let list = std::mem::take(&mut self.list);
        self.slices.retain(|name, _| list.contains_key(name));
        for slice in list.into_values() {
            self.apply(slice);
        }
        (self.is_listing, self.are_known, self.was_forgotten) = (false, true, false);
    }

    /// Takes a list that was made after all writes. A list of the watch that has not ended may be older, and goes on.
    pub(super) fn replace(&mut self, slices: Vec<ResourceSlice>) {
        self.revision += 1;
        let names: BTreeSet<String> = slices.iter().map(|slice| name(&slice.metadata)).collect();
        self.slices.retain(|name, _| names.contains(name));
        for slice in slices {
            self.written(slice);
        }
        (self.are_known, self.was_forgotten) = (true, false);
    }

    /// Takes the answer to a write.
    pub(super) fn written(&mut self, slice: ResourceSlice) {
        let slice = StoredSlice::from(slice);
        if self.is_listing {
            insert(&mut self.list, slice.clone());
        }
        self.apply(slice);
    }

    /// Takes a slice as it is stored now. An event of the watch may be older than the answer to a write.
    pub(super) fn applied(&mut self, slice: ResourceSlice) {
        self.apply(slice.into());
    }

    fn apply(&mut self, slice: StoredSlice) {
        self.revision += 1;
        self.generation = self.generation.max(slice.spec().pool.generation);
        insert(&mut self.slices, slice);
    }

    /// Removes a slice that was deleted, and not one that was created since with the same name.
    pub(super) fn deleted(&mut self, metadata: &ObjectMeta) {
        self.revision += 1;
        let name = name(metadata);
        for slices in [&mut self.slices, &mut self.list] {
            if slices.get(&name).is_some_and(|known| known.metadata().uid == metadata.uid) {
                slices.remove(&name);
            }
        }
    }

    /// Returns the numbers of slices and of devices in them.
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.slices.len(), self.devices().count())
    }

    /// Returns whether any device has a taint.
    pub(super) fn have_taints(&self) -> bool {
        self.devices().any(|device| !device.taints.is_empty())
    }

    /// Returns the names of all stored devices and of all counter sets.
    pub(super) fn names(&self) -> (BTreeSet<String>, BTreeSet<String>) {
        let sets = self.slices.values().flat_map(StoredSlice::counter_sets);
        let devices = self.devices().map(|device| device.name.clone());
        (devices.collect(), sets.map(|set| set.name.clone()).collect())
    }

    /// Returns the devices that the scheduler may allocate.
    pub(super) fn allocatable(&self, driver: &DraDriver) -> BTreeSet<DeviceId> {
        let withholds = |device: &StoredDevice| {
            device.taints.iter().any(|taint| {
                WITHHOLD.contains(&taint.effect.as_str()) && taint.key.starts_with(driver.as_str())
            })
        };
        self.devices()
            .filter(|device| !withholds(device))
            .filter_map(|device| device_id(&device.name))
            .collect()
    }

    fn devices(&self) -> impl Iterator<Item = &StoredDevice> {
        self.slices.values().flat_map(StoredSlice::devices)
    }
}

fn name(metadata: &ObjectMeta) -> String {
    metadata.name.clone().unwrap_or_default()
}

/// Adds a slice, unless a newer state of it is known.
fn insert(slices: &mut BTreeMap<String, StoredSlice>, slice: StoredSlice) {
    let name = name(slice.metadata());
    if !slices.get(&name).is_some_and(|known| is_newer(known.metadata(), slice.metadata())) {
        slices.insert(name, slice);
    }
}

/// Returns whether a slice is newer than another state of the same object.
fn is_newer(known: &ObjectMeta, other: &ObjectMeta) -> bool {
    known.uid == other.uid && version(other).is_some_and(|other| version(known) > Some(other))
}

/// Returns the resource version as a number, as which the versions of one object can be compared (KEP-5504).
fn version(metadata: &ObjectMeta) -> Option<u128> {
    metadata.resource_version.as_ref()?.parse().ok()
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
    fn slice_that_is_created_during_a_list_of_the_watch_stays() {
        let mut slices = StoredSlices::default();
        slices.begin_list();
        slices.note_generation(&slice("x", 0, 3, None));
        slices.written(slice("x", 9, 3, Some("NoSchedule")));
        slices.written(slice("y", 9, 3, None));
        slices.deleted(&slice("y", 9, 3, None).metadata);
        slices.listed(slice("x", 5, 1, None));
        slices.end_list();
        assert!(slices.allocatable(&"a.io".parse().unwrap()).is_empty(), "the list is older");
        assert_eq!((slices.all().len(), slices.generation()), (1, 3));
        slices.replace(Vec::new());
        assert!(slices.is_empty(), "a list of this driver is newer than its writes");
    }

    #[test]
    fn deleted_slice_leaves_its_generation() {
        let mut slices = StoredSlices::default();
        slices.applied(slice("x", 5, 7, None));
        slices.deleted(&slice("y", 6, 7, None).metadata);
        assert_eq!(slices.all().len(), 1);
        slices.deleted(&slice("x", 6, 7, None).metadata);
        assert_eq!((slices.all().len(), slices.generation()), (0, 7));
    }
}
