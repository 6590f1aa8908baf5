//! Pure: which pod was given what, from what the kubelet answers over time.
//!
//! No source is whole. Pod resources have names but no uids, and no init containers; the checkpoint has uids but no names,
//! and entries of pods that are gone until it is next written; our own Allocate calls have neither.

use super::answer::{Answer, Verdict};
use super::checkpoint::Entry;
use super::given::{Given, Pod, Source, is_ours};
use crate::kubelet_dir::KubeletSocket;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// Answers in a row from which a pod must be missing.
const MISSING: u32 = 2;

/// One container of a listed pod.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Listed {
    /// `namespace/name`.
    pub(crate) pod: String,
    /// Ids by container and resource.
    pub(crate) devices: BTreeMap<(String, String), BTreeSet<String>>,
}

/// What was asked at one time. Pods are listed before the checkpoint is read, which then has all of them.
#[derive(Debug)]
pub(crate) struct Round<'a> {
    /// When.
    pub(crate) now: Instant,
    /// The pods, if the kubelet told.
    pub(crate) pods: Option<&'a [Listed]>,
    /// The checkpoint, if it could be read.
    pub(crate) checkpoint: Option<&'a [Entry]>,
    /// The kubelet's socket.
    pub(crate) kubelet: Option<KubeletSocket>,
    /// It has appeared a short time ago: its pods may not be known to it yet.
    pub(crate) young: bool,
    /// How long after an Allocate the kubelet may not show what it has given.
    pub(crate) settling: Duration,
    /// Resource and ids of devices in groups that are held, with the pod uid of the holder's cgroup.
    pub(crate) cgroups: &'a [(String, BTreeSet<String>, String)],
    /// Whether they make owners: after our own start only; later whoever holds without owning is foreign.
    pub(crate) adopt: bool,
}

/// What came of a round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Outcome {
    /// Either source gave an answer.
    pub(crate) answered: bool,
    /// A pod was missing for the first time, or is not shown yet: worth asking again soon.
    pub(crate) ask_again: bool,
    /// The checkpoint names a pod that cannot be found in the list: one that has ended since it was written, or one that has
    /// devices in its init containers alone. Only a checkpoint that is written anew tells.
    pub(crate) stale: bool,
}

/// All that is known.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Ledger {
    given: Vec<Given>,
    /// Pods that are gone, and that a checkpoint not written since still names.
    ended: BTreeSet<String>,
    kubelet: Option<KubeletSocket>,
}

impl Ledger {
    /// All that pods have.
    pub(crate) fn given(&self) -> &[Given] {
        &self.given
    }

    /// After our own restart: nothing that was remembered has been confirmed yet.
    pub(crate) fn restarted(&mut self, now: Instant) {
        for given in self.given.iter_mut().filter(|given| given.is_unconfirmed()) {
            given.source = Source::Allocate(Some(now));
        }
    }

    /// Whatever happened did so before `then`.
    #[cfg(test)]
    pub(crate) fn age(&mut self, then: Instant) {
        for given in &mut self.given {
            given.confirmed = given.confirmed.map(|at| at.min(then));
            if let Source::Allocate(Some(at)) = &mut given.source {
                *at = (*at).min(then);
            }
        }
    }

    /// An Allocate of ours was granted. It supersedes earlier ones of the same devices that the kubelet never showed.
    pub(crate) fn granted(
        &mut self,
        resource: &str,
        ids: BTreeSet<String>,
        real: BTreeSet<String>,
        now: Instant,
    ) {
        self.given.retain(|given| !given.is_unconfirmed() || given.real.is_disjoint(&real));
        let source = Source::Allocate(Some(now));
        self.given.push(Given { real, ..Given::new(Pod::default(), resource, ids, source) });
    }

    /// Takes in what the kubelet answered.
    pub(crate) fn take(&mut self, round: &Round<'_>) -> Outcome {
        let checkpoint: Option<Vec<&Entry>> = round.checkpoint.map(|entries| {
            self.ended.retain(|uid| entries.iter().any(|entry| entry.pod_uid == *uid));
            let live = |entry: &&Entry| {
                !self.ended.contains(&entry.pod_uid) && entry.ids.iter().any(|id| is_ours(id))
            };
            entries.iter().filter(live).collect()
        });
        // A kubelet that has not synced yet lists no pods, or few: what it lists is there, what it does not may be too.
        let listed = round.pods.unwrap_or_default();
        let no_answer = |pods: &[Listed]| {
            pods.is_empty() || round.young && disagrees(pods, checkpoint.as_deref().unwrap_or_default())
        };
        let pods = round.pods.filter(|pods| !no_answer(pods));
        if self.kubelet != round.kubelet {
            self.kubelet = round.kubelet;
            for given in &mut self.given {
                (given.missing, given.unshown) = (0, (given.unshown + 1).min(2));
            }
        }
        let entries = checkpoint.as_deref().unwrap_or_default();
        let latest = self.given.iter().filter(|given| given.unshown == 1);
        if latest
            .flat_map(|given| entries.iter().map(move |entry| is_entry_of(entry, given)))
            .any(|kept| kept)
        {
            // It has not started without its checkpoint: what that does not name any more is gone.
            self.given.iter_mut().filter(|given| given.unshown == 1).for_each(|given| given.unshown = 0);
        }
        let mut affirmed = BTreeSet::new();
        let mut stale = false;
        for entry in entries {
            let place = self.take_entry(entry, listed, pods.is_some(), round.now);
            let named = |place: usize| self.given.get(place).is_some_and(|given| given.pod.name.is_some());
            stale |= pods.is_some() && place.is_some_and(|place| !named(place));
            affirmed.extend(place);
        }
        for pod in listed {
            for ((container, resource), ids) in &pod.devices {
                if ids.iter().any(|id| is_ours(id)) {
                    affirmed.insert(self.take_listed(&pod.pod, container, (resource, ids), round.now));
                }
            }
        }
        if round.adopt {
            affirmed.extend(self.take_cgroups(round));
        }
        let shown = affirmed.iter().filter_map(|&place| self.given.get(place));
        let answer = Answer::new(round, pods, shown);
        let ask_again = self.end(&affirmed, &answer, round.now);
        Outcome { answered: pods.is_some() || checkpoint.is_some(), ask_again, stale }
    }

