//! Pure: which pod was given what, from what the kubelet answers over time.
//!
//! No source is whole. Pod resources have names but no uids, and no init containers; the checkpoint has uids but no names,
//! and entries of pods that are gone until it is next written; our own Allocate calls have neither.

use crate::assignments::expiry::{Evidence, PodEvidence};
use crate::assignments::merge::{Shown, is_entry_of, name_of};
use crate::assignments::observation::{CheckpointEntry, KubeletSocket, LedgerUpdate, ListedPod, Observation};
use crate::assignments::record::{Assignment, Pod, Source};
use crate::pools::terms::PinnedTerms;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::time::Instant;

/// Answers in a row from which a pod must be missing.
const MISSING: u32 = 2;
/// And from how many, if the kubelet's checkpoint names it all the same and is not written anew.
const DOUBTFUL: u32 = 5;

/// All that is known.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Ledger {
    pub(super) given: Vec<Assignment>,
    /// Pods that are gone, and that a checkpoint not written since still names.
    pub(super) ended: BTreeSet<String>,
    kubelet: Option<KubeletSocket>,
    /// Names of all pods of the latest answer.
    #[serde(skip)]
    names: BTreeSet<String>,
    /// Whether the checkpoint was written since the latest answer of this kubelet, if there was one. A list of pods makes the
    /// kubelet's books anew (`UpdateAllocatedDevices`), so that one which was written after it names no pod that is gone.
    #[serde(skip)]
    written: Option<bool>,
}

impl Ledger {
    /// All that pods have.
    pub fn given(&self) -> &[Assignment] {
        &self.given
    }

    /// After our own restart: nothing that was remembered has been confirmed yet.
    pub fn restarted(&mut self, now: Instant) {
        for given in self.given.iter_mut().filter(|given| given.is_unconfirmed()) {
            given.source = Source::Allocate(Some(now));
        }
    }

    /// Whatever happened did so before `then`.
    #[cfg(any(test, feature = "testing"))]
    pub fn age(&mut self, then: Instant) {
        for given in &mut self.given {
            given.confirmed = given.confirmed.map(|at| at.min(then));
            if let Source::Allocate(Some(at)) = &mut given.source {
                *at = (*at).min(then);
            }
        }
    }

    /// An Allocate of ours was granted. It supersedes earlier ones of the same devices that the kubelet never showed.
    pub fn record_allocate(
        &mut self,
        resource: &str,
        ids: BTreeSet<String>,
        real: BTreeSet<String>,
        pinned: PinnedTerms,
        now: Instant,
    ) {
        self.given.retain(|given| !given.is_unconfirmed() || given.real.is_disjoint(&real));
        let source = Source::Allocate(Some(now));
        let pinned = Some(pinned);
        self.given.push(Assignment {
            real,
            pinned,
            ..Assignment::new(Pod::default(), resource, ids, source)
        });
    }

    /// Takes in what the kubelet answered.
    pub fn take(&mut self, round: &Observation<'_>) -> LedgerUpdate {
        let ours = |entry: &&CheckpointEntry| entry.ids.iter().any(|id| round.is_ours(&entry.resource, id));
        let checkpoint: Option<Vec<&CheckpointEntry>> = round.checkpoint.map(|entries| {
            self.ended.retain(|uid| entries.iter().any(|entry| entry.pod_uid == *uid));
            entries.iter().filter(|entry| !self.ended.contains(&entry.pod_uid)).filter(ours).collect()
        });
        let entries = checkpoint.as_deref().unwrap_or_default();
        let listed = round.pods.unwrap_or_default();
        let pods = round.pods.filter(|pods| self.is_answer(round, pods, entries));
        self.take_kubelet(round.kubelet, entries);
        let names: BTreeSet<String> = listed.iter().map(|pod| pod.pod.clone()).collect();
        if pods.is_some() && names != self.names {
            self.given.iter_mut().for_each(|given| given.booked = None);
        }
        self.written = self.written.map(|before| before || round.written);
        let fresh = self.written == Some(true);
        let (mut affirmed, mut doubtful) = (BTreeSet::new(), BTreeSet::new());
        let mut stale = false;
        for entry in entries {
            let (place, shown) = self.take_entry(entry, pods, fresh, round);
            stale |= shown != Shown::There;
            let places = if shown == Shown::Doubtful { &mut doubtful } else { &mut affirmed };
            places.insert(place);
        }
        for pod in listed {
            for ((container, resource), ids) in &pod.devices {
                if ids.iter().any(|id| round.is_ours(resource, id)) {
                    affirmed.insert(self.take_listed(&pod.pod, container, (resource, ids), round.now));
                }
            }
        }
        if round.adopt {
            affirmed.extend(self.take_cgroups(round));
        }
        if pods.is_some() {
            self.names = names;
            self.written = Some(false);
        }
        let shown = affirmed.iter().filter_map(|&place| self.given.get(place));
        let answer = Evidence::new(round, pods, shown);
        let ask_again = self.end(&affirmed, &doubtful, &answer, round.now);
        LedgerUpdate { answered: pods.is_some() || checkpoint.is_some(), ask_again, stale }
    }

