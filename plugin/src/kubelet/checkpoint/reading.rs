//! Keeps what was read of the checkpoint: entries with ids that can be this plugin's, and the uids of all other pods.

use crate::kubelet::kept::{Budget, Fault, Limit, OfferedResources};
use serde::de::Error;
use std::collections::BTreeSet;
use vfio_plugin_policy::assignments::observation::CheckpointEntry;

/// The text of a malformed checkpoint's error, which is not shown.
pub(super) const NOT: &str = "not a checkpoint";

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

    /// Returns what may still be kept.
    pub(super) fn budget(&self) -> Budget {
        self.budget
    }

    /// Returns the resources that can be this plugin's.
    pub(super) fn offered(&self) -> &OfferedResources {
        self.offered
    }

    /// Keeps what is needed of an entry. `budget` is what may be kept after it.
    pub(super) fn keep(&mut self, entry: CheckpointEntry, budget: Budget) -> Result<(), Limit> {
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
