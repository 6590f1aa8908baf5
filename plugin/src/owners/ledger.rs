//! Pure: which pod was given what, from what the kubelet answers over time.
//!
//! No source is whole. Pod resources have names but no uids, and no init containers; the checkpoint has uids but no names,
//! and entries of pods that are gone until it is next written; our own Allocate calls have neither.

use super::answer::{Answer, Verdict};
use super::checkpoint::Entry;
use super::given::{self, Given, Pod, Source};
use super::merging::{Shown, is_entry_of, name_of};
use crate::kubelet_dir::KubeletSocket;
use crate::pools::Fixed;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Answers in a row from which a pod must be missing.
const MISSING: u32 = 2;
/// And from how many, if the kubelet's checkpoint names it all the same and is not written anew.
const DOUBTFUL: u32 = 5;

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
    /// It was written since the round before.
    pub(crate) written: bool,
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
    /// The resources that we offer, if they are known: of others numbers are no ids of ours.
    pub(crate) offered: Option<&'a BTreeSet<Arc<str>>>,
}

impl Round<'_> {
    /// One in which nothing was told.
    pub(crate) fn at(now: Instant) -> Self {
        Self {
            now,
            pods: None,
            checkpoint: None,
            written: false,
            kubelet: None,
            young: false,
            settling: Duration::ZERO,
            cgroups: &[],
            adopt: false,
            offered: None,
        }
    }

    /// Whether an id can be one of VFIO's.
    fn is_ours(&self, resource: &str, id: &str) -> bool {
        given::is_ours(id, self.offered.is_none_or(|offered| offered.contains(resource)))
    }
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
    pub(super) given: Vec<Given>,
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
        fixed: Fixed,
        now: Instant,
    ) {
        self.given.retain(|given| !given.is_unconfirmed() || given.real.is_disjoint(&real));
        let source = Source::Allocate(Some(now));
        let fixed = Some(fixed);
        self.given.push(Given { real, fixed, ..Given::new(Pod::default(), resource, ids, source) });
    }

    /// Takes in what the kubelet answered.
    pub(crate) fn take(&mut self, round: &Round<'_>) -> Outcome {
        let ours = |entry: &&Entry| entry.ids.iter().any(|id| round.is_ours(&entry.resource, id));
        let checkpoint: Option<Vec<&Entry>> = round.checkpoint.map(|entries| {
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
        let answer = Answer::new(round, pods, shown);
        let ask_again = self.end(&affirmed, &doubtful, &answer, round.now);
        Outcome { answered: pods.is_some() || checkpoint.is_some(), ask_again, stale }
    }

    /// Whether a list tells who is missing. A kubelet that has just started does not know all of its pods, but static ones:
    /// what it lists is there, what it does not may be too, if its checkpoint or we know of it.
    fn is_answer(&self, round: &Round<'_>, pods: &[Listed], entries: &[&Entry]) -> bool {
        let listed = |name: &String| pods.iter().any(|pod| pod.pod == *name);
        let lacks =
            || self.given.iter().filter_map(|given| given.pod.name.as_ref()).any(|name| !listed(name));
        !pods.is_empty() && !(round.young && (disagrees(pods, entries) || lacks()))
    }

    /// Another kubelet may have started without its checkpoint.
    fn take_kubelet(&mut self, kubelet: Option<KubeletSocket>, entries: &[&Entry]) {
        if kubelet.is_some() && self.kubelet != kubelet {
            let restarted = self.kubelet.is_some();
            self.kubelet = kubelet;
            self.written = None;
            for given in &mut self.given {
                given.missing = 0;
                given.unshown = (given.unshown + u8::from(restarted)).min(2);
            }
        }
        let known = |given: &Given| entries.iter().any(|entry| is_entry_of(entry, given));
        // What it was given again by an Allocate is in the checkpoint of any kubelet.
        let again = |given: &Given| {
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
        answer: &Answer<'_>,
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
                Verdict::Silent => {}
                Verdict::Early => ask_again = true,
                Verdict::Over => return false,
                Verdict::There => {
                    given.missing = 0;
                    given.confirmed = Some(now);
                }
                Verdict::Missing | Verdict::Replaced => {
                    given.missing += 1;
                    ask_again |= given.missing < enough;
                }
            }
            let gone = given.missing >= enough;
            if gone && verdict == Verdict::Missing {
                ended.extend(given.pod.uid.clone());
            }
            !gone
        });
        ask_again
    }
}

/// Whether the checkpoint has devices that no listed pod has.
fn disagrees(pods: &[Listed], entries: &[&Entry]) -> bool {
    entries.iter().any(|entry| name_of(&entry.resource, &entry.ids, pods).is_none())
}

#[cfg(test)]
mod tests;