    /// Whether a list tells who is missing. A kubelet that has just started does not know all of its pods, but static ones:
    /// what it lists is there, what it does not may be too, if its checkpoint or we know of it.
    fn is_answer(&self, round: &Observation<'_>, pods: &[ListedPod], entries: &[&CheckpointEntry]) -> bool {
        let listed = |name: &String| pods.iter().any(|pod| pod.pod == *name);
        let lacks =
            || self.given.iter().filter_map(|given| given.pod.name.as_ref()).any(|name| !listed(name));
        !pods.is_empty() && !(round.young && (disagrees(pods, entries) || lacks()))
    }

    /// Another kubelet may have started without its checkpoint.
    fn take_kubelet(&mut self, kubelet: Option<KubeletSocket>, entries: &[&CheckpointEntry]) {
        if kubelet.is_some() && self.kubelet != kubelet {
            let restarted = self.kubelet.is_some();
            self.kubelet = kubelet;
            self.written = None;
            for given in &mut self.given {
                given.missing = 0;
                given.unshown = (given.unshown + u8::from(restarted)).min(2);
            }
        }
        let known = |given: &Assignment| entries.iter().any(|entry| is_entry_of(entry, given));
        // What it was given again by an Allocate is in the checkpoint of any kubelet.
        let again = |given: &Assignment| {
            self.given.iter().any(|other| other.is_unconfirmed() && !other.ids.is_disjoint(&given.ids))
        };
        if self.given.iter().any(|given| given.unshown == 1 && known(given) && !again(given)) {
            // It has not: what its checkpoint does not name any more is gone. Of a pod with a name the lists tell that.
            for given in &mut self.given {
                if given.unshown == 1 && given.pod.name.is_none() {
                    given.unshown = 0;
                }
            }
        }
    }

    /// Lets go of what nobody has any more; whether a pod is missing for the first time.
    fn end(
        &mut self,
        affirmed: &BTreeSet<usize>,
        doubtful: &BTreeSet<usize>,
        answer: &Evidence<'_>,
        now: Instant,
    ) -> bool {
        let mut ask_again = false;
        let mut next = 0;
        let ended = &mut self.ended;
        self.given.retain_mut(|given| {
            let place = next;
            next += 1;
            if affirmed.contains(&place) {
                (given.missing, given.unshown) = (0, 0);
                return true;
            }
            let enough = if doubtful.contains(&place) { DOUBTFUL } else { MISSING };
            let verdict = answer.of(given);
            match verdict {
                PodEvidence::Silent => {}
                PodEvidence::Early => ask_again = true,
                PodEvidence::Over => return false,
                PodEvidence::There => {
                    given.missing = 0;
                    given.confirmed = Some(now);
                }
                PodEvidence::Missing | PodEvidence::Replaced => {
                    given.missing += 1;
                    ask_again |= given.missing < enough;
                }
            }
            let gone = given.missing >= enough;
            if gone && verdict == PodEvidence::Missing {
                ended.extend(given.pod.uid.clone());
            }
            !gone
        });
        ask_again
    }
}

/// Whether the checkpoint has devices that no listed pod has.
fn disagrees(pods: &[ListedPod], entries: &[&CheckpointEntry]) -> bool {
    entries.iter().any(|entry| name_of(&entry.resource, &entry.ids, pods).is_none())
}

#[cfg(test)]
mod tests;
