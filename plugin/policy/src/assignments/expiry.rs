//! Pure: what the kubelet's answers say of a pod that they do not show with its devices: what ends an ownership, and what
//! does not.

use crate::assignments::observation::{ListedPod, Observation};
use crate::assignments::record::{Assignment, Source};
use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

/// A device that an Allocate gave away, and that the kubelet shows nowhere, is a pod's for this long at most, if the kubelet
/// cannot be asked. If it can: until it is missing like any other. Its admission may have failed for another reason, or the
/// pod may be gone already, of which nobody tells us.
pub(super) const UNCONFIRMED: Duration = Duration::from_secs(60);

/// What it says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PodEvidence {
    /// The pod is there, with what it was given.
    There,
    /// The pod is missing; if it is again, it is gone.
    Missing,
    /// The pod is there, but its container was given others instead.
    Replaced,
    /// Nothing.
    Silent,
    /// Nothing yet: it was given away a moment ago.
    Early,
    /// It was never a pod's, or is shown as one's elsewhere.
    Over,
}

/// An answer, of which what is shown has been taken in.
#[derive(Debug)]
pub(super) struct Evidence<'a> {
    round: &'a Observation<'a>,
    /// None if it is none: no pods at all, or fewer than a kubelet knows that has just started.
    pods: Option<&'a [ListedPod]>,
    /// What it shows, by resource and ids.
    shown: BTreeSet<(String, BTreeSet<String>)>,
    /// Uids of the pods that it shows, by name.
    uids: BTreeMap<String, BTreeSet<String>>,
}

impl<'a> Evidence<'a> {
    /// With what it shows.
    pub(super) fn new<'g>(
        round: &'a Observation<'a>,
        pods: Option<&'a [ListedPod]>,
        shown: impl Iterator<Item = &'g Assignment>,
    ) -> Self {
        let mut answer = Self { round, pods, shown: BTreeSet::new(), uids: BTreeMap::new() };
        for given in shown {
            answer.shown.insert((given.resource.clone(), given.ids.clone()));
            if let (Some(name), Some(uid)) = (&given.pod.name, &given.pod.uid) {
                answer.uids.entry(name.clone()).or_default().insert(uid.clone());
            }
        }
        answer
    }

    /// What it says of what it does not show.
    pub(super) fn of(&self, given: &Assignment) -> PodEvidence {
        match given.source {
            Source::Allocate(granted) => self.of_unconfirmed(given, granted),
            Source::Kubelet | Source::Cgroup => self.of_pod(given),
        }
    }

    fn of_unconfirmed(&self, given: &Assignment, granted: Option<Instant>) -> PodEvidence {
        // Shown as a pod's: that one's, or its predecessor's, and when that goes the list has that one.
        if self.shown.contains(&(given.resource.clone(), given.ids.clone())) {
            return PodEvidence::Over;
        }
        let age = granted.map_or(UNCONFIRMED, |granted| self.round.now.duration_since(granted));
        if age >= UNCONFIRMED {
            PodEvidence::Over
        } else if self.pods.is_none() || self.round.checkpoint.is_none() {
            PodEvidence::Silent
        } else if age < self.round.settling {
            PodEvidence::Early
        } else {
            PodEvidence::Missing
        }
    }

    fn of_pod(&self, given: &Assignment) -> PodEvidence {
        let Some(pods) = self.pods else { return PodEvidence::Silent };
        let Some(name) = &given.pod.name else {
            // Of a pod without a name only the checkpoint could tell.
            let uids = || self.round.checkpoint.unwrap_or_default().iter().map(|entry| Some(&entry.pod_uid));
            let held = given.source == Source::Cgroup && uids().any(|uid| uid == given.pod.uid.as_ref());
            let untold = self.round.checkpoint.is_none() && given.pod.uid.is_some();
            // ListedPod by a name that is not known to be its: the kubelet has lost its checkpoint, and the pod still runs.
            let runs = || given.unshown > 0 && self.holds(given);
            return match held || untold {
                true => PodEvidence::There,
                false if runs() => PodEvidence::Silent,
                false => PodEvidence::Missing,
            };
        };
        let another = |uids: &BTreeSet<String>| given.pod.uid.as_ref().is_some_and(|uid| !uids.contains(uid));
        let mut pods = pods.iter().filter(|pod| pod.pod == *name).peekable();
        if pods.peek().is_none() || self.uids.get(name).is_some_and(another) {
            // Not listed; or another pod of the same name is.
            PodEvidence::Missing
        } else if pods.any(|pod| has_others(pod, given)) {
            PodEvidence::Replaced
        } else if given.unshown > 0 {
            // ListedPod without its devices: the kubelet has lost its checkpoint, the pod has not lost them.
            PodEvidence::There
        } else {
            // The same kubelet has shown them: the pod has ended. Until 1.34 such ones are listed too
            // (`KubeletPodResourcesListUseActivePods`).
            PodEvidence::Missing
        }
    }

    /// Whether a process of the pod holds it.
    fn holds(&self, given: &Assignment) -> bool {
        let uid = given.pod.uid.as_ref();
        let mut theirs = self.round.cgroups.iter().filter(|(_, _, pod)| Some(pod) == uid);
        theirs.any(|(_, ids, _)| !ids.is_disjoint(&given.real))
    }
}

/// Whether the pod's container has devices of the resource, which then are not these: what is shown is not asked about. Any
/// container, where it is not known which.
fn has_others(pod: &ListedPod, given: &Assignment) -> bool {
    let mut devices = pod.devices.iter().filter(|((container, resource), _)| {
        given.container.as_ref().is_none_or(|of| of == container) && *resource == given.resource
    });
    devices.any(|(_, ids)| !ids.is_empty())
}