    /// Holders whose cgroup names a pod that the kubelet knows, though it does not say what that has.
    fn take_cgroups(&mut self, round: &Round<'_>) -> Vec<usize> {
        let mut places = Vec::new();
        for (resource, ids, uid) in round.cgroups {
            let mut entries = round.checkpoint.unwrap_or_default().iter();
            let there = entries.any(|entry| entry.pod_uid == *uid) && !self.ended.contains(uid);
            if there && self.given.iter().all(|given| given.real.is_disjoint(ids)) {
                places.push(self.given.len());
                let pod = Pod { uid: Some(uid.clone()), name: None };
                let given = Given::new(pod, resource, ids.clone(), Source::Cgroup);
                self.given.push(Given { confirmed: Some(round.now), ..given });
            }
        }
        places
    }

    /// One entry of the checkpoint; its place in the ledger, if it shows that the pod is there. `all`: no pod is missing from
    /// the list.
    fn take_entry(&mut self, entry: &Entry, listed: &[Listed], all: bool, now: Instant) -> Option<usize> {
        let name = name_of(&entry.resource, &entry.ids, listed);
        let uid = Some(&entry.pod_uid);
        let same = |given: &Given| given.ids == entry.ids && given.resource == entry.resource;
        let place = self
            .given
            .iter()
            .position(|given| is_entry_of(entry, given))
            .or_else(|| self.given.iter().position(|given| given.pod.uid.is_none() && same(given)));
        let real =
            if entry.told.iter().any(|id| is_ours(id)) { entry.told.clone() } else { entry.ids.clone() };
        let place = place.unwrap_or_else(|| {
            let pod = Pod { uid: uid.cloned(), name: None };
            self.given.push(Given::new(pod, &entry.resource, entry.ids.clone(), Source::Kubelet));
            self.given.len() - 1
        });
        let given = self.given.get_mut(place)?;
        given.pod.uid = uid.cloned();
        given.container = Some(entry.container.clone());
        given.pod.name = given.pod.name.take().or(name);
        given.real = real;
        given.source = Source::Kubelet;
        // Until it is written anew the checkpoint names pods that are gone; a list of pods knows better.
        let name = given.pod.name.as_ref();
        let known = name.is_some();
        if all && name.is_some_and(|name| !listed.iter().any(|pod| pod.pod == *name)) {
            return None;
        }
        if known || !all {
            given.confirmed = Some(now);
        }
        Some(place)
    }

    fn take_listed(
        &mut self,
        pod: &str,
        container: &str,
        (resource, ids): (&str, &BTreeSet<String>),
        now: Instant,
    ) -> usize {
        let same = |given: &Given| given.ids == *ids && given.resource == resource;
        let name = |given: &Given| given.pod.name.as_deref() == Some(pod);
        let place = self
            .given
            .iter()
            .position(|given| name(given) && same(given))
            .or_else(|| self.given.iter().position(|given| given.pod.name.is_none() && same(given)));
        let place = place.unwrap_or_else(|| {
            let pod = Pod { uid: None, name: Some(pod.to_owned()) };
            self.given.push(Given::new(pod, resource, ids.clone(), Source::Kubelet));
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

    /// Lets go of what nobody has any more; whether a pod is missing for the first time.
    fn end(&mut self, affirmed: &BTreeSet<usize>, answer: &Answer<'_>, now: Instant) -> bool {
        let mut ask_again = false;
        let mut place = 0;
        let ended = &mut self.ended;
        self.given.retain_mut(|given| {
            place += 1;
            if affirmed.contains(&(place - 1)) {
                (given.missing, given.unshown) = (0, 0);
                return true;
            }
            let verdict = answer.of(given);
            match verdict {
                Verdict::Silent => {}
                Verdict::Early => ask_again = true,
                Verdict::Over => return false,
                Verdict::There => {
                    given.missing = 0;
                    given.confirmed = Some(now);
                }
                Verdict::Missing | Verdict::Replaced => {
                    given.missing += 1;
                    ask_again |= given.missing < MISSING;
                }
            }
            let gone = given.missing >= MISSING;
            if gone && verdict == Verdict::Missing {
                ended.extend(given.pod.uid.clone());
            }
            !gone
        });
        ask_again
    }
}

/// Whether an entry of the checkpoint is of the same container as something that is known already.
fn is_entry_of(entry: &Entry, given: &Given) -> bool {
    given.pod.uid.as_ref() == Some(&entry.pod_uid)
        && given.ids == entry.ids
        && given.resource == entry.resource
}

/// The listed pod that has what the checkpoint says a pod was given.
fn name_of(resource: &str, ids: &BTreeSet<String>, pods: &[Listed]) -> Option<String> {
    let has = |pod: &&Listed| {
        pod.devices.iter().any(|((_, listed), theirs)| listed == resource && !theirs.is_disjoint(ids))
    };
    pods.iter().find(has).map(|pod| pod.pod.clone())
}

/// Whether the checkpoint has devices that no listed pod has.
fn disagrees(pods: &[Listed], entries: &[&Entry]) -> bool {
    entries.iter().any(|entry| name_of(&entry.resource, &entry.ids, pods).is_none())
}

#[cfg(test)]
mod tests;
