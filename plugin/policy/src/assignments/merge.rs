//! Merges what the kubelet shows into the records: which record a checkpoint entry, a listed container or a holder belongs to,
//! and what it adds to that record.

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
/// `pods` is the list if it shows which pods are missing. `is_fresh` says that the checkpoint was written after the list before.
pub(super) fn merge_entry(
    records: &mut Vec<Assignment>,
    entry: &CheckpointEntry,
    pods: Option<&[ListedPod]>,
    is_fresh: bool,
    observation: &Observation<'_>,
) -> (usize, EntryState) {
    let name = name_of(&entry.resource, &entry.ids, observation.pods.unwrap_or_default());
    let index = index_of_entry(records, entry, name.as_ref());
    let Some(record) = records.get_mut(index) else { return (index, EntryState::Doubtful) };
    record.pod.uid = Some(entry.pod_uid.clone());
    record.container = Some(entry.container.clone());
    record.pod.full_name = record.pod.full_name.take().or(name);
    record.device_ids = entry.devices().clone();
    record.source = Source::Kubelet;
    let Some(pods) = pods else {
        record.confirmed = Some(observation.now);
        return (index, EntryState::Confirmed);
    };
    let name = record.pod.full_name.as_ref();
    let is_listed = |name: &String| {
        pods.iter().any(|pod| pod.full_name == *name && has_any(pod, &entry.resource, &entry.ids))
    };
    if name.is_some_and(is_listed) {
        record.confirmed = Some(observation.now);
        (record.kept_at, record.lists_without_pod) = (None, 0);
        return (index, EntryState::Confirmed);
    }
    // A list makes the kubelet drop a pod that has ended from its in-memory state; the first list, if the pod was there when the
    // list began. Before that, the Allocate itself made the kubelet write the checkpoint.
    if is_fresh && record.lists_without_pod >= LISTS_BEFORE_KEPT {
        record.kept_at = Some(observation.now);
    }
    record.lists_without_pod = (record.lists_without_pod + 1).min(LISTS_BEFORE_KEPT);
    let is_kept = record.kept_at.is_some_and(|at| observation.now.duration_since(at) < KEPT);
    let state = match (name, is_kept) {
        (_, true) => EntryState::Confirmed,
        (None, false) => EntryState::Unconfirmed,
        (Some(_), false) => EntryState::Doubtful,
    };
    (index, state)
}

/// Returns the index of the record that an entry is about; adds one if there is none.
fn index_of_entry(records: &mut Vec<Assignment>, entry: &CheckpointEntry, name: Option<&String>) -> usize {
    let same = |record: &Assignment| record.checkpoint_ids == entry.ids && record.resource == entry.resource;
    // A record with another pod name belongs to an earlier pod.
    let may_be_named =
        |record: &Assignment| record.pod.full_name.is_none() || record.pod.full_name.as_ref() == name;
    let known = records.iter().position(|record| is_of_entry(record, entry)).or_else(|| {
        records.iter().position(|record| record.pod.uid.is_none() && same(record) && may_be_named(record))
    });
    known.unwrap_or_else(|| {
        let pod = PodRef { uid: Some(entry.pod_uid.clone()), full_name: None };
        records.push(Assignment::new(pod, &entry.resource, entry.ids.clone(), Source::Kubelet));
        records.len() - 1
    })
}

/// Merges the devices of one resource that a listed container has. Returns the record's index.
pub(super) fn merge_listed(
    records: &mut Vec<Assignment>,
    pod: &str,
    container: &str,
    (resource, ids): (&str, &BTreeSet<String>),
    now: Instant,
) -> usize {
    let same = |record: &Assignment| record.checkpoint_ids == *ids && record.resource == resource;
    let named = records
        .iter()
        .position(|record| record.pod.full_name.as_deref() == Some(pod) && same(record))
        .or_else(|| records.iter().position(|record| record.pod.full_name.is_none() && same(record)));
    let index = named.unwrap_or_else(|| {
        let pod = PodRef { uid: None, full_name: Some(pod.to_owned()) };
        records.push(Assignment::new(pod, resource, ids.clone(), Source::Kubelet));
        records.len() - 1
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
    for holds in observation.holders {
        let mut entries = observation.checkpoint.unwrap_or_default().iter();
        let pod_exists =
            entries.any(|entry| entry.pod_uid == holds.pod_uid) && !ended.contains(&holds.pod_uid);
        // If the pod has a record of this resource, its devices are known: the held one may be a group peer.
        let is_known = |record: &Assignment| {
            record.pod.uid.as_ref() == Some(&holds.pod_uid) && record.resource == holds.resource
                || !record.device_ids.is_disjoint(&holds.ids)
        };
        if pod_exists && !records.iter().any(is_known) {
            let pod = PodRef { uid: Some(holds.pod_uid.clone()), full_name: None };
            let record = Assignment::new(pod, &holds.resource, holds.ids.clone(), Source::Cgroup);
            added.push(records.len());
            records.push(Assignment { confirmed: Some(observation.now), ..record });
        }
    }
    added
}

/// Returns whether a record is of the same pod, resource and ids as an entry of the checkpoint.
pub(super) fn is_of_entry(record: &Assignment, entry: &CheckpointEntry) -> bool {
    record.pod.uid.as_ref() == Some(&entry.pod_uid)
        && record.checkpoint_ids == entry.ids
        && record.resource == entry.resource
}

/// Returns the name of the listed pod that has one of the ids.
pub(super) fn name_of(resource: &str, ids: &BTreeSet<String>, pods: &[ListedPod]) -> Option<String> {
    pods.iter().find(|pod| has_any(pod, resource, ids)).map(|pod| pod.full_name.clone())
}

fn has_any(pod: &ListedPod, resource: &str, ids: &BTreeSet<String>) -> bool {
    pod.devices.iter().any(|((_, listed), theirs)| listed == resource && !theirs.is_disjoint(ids))
}
