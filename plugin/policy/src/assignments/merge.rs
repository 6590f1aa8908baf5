//! Merges what the kubelet shows into the records: which record a checkpoint entry, a listed container or a holder belongs to,
//! and what it adds to that record.

use crate::assignments::lookup::{PodLookup, RecordLookup};
use crate::assignments::observation::{CheckpointEntry, ListedPod, Observation};
use crate::assignments::record::{Assignment, PodRef, Source};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How long a checkpoint that was written after a list counts more than the lists, while these show the same pods.
const KEPT: Duration = Duration::from_secs(60);

/// How many lists must lack a pod before a checkpoint that was written after them shows that the kubelet keeps the pod. One is
/// not enough: the kubelet updates its in-memory state before it lists its pods, and a pod may end between the two.
pub(super) const LISTS_BEFORE_KEPT: u8 = 2;

/// What an observation shows of a checkpoint entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum EntryState {
    /// The entry counts: the devices are a listed pod's, or the kubelet keeps the pod in its checkpoint although it does not list
    /// it, or pods could not be listed.
    Confirmed,
    /// No listed pod is known to have the devices: they are an init container's, or of a pod that has ended since the checkpoint
    /// was written. The entry counts until the checkpoint is written again.
    Unconfirmed,
    /// The pod is not listed, or is listed without the devices. The checkpoint may be out of date until it is written again.
    Doubtful,
}

/// Merges an entry of the checkpoint. Returns the record's index and what the observation shows of it.
///
/// `shows_missing` says that the list of `pods` shows which pods are missing, `is_fresh` that the checkpoint was written after the
/// list before.
pub(super) fn merge_entry(
    (records, lookup): (&mut Vec<Assignment>, &mut RecordLookup),
    entry: &CheckpointEntry,
    (pods, shows_missing): (&PodLookup<'_>, bool),
    is_fresh: bool,
    now: Instant,
) -> (usize, EntryState) {
    let name = pods.name_of(&entry.resource, &entry.ids).map(str::to_owned);
    let index = index_of_entry(records, lookup, entry, name.as_ref());
    let Some(record) = records.get_mut(index) else { return (index, EntryState::Doubtful) };
    record.pod.uid = Some(entry.pod_uid.clone());
    record.container = Some(entry.container.clone());
    record.pod.full_name = record.pod.full_name.take().or(name);
    record.device_ids = entry.devices().clone();
    record.source = Source::Kubelet;
    if !shows_missing {
        record.confirmed = Some(now);
        return (index, EntryState::Confirmed);
    }
    let name = record.pod.full_name.as_ref();
    let is_listed = |name: &String| pods.named(name).any(|pod| has_any(pod, &entry.resource, &entry.ids));
    if name.is_some_and(is_listed) {
        record.confirmed = Some(now);
        (record.kept_at, record.lists_without_pod) = (None, 0);
        return (index, EntryState::Confirmed);
    }
    // A list makes the kubelet drop a pod that has ended from its in-memory state; the first list, if the pod was there when the
    // list began. Before that, the Allocate itself made the kubelet write the checkpoint.
    if is_fresh && record.lists_without_pod >= LISTS_BEFORE_KEPT {
        record.kept_at = Some(now);
    }
    record.lists_without_pod = (record.lists_without_pod + 1).min(LISTS_BEFORE_KEPT);
    let is_kept = record.kept_at.is_some_and(|at| now.duration_since(at) < KEPT);
    let state = match (name, is_kept) {
        (_, true) => EntryState::Confirmed,
        (None, false) => EntryState::Unconfirmed,
        (Some(_), false) => EntryState::Doubtful,
    };
    (index, state)
}

/// Returns the index of the record that an entry is about; adds one if there is none.
fn index_of_entry(
    records: &mut Vec<Assignment>,
    lookup: &mut RecordLookup,
    entry: &CheckpointEntry,
    name: Option<&String>,
) -> usize {
    let devices = (&*entry.resource, &entry.ids);
    // A record with another pod name belongs to an earlier pod.
    let may_be_named =
        |record: &Assignment| record.pod.full_name.is_none() || record.pod.full_name.as_ref() == name;
    let of_pod = |record: &Assignment| record.pod.uid.as_ref() == Some(&entry.pod_uid);
    let known = lookup
        .find(records, devices, of_pod)
        .or_else(|| lookup.find(records, devices, |record| record.pod.uid.is_none() && may_be_named(record)));
    known.unwrap_or_else(|| {
        let pod = PodRef { uid: Some(entry.pod_uid.clone()), full_name: None };
        lookup.push(records, Assignment::new(pod, &entry.resource, entry.ids.clone(), Source::Kubelet))
    })
}

/// Merges the devices of one resource that a listed container has. Returns the record's index.
pub(super) fn merge_listed(
    (records, lookup): (&mut Vec<Assignment>, &mut RecordLookup),
    pod: &str,
    container: &str,
    devices: (&str, &BTreeSet<String>),
    now: Instant,
) -> usize {
    let named = lookup
        .find(records, devices, |record| record.pod.full_name.as_deref() == Some(pod))
        .or_else(|| lookup.find(records, devices, |record| record.pod.full_name.is_none()));
    let index = named.unwrap_or_else(|| {
        let (resource, ids) = devices;
        let pod = PodRef { uid: None, full_name: Some(pod.to_owned()) };
        lookup.push(records, Assignment::new(pod, resource, ids.clone(), Source::Kubelet))
    });
    if let Some(record) = records.get_mut(index) {
        record.pod.full_name = Some(pod.to_owned());
        record.container = Some(container.to_owned());
        record.source = Source::Kubelet;
        record.confirmed = Some(now);
    }
    index
}

/// Adds records for held devices if the holder's cgroup names a pod that the checkpoint knows with other devices. `ended` are the
/// uids of pods that have ended. Returns the indexes of the new records.
pub(super) fn merge_holders(
    records: &mut Vec<Assignment>,
    ended: &BTreeSet<String>,
    observation: &Observation<'_>,
) -> Vec<usize> {
    let mut added = Vec::new();
    if observation.holders.is_empty() {
        return added;
    }
    let entries = observation.checkpoint.unwrap_or_default().iter();
    let pods: BTreeSet<&str> =
        entries.map(|entry| &*entry.pod_uid).filter(|uid| !ended.contains(*uid)).collect();
    // If the pod has a record of this resource, its devices are known: the held one may be a group peer.
    let of_pod = |record: &Assignment| Some((record.pod.uid.clone()?, record.resource.clone()));
    let mut known: BTreeSet<(String, String)> = records.iter().filter_map(of_pod).collect();
    let mut assigned: BTreeSet<String> =
        records.iter().flat_map(|record| &record.device_ids).cloned().collect();
    for holds in observation.holders {
        let key = (holds.pod_uid.clone(), holds.resource.clone());
        let is_known = known.contains(&key) || holds.ids.iter().any(|id| assigned.contains(id));
        if pods.contains(&*holds.pod_uid) && !is_known {
            let pod = PodRef { uid: Some(holds.pod_uid.clone()), full_name: None };
            let record = Assignment::new(pod, &holds.resource, holds.ids.clone(), Source::Cgroup);
            added.push(records.len());
            records.push(Assignment { confirmed: Some(observation.now), ..record });
            known.insert(key);
            assigned.extend(holds.ids.iter().cloned());
        }
    }
    added
}

fn has_any(pod: &ListedPod, resource: &str, ids: &BTreeSet<String>) -> bool {
    pod.devices.iter().any(|((_, listed), theirs)| listed == resource && !theirs.is_disjoint(ids))
}
