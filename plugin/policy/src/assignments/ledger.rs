//! Remembers which container was allocated what, from what the kubelet shows over time.
//!
//! No source is complete. Pod resources have names, but no uids and no init containers. The checkpoint has uids, but no names,
//! and it names pods that have ended until it is written again. The plugin's own Allocate calls name no pod at all.

use crate::assignments::expiry::{Evidence, PodEvidence};
use crate::assignments::kubelet::KubeletSocket;
use crate::assignments::lookup::{PodLookup, RecordLookup};
use crate::assignments::merge::{EntryState, merge_entry, merge_holders, merge_listed};
use crate::assignments::observation::{CheckpointEntry, LedgerUpdate, ListedPod, Observation};
use crate::assignments::record::{Assignment, Source};
use crate::assignments::stored_answer::StoredAnswer;
use crate::pools::terms::PinnedTerms;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// In how many observations in a row a pod must be missing to have ended.
const MISSES: u32 = 2;
/// The same for a pod that the checkpoint still names, if the checkpoint is not written again.
const MISSES_WHILE_DOUBTFUL: u32 = 5;

/// All assignments, and what is remembered to judge the next observation.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Ledger {
    records: Vec<Assignment>,
    /// Uids of pods that have ended, and that a checkpoint which was not written since still names.
    ended: BTreeSet<String>,
    kubelet: Option<KubeletSocket>,
    /// Names of all pods of the latest list that showed which pods are missing.
    #[serde(skip)]
    listed: BTreeSet<String>,
    /// Whether the checkpoint was written since that list; none if this kubelet has sent none. A list makes the kubelet update
    /// its in-memory state (`UpdateAllocatedDevices`), so a checkpoint that was written after it names no pod that has ended.
    #[serde(skip)]
    written_since_list: Option<bool>,
}

/// The records that an observation shows, by index.
#[derive(Debug, Default)]
struct Shown {
    sure: BTreeSet<usize>,
    doubtful: BTreeSet<usize>,
}

impl Ledger {
    /// Returns all assignments.
    pub fn assignments(&self) -> &[Assignment] {
        &self.records
    }

    /// Takes up the state of an earlier process: an Allocate that the kubelet has not shown yet counts from `now` on.
    pub fn restarted(&mut self, now: Instant) {
        for record in self.records.iter_mut().filter(|record| record.is_unconfirmed()) {
            record.source = Source::Allocate(Some(now));
            record.is_restored = true;
        }
    }

    /// Moves everything that happened later than `then` back to `then`, so that the model has finitely many states.
    #[cfg(any(test, feature = "testing"))]
    pub fn age(&mut self, then: Instant) {
        for record in &mut self.records {
            record.confirmed = record.confirmed.map(|at| at.min(then));
            if let Source::Allocate(Some(at)) = &mut record.source {
                *at = (*at).min(then);
            }
        }
    }

    /// Records that an Allocate of this plugin is granted. It replaces earlier ones of the same devices that the kubelet never
    /// showed.
    pub fn record_allocate(
        &mut self,
        resource: &str,
        checkpoint_ids: BTreeSet<String>,
        device_ids: BTreeSet<String>,
        pinned: PinnedTerms,
        now: Instant,
    ) {
        self.add_allocates([Assignment::allocated(resource, checkpoint_ids, device_ids, pinned, now)]);
    }

    /// Records the assignments of granted Allocates, as [`record_allocate`](Self::record_allocate) does, in linear time. They
    /// have no device in common.
    pub fn add_allocates(&mut self, allocates: impl IntoIterator<Item = Assignment>) {
        let allocates: Vec<Assignment> = allocates.into_iter().collect();
        let ids: BTreeSet<&String> = allocates.iter().flat_map(|record| &record.device_ids).collect();
        if ids.is_empty() {
            return; // A container without devices has no assignment.
        }
        let is_replaced = |record: &Assignment| {
            record.is_unconfirmed() && record.device_ids.iter().any(|id| ids.contains(id))
        };
        self.records.retain(|record| !is_replaced(record));
        self.records.extend(allocates.into_iter().filter(|record| !record.device_ids.is_empty()));
    }

