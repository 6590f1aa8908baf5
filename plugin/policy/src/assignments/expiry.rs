//! Decides what an observation says of an assignment that it does not show: what ends an assignment, and what does not.

use crate::assignments::lookup::PodLookup;
use crate::assignments::observation::{ListedPod, Observation};
use crate::assignments::record::{Assignment, Source};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// How long an Allocate counts that the kubelet never shows, while the kubelet gives no answer. If it answers, the pod has to be
/// missing like any other. The kubelet sends no notice if the admission fails for another reason, or if the pod ends at once.
pub(super) const UNCONFIRMED: Duration = Duration::from_secs(60);

/// What an observation says of an assignment that it does not show.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PodEvidence {
    /// The pod exists and keeps the devices.
    Present,
    /// The pod is missing. If it is again, it has ended.
    Missing,
    /// The pod exists, but its container has other devices.
    Replaced,
    /// The observation does not show whether the pod exists.
    Inconclusive,
    /// The Allocate is too recent for the kubelet to show it.
    TooEarly,
    /// The Allocate never became a pod's assignment, or is shown as part of another record.
    Over,
}

/// An observation, after the assignments that it shows were merged.
#[derive(Debug)]
pub(super) struct Evidence<'a> {
    observation: &'a Observation<'a>,
    /// None if the list does not show which pods are missing: it is empty, or the kubelet has just started and does not know all
    /// its pods.
    pods: Option<&'a PodLookup<'a>>,
    /// The uids of the pods in the checkpoint.
    checkpoint: BTreeSet<&'a str>,
    /// What the processes of each pod hold, by the pod's uid.
    held: BTreeMap<&'a str, Vec<&'a BTreeSet<String>>>,
    /// The shown assignments, by resource and ids.
    shown: BTreeSet<(String, BTreeSet<String>)>,
    /// The uids of the shown pods, by name.
    uids: BTreeMap<String, BTreeSet<String>>,
}

impl<'a> Evidence<'a> {
    /// Returns the evidence of an observation that shows the records `shown`.
    pub(super) fn new<'g>(
        observation: &'a Observation<'a>,
        pods: Option<&'a PodLookup<'a>>,
        shown: impl Iterator<Item = &'g Assignment>,
    ) -> Self {
        let entries = observation.checkpoint.unwrap_or_default().iter();
        let mut held: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for holds in observation.holders {
            held.entry(&*holds.pod_uid).or_default().push(&holds.ids);
        }
        let mut evidence = Self {
            observation,
            pods,
            checkpoint: entries.map(|entry| &*entry.pod_uid).collect(),
            held,
            shown: BTreeSet::new(),
            uids: BTreeMap::new(),
        };
        for record in shown {
            evidence.shown.insert((record.resource.clone(), record.checkpoint_ids.clone()));
            if let (Some(name), Some(uid)) = (&record.pod.full_name, &record.pod.uid) {
                evidence.uids.entry(name.clone()).or_default().insert(uid.clone());
            }
        }
        evidence
    }

    /// Returns what the observation says of a record that it does not show.
    pub(super) fn of(&self, record: &Assignment) -> PodEvidence {
        match (record.source, &record.pod.full_name) {
            (Source::Allocate(at), _) => self.of_allocate(record, at),
            (Source::Kubelet | Source::Cgroup, Some(name)) => self.of_named_pod(record, name),
            (Source::Kubelet | Source::Cgroup, None) => self.of_unnamed_pod(record),
        }
    }

    fn of_allocate(&self, record: &Assignment, at: Option<Instant>) -> PodEvidence {
        // Shown as a pod's: of the pod that this Allocate was for, or of an earlier pod. When that one ends, the list names the
        // new pod.
        if self.shown.contains(&(record.resource.clone(), record.checkpoint_ids.clone())) {
            return PodEvidence::Over;
        }
        let age = at.map_or(UNCONFIRMED, |at| self.observation.now.duration_since(at));
        if age >= UNCONFIRMED {
            PodEvidence::Over
        } else if self.pods.is_none() || self.observation.checkpoint.is_none() {
            PodEvidence::Inconclusive
        } else if age < self.observation.settling {
            PodEvidence::TooEarly
        } else {
            PodEvidence::Missing
        }
    }

    /// Without a name only the checkpoint can show the pod.
    fn of_unnamed_pod(&self, record: &Assignment) -> PodEvidence {
        if self.pods.is_none() {
            return PodEvidence::Inconclusive;
        }
        let uid = record.pod.uid.as_deref();
        let holder_exists =
            record.source == Source::Cgroup && uid.is_some_and(|uid| self.checkpoint.contains(uid));
        let cannot_be_checked = self.observation.checkpoint.is_none() && uid.is_some();
        if holder_exists || cannot_be_checked {
            PodEvidence::Present
        } else if record.kubelet_restarts > 0 && self.holds(record) {
            // The kubelet has lost its checkpoint, and the pod still runs. It is listed by a name that is not known to be its.
            PodEvidence::Inconclusive
        } else {
            PodEvidence::Missing
        }
    }

    fn of_named_pod(&self, record: &Assignment, name: &String) -> PodEvidence {
        let Some(pods) = self.pods else { return PodEvidence::Inconclusive };
        let is_another =
            |uids: &BTreeSet<String>| record.pod.uid.as_ref().is_some_and(|uid| !uids.contains(uid));
        let mut pods = pods.named(name).peekable();
        if pods.peek().is_none() || self.uids.get(name).is_some_and(is_another) {
            // Not listed, or another pod of the same name is.
            PodEvidence::Missing
        } else if pods.any(|pod| has_others(pod, record)) {
            PodEvidence::Replaced
        } else if record.kubelet_restarts > 0 {
            // Listed without its devices: the kubelet has lost its checkpoint, the pod has not lost the devices.
            PodEvidence::Present
        } else {
            // The same kubelet has shown the devices: the pod has ended. Kubelets before 1.34 list such pods too
            // (`KubeletPodResourcesListUseActivePods`).
            PodEvidence::Missing
        }
    }

    /// Returns whether a process of the pod, or of a pod that is unknown, holds a device of the assignment.
    fn holds(&self, record: &Assignment) -> bool {
        if !self.observation.held_by_unknown_pods.is_disjoint(&record.device_ids) {
            return true;
        }
        let theirs = record.pod.uid.as_deref().and_then(|uid| self.held.get(uid));
        theirs.into_iter().flatten().any(|ids| !ids.is_disjoint(&record.device_ids))
    }
}

/// Returns whether the pod's container has devices of the resource. They are others than the record's, which is not shown. Any
/// container counts if the record's container is not known.
fn has_others(pod: &ListedPod, record: &Assignment) -> bool {
    let mut devices = pod.devices.iter().filter(|((container, resource), _)| {
        record.container.as_ref().is_none_or(|of| of == container) && *resource == record.resource
    });
    devices.any(|(_, ids)| !ids.is_empty())
}
