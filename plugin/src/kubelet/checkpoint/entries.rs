//! Reads the checkpoint's JSON as a stream. Entries without ids that can be this plugin's leave their pod's uid only.

use crate::kubelet::checkpoint::fields::{Ids, StoredResponse};
use crate::kubelet::checkpoint::response::Response;
use crate::kubelet::kept::{Budget, Fault, Limit, OfferedResources};
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use std::collections::BTreeSet;
use std::fmt;
use vfio_plugin_policy::assignments::observation::CheckpointEntry;

/// The text of a malformed checkpoint's error, which is not shown.
const NOT: &str = "not a checkpoint";

/// What was read so far.
#[derive(Debug)]
pub(super) struct Reading<'a> {
    offered: &'a OfferedResources,
    budget: Budget,
    entries: Vec<CheckpointEntry>,
    /// The uids of all pods without an entry that was kept.
    pods: BTreeSet<String>,
    /// Why the reading ended early.
    pub(super) fault: Option<Fault>,
}

#[derive(Deserialize)]
#[serde(field_identifier)]
enum FileKey {
    Data,
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
#[serde(field_identifier)]
enum DataKey {
    PodDeviceEntries,
    #[serde(other)]
    Other,
}

#[derive(Deserialize)]
#[serde(field_identifier)]
enum EntryKey {
    #[serde(rename = "PodUID")]
    PodUid,
    ContainerName,
    ResourceName,
    #[serde(rename = "DeviceIDs")]
    DeviceIds,
    AllocResp,
    #[serde(other)]
    Other,
}

impl<'a> Reading<'a> {
    pub(super) fn new(offered: &'a OfferedResources) -> Self {
        let (entries, pods) = (Vec::new(), BTreeSet::new());
        Self { offered, budget: Budget::of_a_list(), entries, pods, fault: None }
    }

    /// Returns the entries. A pod of which no entry was kept has one without ids, because the pod is known to the kubelet.
    pub(super) fn finish(mut self) -> Vec<CheckpointEntry> {
        for entry in &self.entries {
            self.pods.remove(&entry.pod_uid);
        }
        let of_pod = |pod_uid| CheckpointEntry { pod_uid, ..CheckpointEntry::default() };
        self.entries.extend(self.pods.into_iter().map(of_pod));
        self.entries
    }

    /// Passes a value on, and keeps the reason of a failure.
    pub(super) fn check<T, E: Error>(&mut self, result: Result<T, impl Into<Fault>>) -> Result<T, E> {
        result.map_err(|fault| {
            self.fault = Some(fault.into());
            E::custom(NOT)
        })
    }

    /// Keeps what is needed of an entry.
    fn keep(&mut self, entry: CheckpointEntry, budget: Budget) -> Result<(), Limit> {
        if entry.ids.is_empty() && entry.response_ids.is_empty() && entry.nodes.is_empty() {
            if !self.pods.contains(&entry.pod_uid) {
                self.budget.pod(&entry.pod_uid)?;
                self.pods.insert(entry.pod_uid);
            }
            return Ok(());
        }
        self.budget = budget;
        self.budget.entry()?;
        for text in [&entry.pod_uid, &entry.container, &entry.resource] {
            self.budget.text(text)?;
        }
        self.entries.push(entry);
        Ok(())
    }
}

/// The whole file: an object with the object `Data`.
pub(super) struct File<'r, 'a>(pub(super) &'r mut Reading<'a>);

impl<'de> DeserializeSeed<'de> for File<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for File<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a checkpoint")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut has_data = false;
        while let Some(key) = map.next_key()? {
            match key {
                FileKey::Data => {
                    once(&mut has_data)?;
                    map.next_value_seed(Data(&mut *self.0))?;
                }
                FileKey::Other => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        expect(has_data)
    }
}

/// The object `Data`, with a list of entries and the registered devices.
struct Data<'r, 'a>(&'r mut Reading<'a>);

impl<'de> DeserializeSeed<'de> for Data<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Data<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the data of a checkpoint")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let mut has_entries = false;
        while let Some(key) = map.next_key()? {
            match key {
                DataKey::PodDeviceEntries => {
                    once(&mut has_entries)?;
                    map.next_value_seed(Entries(&mut *self.0))?;
                }
                DataKey::Other => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        expect(has_entries)
    }
}

/// The list of entries. Go writes a nil slice as null.
struct Entries<'r, 'a>(&'r mut Reading<'a>);

impl<'de> DeserializeSeed<'de> for Entries<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Entries<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of entries")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Entry(&mut *self.0))?.is_some() {}
        Ok(())
    }
}

/// One entry.
struct Entry<'r, 'a>(&'r mut Reading<'a>);

impl<'de> DeserializeSeed<'de> for Entry<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Entry<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an entry")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let reading = self.0;
        // Counts only if the entry is kept.
        let mut budget = reading.budget;
        let (mut pod_uid, mut container, mut resource) = (None, None, None);
        let (mut ids, mut response) = (None, None);
        while let Some(key) = map.next_key()? {
            match key {
                EntryKey::PodUid => set(&mut pod_uid, map.next_value::<String>()?)?,
                EntryKey::ContainerName => set(&mut container, map.next_value::<String>()?)?,
                EntryKey::ResourceName => set(&mut resource, map.next_value::<String>()?)?,
                EntryKey::DeviceIds => {
                    let mut found = Ids { reading: &mut *reading, budget: &mut budget, ids: BTreeSet::new() };
                    map.next_value_seed(&mut found)?;
                    let found = found.ids;
                    set(&mut ids, found)?;
                }
                EntryKey::AllocResp => {
                    let found =
                        map.next_value_seed(StoredResponse { reading: &mut *reading, budget: &mut budget })?;
                    set(&mut response, found)?;
                }
                EntryKey::Other => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        let (Some(pod_uid), Some(container), Some(resource)) = (pod_uid, container, resource) else {
            return Err(A::Error::custom(NOT));
        };
        let mut ids: BTreeSet<String> = ids.unwrap_or_default();
        ids.retain(|id| reading.offered.can_be_ours(&resource, id));
        let Response { ids: response_ids, nodes, cdi_names } = response.unwrap_or_default();
        let entry = CheckpointEntry { pod_uid, container, resource, ids, response_ids, nodes, cdi_names };
        let kept = reading.keep(entry, budget);
        reading.check(kept)
    }
}

/// Notes a field, which must not be there twice.
fn once<E: Error>(is_there: &mut bool) -> Result<(), E> {
    match std::mem::replace(is_there, true) {
        false => Ok(()),
        true => Err(E::custom(NOT)),
    }
}

fn set<T, E: Error>(slot: &mut Option<T>, value: T) -> Result<(), E> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(E::custom(NOT)),
    }
}

fn expect<E: Error>(is_there: bool) -> Result<(), E> {
    if is_there { Ok(()) } else { Err(E::custom(NOT)) }
}