    /// Takes in an observation: merges what it shows, and ends what it no longer shows.
    pub fn observe(&mut self, observation: &Observation<'_>) -> LedgerUpdate {
        let entries = self.relevant_entries(observation);
        let listed = PodLookup::new(observation.pods.unwrap_or_default());
        let pods = observation.pods.filter(|_| self.shows_missing_pods(observation, &listed, &entries));
        self.note_kubelet(observation.kubelet, &entries);
        let is_fresh = self.note_list(pods, observation.checkpoint_is_new);
        let (shown, checkpoint_is_stale) =
            self.merge(observation, &entries, (&listed, pods.is_some()), is_fresh);
        if pods.is_some() {
            self.written_since_list = Some(false);
        }
        let records = shown.sure.iter().filter_map(|&index| self.records.get(index));
        let evidence = Evidence::new(observation, pods.map(|_| &listed), records);
        let poll_again = self.end(&shown, &evidence, observation.now);
        LedgerUpdate {
            answered: pods.is_some() || observation.checkpoint.is_some(),
            poll_again,
            unnamed: self.records.iter().any(|record| record.pod.full_name.is_none()),
            checkpoint_is_stale,
        }
    }

    /// Returns the checkpoint's entries with ids of this plugin, of pods that have not ended.
    fn relevant_entries<'a>(&mut self, observation: &Observation<'a>) -> Vec<&'a CheckpointEntry> {
        let Some(entries) = observation.checkpoint else { return Vec::new() };
        if !self.ended.is_empty() {
            let named: BTreeSet<&str> = entries.iter().map(|entry| &*entry.pod_uid).collect();
            self.ended.retain(|uid| named.contains(&**uid));
        }
        let is_relevant = |entry: &&CheckpointEntry| {
            !self.ended.contains(&entry.pod_uid)
                && entry.ids.iter().any(|id| observation.is_vfio_id(&entry.resource, id))
        };
        entries.iter().filter(is_relevant).collect()
    }

    /// Returns whether a list shows which pods are missing. A kubelet that has just started knows only its static pods: the pods
    /// that it lists exist, and others may exist too if its checkpoint or this ledger knows of them.
    fn shows_missing_pods(
        &self,
        observation: &Observation<'_>,
        pods: &PodLookup<'_>,
        entries: &[&CheckpointEntry],
    ) -> bool {
        let is_listed = |name: &String| pods.named(name).next().is_some();
        let lacks_known_pod = || {
            self.records
                .iter()
                .filter_map(|record| record.pod.full_name.as_ref())
                .any(|name| !is_listed(name))
        };
        let lacks_entry = || entries.iter().any(|entry| pods.name_of(&entry.resource, &entry.ids).is_none());
        let is_empty = observation.pods.is_none_or(<[ListedPod]>::is_empty);
        !is_empty && !(observation.kubelet_is_starting && (lacks_entry() || lacks_known_pod()))
    }

    /// Notes a new kubelet, which may have started without its checkpoint.
    fn note_kubelet(&mut self, kubelet: Option<KubeletSocket>, entries: &[&CheckpointEntry]) {
        if kubelet.is_some() && self.kubelet != kubelet {
            let is_restart = self.kubelet.is_some();
            self.kubelet = kubelet;
            self.written_since_list = None;
            for record in &mut self.records {
                record.misses = 0;
                record.kubelet_restarts = (record.kubelet_restarts + u8::from(is_restart)).min(2);
            }
        }
        if !self.records.iter().any(|record| record.kubelet_restarts == 1) {
            return;
        }
        let shown: BTreeSet<(&str, &str, &BTreeSet<String>)> =
            entries.iter().map(|entry| (&*entry.pod_uid, &*entry.resource, &entry.ids)).collect();
        let is_shown = |record: &Assignment| {
            let uid = record.pod.uid.as_deref();
            uid.is_some_and(|uid| shown.contains(&(uid, &record.resource, &record.checkpoint_ids)))
        };
        // An Allocate of the same ids after the restart is in the checkpoint of any kubelet.
        let unconfirmed = self.records.iter().filter(|record| record.is_unconfirmed());
        let allocated: BTreeSet<&String> = unconfirmed.flat_map(|record| &record.checkpoint_ids).collect();
        let was_allocated_again =
            |record: &Assignment| record.checkpoint_ids.iter().any(|id| allocated.contains(id));
        let has_kept_checkpoint = self
            .records
            .iter()
            .any(|record| record.kubelet_restarts == 1 && is_shown(record) && !was_allocated_again(record));
        if has_kept_checkpoint {
            // What the checkpoint no longer names has ended. For a pod with a name the lists show that.
            for record in &mut self.records {
                if record.kubelet_restarts == 1 && record.pod.full_name.is_none() {
                    record.kubelet_restarts = 0;
                }
            }
        }
    }

    /// Notes the listed pods. Returns whether the checkpoint was written after the list before.
    fn note_list(&mut self, pods: Option<&[ListedPod]>, checkpoint_is_new: bool) -> bool {
        if let Some(pods) = pods {
            let listed = pods.iter().map(|pod| pod.full_name.clone()).collect();
            if listed != self.listed {
                self.records.iter_mut().for_each(|record| record.kept_at = None);
                self.listed = listed;
            }
        }
        self.written_since_list = self.written_since_list.map(|before| before || checkpoint_is_new);
        self.written_since_list == Some(true)
    }

    /// Merges all that the observation shows. Returns the shown records, and whether the checkpoint is stale.
    fn merge(
        &mut self,
        observation: &Observation<'_>,
        entries: &[&CheckpointEntry],
        pods: (&PodLookup<'_>, bool),
        is_fresh: bool,
    ) -> (Shown, bool) {
        let mut lookup = RecordLookup::new(&self.records);
        let mut shown = Shown::default();
        let mut checkpoint_is_stale = false;
        let mut answers: BTreeMap<usize, StoredAnswer> = BTreeMap::new();
        for entry in entries {
            let records = (&mut self.records, &mut lookup);
            let (index, state) = merge_entry(records, entry, pods, is_fresh, observation.now);
            answers.entry(index).or_default().add(&entry.nodes, &entry.cdi_names);
            checkpoint_is_stale |= state != EntryState::Confirmed;
            let indexes = if state == EntryState::Doubtful { &mut shown.doubtful } else { &mut shown.sure };
            indexes.insert(index);
        }
        for pod in observation.pods.unwrap_or_default() {
            for ((container, resource), ids) in &pod.devices {
                if ids.iter().any(|id| observation.is_vfio_id(resource, id)) {
                    let devices = (resource.as_str(), ids);
                    let name = &pod.full_name;
                    shown.sure.insert(merge_listed(
                        (&mut self.records, &mut lookup),
                        name,
                        container,
                        devices,
                        observation.now,
                    ));
                }
            }
        }
        for (index, answer) in answers {
            if let Some(record) = self.records.get_mut(index) {
                record.answer = answer;
            }
        }
        if let Some(offered) = observation.offered {
            for record in self.records.iter_mut().filter(|record| !record.was_offered) {
                record.was_offered = offered.contains(record.resource.as_str());
            }
        }
        if observation.adopt_holders {
            shown.sure.extend(merge_holders(&mut self.records, &self.ended, observation));
        }
        (shown, checkpoint_is_stale)
    }

    /// Drops ended assignments. Returns whether another poll soon decides something.
    fn end(&mut self, shown: &Shown, evidence: &Evidence<'_>, now: Instant) -> bool {
        let mut poll_again = false;
        let mut next = 0;
        let ended = &mut self.ended;
        self.records.retain_mut(|record| {
            let index = next;
            next += 1;
            if shown.sure.contains(&index) {
                (record.misses, record.kubelet_restarts) = (0, 0);
                return true;
            }
            let enough = if shown.doubtful.contains(&index) { MISSES_WHILE_DOUBTFUL } else { MISSES };
            let evidence = evidence.of(record);
            match evidence {
                PodEvidence::Inconclusive => {}
                PodEvidence::TooEarly => poll_again = true,
                PodEvidence::Over => return false,
                PodEvidence::Present => {
                    record.misses = 0;
                    record.confirmed = Some(now);
                }
                PodEvidence::Missing | PodEvidence::Replaced => {
                    record.misses += 1;
                    poll_again |= record.misses < enough;
                }
            }
            let has_ended = record.misses >= enough;
            if has_ended && evidence == PodEvidence::Missing {
                ended.extend(record.pod.uid.clone());
            }
            !has_ended
        });
        poll_again
    }
}

#[cfg(test)]
mod tests;
