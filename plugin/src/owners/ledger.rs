//! Pure: which pod was given what, from what the kubelet answers over time.
//!
//! No source is whole. Pod resources have names but no uids, and no init containers; the checkpoint has uids but no names,
//! and entries of pods that are gone until it is next written; our own Allocate calls have neither.

use super::checkpoint::Entry;
use crate::kubelet_dir::KubeletSocket;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::{Duration, Instant};
use vfio_probe::{DeviceId, GroupId};

/// A device that an Allocate gave away, and that the kubelet shows nowhere, is a pod's for this long at most, if the kubelet
/// cannot be asked. If it can: until it is missing like any other. Its admission may have failed for another reason, or the
/// pod may be gone already, of which nobody tells us.
const UNCONFIRMED: Duration = Duration::from_secs(60);
/// Answers in a row from which a pod must be missing.
const MISSING: u32 = 2;

/// A pod, as far as it is known.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Pod {
    /// Its uid, from the checkpoint or a cgroup.
    pub(crate) uid: Option<String>,
    /// `namespace/name`, from pod resources.
    pub(crate) name: Option<String>,
}

/// What one container was given of one resource.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Given {
    /// The pod.
    pub(crate) pod: Pod,
    /// The container of the pod, which an Allocate does not tell.
    container: Option<String>,
    /// The resource.
    pub(crate) resource: String,
    /// The ids in the kubelet's books.
    pub(crate) ids: BTreeSet<String>,
    /// What it really has; others than `ids` after a substitution.
    pub(crate) real: BTreeSet<String>,
    /// Told by the cgroup of a holder alone.
    by_cgroup: bool,
    /// An Allocate of ours that the kubelet has not shown yet.
    unconfirmed: bool,
    /// When that was, or when we have started again since.
    #[serde(skip)]
    granted: Option<Instant>,
    /// When the kubelet last said that the pod is there.
    #[serde(skip)]
    pub(crate) confirmed: Option<Instant>,
    #[serde(skip)]
    missing: u32,
}

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
    /// Ids of devices in groups that are held, with the pod uid of the holder's cgroup; for a first round.
    pub(crate) cgroups: &'a [(String, BTreeSet<String>, String)],
}

/// What came of a round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Outcome {
    /// Either source gave an answer.
    pub(crate) answered: bool,
    /// A pod was missing for the first time: worth asking again soon.
    pub(crate) ask_again: bool,
    /// Something is owned otherwise than before.
    pub(crate) changed: bool,
    /// The checkpoint names a pod that cannot be found in the list: one that has ended since it was written, or one that has
    /// devices in its init containers alone. Only a checkpoint that is written anew tells.
    pub(crate) stale: bool,
}

/// All that is known.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Ledger {
    given: Vec<Given>,
    /// Pods that are gone, and that a checkpoint not written since still names.
    ended: BTreeSet<String>,
    #[serde(skip)]
    kubelet: Option<KubeletSocket>,
}

/// Whether an id can be one of VFIO's: a PCI address, a uuid, or the group's number that older plugins used.
fn is_ours(id: &str) -> bool {
    id.parse::<DeviceId>().is_ok() || id.parse::<GroupId>().is_ok()
}

impl Ledger {
    /// All that pods have.
    pub(crate) fn given(&self) -> &[Given] {
        &self.given
    }

