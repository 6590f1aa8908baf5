//! Pure: which record of the ledger an answer of the kubelet is about, and what it adds to it.

use crate::assignments::ledger::Ledger;
use crate::assignments::observation::{CheckpointEntry, ListedPod, Observation};
use crate::assignments::record::{Assignment, Pod, Source, is_ours};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

/// How long a checkpoint that was written after a list is believed in what the list does not show, as long as the pods are the
/// same ones.
const BOOKED: Duration = Duration::from_secs(60);

/// So many lists must lack a pod before a checkpoint that was written after them tells that the kubelet keeps it: it makes
/// its books anew before it lists its pods, and one may end between the two.
const LACKED: u8 = 2;

/// What a round says of an entry of the checkpoint.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Shown {
    /// A listed pod has it, or the kubelet keeps it in its books though it lists it not, or nobody lists pods.
    There,
    /// No listed pod is known to have it: an init container's, or a pod's that has ended since the checkpoint was written. It
    /// stands until that is written anew.
    Perhaps,
    /// Its pod is not listed, or without it; until it is written anew the checkpoint may be behind.
    Doubtful,
}

impl Ledger {
    /// One entry of the checkpoint: its place in the ledger, and what it shows; `pods` if the list tells who is missing,
    /// `fresh` if the checkpoint was written after the list before.
    pub(super) fn take_entry(
        &mut self,
        entry: &CheckpointEntry,
        pods: Option<&[ListedPod]>,
        fresh: bool,
        round: &Observation<'_>,
    ) -> (usize, Shown) {
        let name = name_of(&entry.resource, &entry.ids, round.pods.unwrap_or_default());
        let same = |given: &Assignment| given.ids == entry.ids && given.resource == entry.resource;
        // One whose pod has another name is its predecessor's.
        let unnamed = |given: &Assignment| given.pod.name.is_none() || given.pod.name == name;
        let known = self.given.iter().position(|given| is_entry_of(entry, given)).or_else(|| {
            self.given.iter().position(|given| given.pod.uid.is_none() && same(given) && unnamed(given))
        });
        let place = known.unwrap_or_else(|| {
            let pod = Pod { uid: Some(entry.pod_uid.clone()), name: None };
            self.given.push(Assignment::new(pod, &entry.resource, entry.ids.clone(), Source::Kubelet));
            self.given.len() - 1
        });
        let Some(given) = self.given.get_mut(place) else { return (place, Shown::Doubtful) };
        given.pod.uid = Some(entry.pod_uid.clone());
        given.container = Some(entry.container.clone());
        given.pod.name = given.pod.name.take().or(name);
        given.real =
            if entry.told.iter().any(|id| is_ours(id, true)) { &entry.told } else { &entry.ids }.clone();
        given.source = Source::Kubelet;
        let Some(pods) = pods else {
            given.confirmed = Some(round.now);
            return (place, Shown::There);
        };
        let name = given.pod.name.as_ref();
        if name.is_some_and(|name| {
            pods.iter().any(|pod| pod.pod == *name && has_any(pod, &entry.resource, &entry.ids))
        }) {
            given.confirmed = Some(round.now);
            (given.booked, given.lacked) = (None, 0);
            return (place, Shown::There);
        }
        // A list that lacks its pod makes the kubelet forget it; the first one, if it was there when that began. Before, the
        // Allocate itself has made it write the checkpoint.
        if fresh && given.lacked >= LACKED {
            given.booked = Some(round.now);
        }
        given.lacked = (given.lacked + 1).min(LACKED);
        match (name, given.booked.is_some_and(|at| round.now.duration_since(at) < BOOKED)) {
            (_, true) => (place, Shown::There),
            (None, false) => (place, Shown::Perhaps),
            (Some(_), false) => (place, Shown::Doubtful),
        }
    }

    /// What a listed pod has; its place in the ledger.
    pub(super) fn take_listed(
        &mut self,
        pod: &str,
        container: &str,
        (resource, ids): (&str, &BTreeSet<String>),
        now: Instant,
    ) -> usize {
        let same = |given: &Assignment| given.ids == *ids && given.resource == resource;
        let name = |given: &Assignment| given.pod.name.as_deref() == Some(pod);
        let place = self
            .given
            .iter()
            .position(|given| name(given) && same(given))
            .or_else(|| self.given.iter().position(|given| given.pod.name.is_none() && same(given)));
        let place = place.unwrap_or_else(|| {
            let pod = Pod { uid: None, name: Some(pod.to_owned()) };
            self.given.push(Assignment::new(pod, resource, ids.clone(), Source::Kubelet));
            self.given.len() - 1
        });
        if let Some(given) = self.given.get_mut(place) {
            given.pod.name = Some(pod.to_owned());
            given.container = Some(container.to_owned());
            given.source = Source::Kubelet;
            given.confirmed = Some(now);
        }
        place
    }

    /// Holders whose cgroup names a pod that the kubelet knows, though it does not say what that has.
    pub(super) fn take_cgroups(&mut self, round: &Observation<'_>) -> Vec<usize> {
        let mut places = Vec::new();
        for (resource, ids, uid) in round.cgroups {
            let mut entries = round.checkpoint.unwrap_or_default().iter();
            let there = entries.any(|entry| entry.pod_uid == *uid) && !self.ended.contains(uid);
            // Of a pod that has some of the resource it is known what it has: another member of the group perhaps.
            let known =
                |given: &Assignment| given.pod.uid.as_ref() == Some(uid) && given.resource == *resource;
            if there && !self.given.iter().any(|given| known(given) || !given.real.is_disjoint(ids)) {
                places.push(self.given.len());
                let pod = Pod { uid: Some(uid.clone()), name: None };
                let given = Assignment::new(pod, resource, ids.clone(), Source::Cgroup);
                self.given.push(Assignment { confirmed: Some(round.now), ..given });
            }
        }
        places
    }
}

/// Whether an entry of the checkpoint is of the same container as something that is known already.
pub(super) fn is_entry_of(entry: &CheckpointEntry, given: &Assignment) -> bool {
    given.pod.uid.as_ref() == Some(&entry.pod_uid)
        && given.ids == entry.ids
        && given.resource == entry.resource
}

/// The listed pod that has what the checkpoint says a pod was given.
pub(super) fn name_of(resource: &str, ids: &BTreeSet<String>, pods: &[ListedPod]) -> Option<String> {
    pods.iter().find(|pod| has_any(pod, resource, ids)).map(|pod| pod.pod.clone())
}

fn has_any(pod: &ListedPod, resource: &str, ids: &BTreeSet<String>) -> bool {
    pod.devices.iter().any(|((_, listed), theirs)| listed == resource && !theirs.is_disjoint(ids))
}