    /// After our own restart: nothing that was remembered has been confirmed yet.
    pub(crate) fn restarted(&mut self, now: Instant) {
        for given in &mut self.given {
            given.granted = Some(now).filter(|_| given.unconfirmed);
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
        self.given.retain(|given| !(given.unconfirmed && given.real.iter().any(|id| real.contains(id))));
        self.given.push(Given {
            real,
            unconfirmed: true,
            granted: Some(now),
            ..Given::of(Pod::default(), resource, ids)
        });
    }

    /// Takes in what the kubelet answered.
    pub(crate) fn take(&mut self, round: &Round<'_>) -> Outcome {
        let before: Vec<(Pod, BTreeSet<String>)> =
            self.given.iter().map(|given| (given.pod.clone(), given.real.clone())).collect();
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
            self.given.iter_mut().for_each(|given| given.missing = 0);
        }
        let entries = checkpoint.as_deref().unwrap_or_default();
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
        if let Some(known) = round.checkpoint {
            for (resource, ids, uid) in round.cgroups {
                let there = known.iter().any(|entry| entry.pod_uid == *uid) && !self.ended.contains(uid);
                if there && !self.given.iter().any(|given| given.real.intersection(ids).next().is_some()) {
                    affirmed.insert(self.given.len());
                    let pod = Pod { uid: Some(uid.clone()), name: None };
                    let confirmed = Some(round.now);
                    self.given.push(Given {
                        by_cgroup: true,
                        confirmed,
                        ..Given::of(pod, resource, ids.clone())
                    });
                }
            }
        }
        let ask_again = self.end(&affirmed, pods, round);
        let after = self.given.iter().map(|given| (given.pod.clone(), given.real.clone()));
        let changed = !before.into_iter().eq(after);
        Outcome { answered: pods.is_some() || checkpoint.is_some(), ask_again, changed, stale }
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
            .position(|given| given.pod.uid.as_ref() == uid && same(given))
            .or_else(|| self.given.iter().position(|given| given.pod.uid.is_none() && same(given)));
        let real =
            if entry.told.iter().any(|id| is_ours(id)) { entry.told.clone() } else { entry.ids.clone() };
        let place = place.unwrap_or_else(|| {
            let pod = Pod { uid: uid.cloned(), name: None };
            self.given.push(Given::of(pod, &entry.resource, entry.ids.clone()));
            self.given.len() - 1
        });
        let given = self.given.get_mut(place)?;
        given.pod.uid = uid.cloned();
        given.container = Some(entry.container.clone());
        given.pod.name = given.pod.name.take().or(name);
        given.real = real;
        given.unconfirmed = false;
        given.granted = None;
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
            self.given.push(Given::of(pod, resource, ids.clone()));
            self.given.len() - 1
        });
        if let Some(given) = self.given.get_mut(place) {
            given.pod.name = Some(pod.to_owned());
            given.container = Some(container.to_owned());
            given.unconfirmed = false;
            given.granted = None;
            given.confirmed = Some(now);
        }
        place
    }

    /// Lets go of what nobody has any more; whether a pod is missing for the first time.
    fn end(&mut self, affirmed: &BTreeSet<usize>, pods: Option<&[Listed]>, round: &Round<'_>) -> bool {
        let mut ask_again = false;
        let mut place = 0;
        let shown: BTreeSet<(String, BTreeSet<String>)> = affirmed
            .iter()
            .filter_map(|&place| self.given.get(place))
            .map(|given| (given.resource.clone(), given.ids.clone()))
            .collect();
        let mut successors: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for given in affirmed.iter().filter_map(|&place| self.given.get(place)) {
            if let Pod { name: Some(name), uid: Some(uid) } = &given.pod {
                successors.entry(name.clone()).or_default().insert(uid.clone());
            }
        }
        let ended = &mut self.ended;
        let uids: BTreeSet<&str> =
            round.checkpoint.unwrap_or_default().iter().map(|entry| entry.pod_uid.as_str()).collect();
        self.given.retain_mut(|given| {
            place += 1;
            if affirmed.contains(&(place - 1)) {
                given.missing = 0;
                return true;
            }
            if given.unconfirmed {
                // Shown as a pod's: that one's, or its predecessor's, and when that goes the list has that one.
                if shown.contains(&(given.resource.clone(), given.ids.clone())) {
                    return false;
                }
                let age = given.granted.map_or(UNCONFIRMED, |granted| round.now.duration_since(granted));
                let asked = pods.is_some() && round.checkpoint.is_some() && age >= round.settling;
                given.missing += u32::from(asked);
                ask_again |= asked && given.missing < MISSING;
                return given.missing < MISSING && age < UNCONFIRMED;
            }
            let Some(pods) = pods else { return true };
            let there = match (&given.pod.name, &given.pod.uid) {
                // Still listed without its devices: the kubelet has lost its checkpoint, the pod has not lost them. Unless its
                // container was created anew and given others, or it is another pod of the same name.
                (Some(name), uid) => {
                    let of = |known: &&BTreeSet<String>| uid.as_ref().is_some_and(|uid| !known.contains(uid));
                    successors.get(name).filter(of).is_none()
                        && pods.iter().any(|pod| pod.pod == *name && !has_others(pod, given))
                }
                (None, Some(uid)) => {
                    round.checkpoint.is_none() || given.by_cgroup && uids.contains(uid.as_str())
                }
                (None, None) => false,
            };
            if there {
                given.missing = 0;
                given.confirmed = Some(round.now);
                return true;
            }
            given.missing += 1;
            ask_again |= given.missing < MISSING;
            if given.missing >= MISSING {
                ended.extend(given.pod.uid.clone());
            }
            given.missing < MISSING
        });
        ask_again
    }
}

impl Given {
    /// Whether it was given in one with the other, or to the same pod.
    pub(crate) fn is_of_the_same_pod(&self, other: &Self) -> bool {
        let both = |one: &Option<String>, two: &Option<String>| one.is_some() && one == two;
        self.ids == other.ids || both(&self.pod.uid, &other.pod.uid) || both(&self.pod.name, &other.pod.name)
    }

    fn of(pod: Pod, resource: &str, ids: BTreeSet<String>) -> Self {
        Self {
            pod,
            container: None,
            resource: resource.to_owned(),
            real: ids.clone(),
            ids,
            by_cgroup: false,
            unconfirmed: false,
            granted: None,
            confirmed: None,
            missing: 0,
        }
    }
}

/// The listed pod that has what the checkpoint says a pod was given.
fn name_of(resource: &str, ids: &BTreeSet<String>, pods: &[Listed]) -> Option<String> {
    let has = |pod: &&Listed| {
        pod.devices.iter().any(|((_, listed), theirs)| listed == resource && !theirs.is_disjoint(ids))
    };
    pods.iter().find(has).map(|pod| pod.pod.clone())
}

/// Whether the pod's container has devices other than these; any container, where it is not known which.
fn has_others(pod: &Listed, given: &Given) -> bool {
    let mut devices = pod.devices.iter().filter(|((container, resource), _)| {
        given.container.as_ref().is_none_or(|of| of == container) && *resource == given.resource
    });
    devices.any(|(_, ids)| ids.iter().any(|id| is_ours(id)))
}

/// Whether the checkpoint has devices that no listed pod has.
fn disagrees(pods: &[Listed], entries: &[&Entry]) -> bool {
    entries.iter().any(|entry| name_of(&entry.resource, &entry.ids, pods).is_none())
}

impl fmt::Display for Pod {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.name, &self.uid) {
            (Some(name), _) => write!(f, "pod {name}"),
            (None, Some(uid)) => write!(f, "pod {uid}"),
            (None, None) => f.write_str("a pod being admitted"),
        }
    }
}

#[cfg(test)]
mod tests;
