//! What a container was given, and whose container it is, as far as that is known.

use crate::pools::terms::PinnedTerms;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::time::Instant;
use vfio_probe::{DeviceId, GroupId};

/// A pod, as far as it is known.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct Pod {
    /// Its uid, from the checkpoint or a cgroup.
    pub uid: Option<String>,
    /// `namespace/name`, from pod resources.
    pub name: Option<String>,
}

/// What one container was given of one resource.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Assignment {
    /// The pod.
    pub pod: Pod,
    /// The container of the pod, which an Allocate does not tell.
    pub(super) container: Option<String>,
    /// The resource.
    pub resource: String,
    /// The ids in the kubelet's books.
    pub ids: BTreeSet<String>,
    /// What it really has; others than `ids` after a substitution.
    pub real: BTreeSet<String>,
    /// How it is known.
    pub(super) source: Source,
    /// On which terms an Allocate of ours gave it, this process' or an earlier one's: then the resource is one of ours, whatever
    /// the pools say by now. None where it was not ours.
    #[serde(default)]
    pub(super) pinned: Option<PinnedTerms>,
    /// When the kubelet last said that the pod is there.
    #[serde(skip)]
    pub confirmed: Option<Instant>,
    /// From how many answers in a row the pod was missing.
    #[serde(skip)]
    pub(super) missing: u32,
    /// How often the kubelet has started anew since it last showed this, perhaps without its checkpoint; 2 is often.
    pub(super) unshown: u8,
    /// How often the checkpoint named it, and the list did not.
    #[serde(skip)]
    pub(super) lacked: u8,
    /// When a checkpoint that was written after such a list was seen to name it still.
    #[serde(skip)]
    pub(super) booked: Option<Instant>,
}

/// How it is known what a container was given.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub(super) enum Source {
    /// The kubelet has shown it.
    Kubelet,
    /// By an Allocate of ours at this time, or by one before our restart at that; the kubelet has not shown it yet.
    Allocate(#[serde(skip)] Option<Instant>),
    /// By a holder's cgroup alone.
    Cgroup,
}

impl Assignment {
    pub(super) fn new(pod: Pod, resource: &str, ids: BTreeSet<String>, source: Source) -> Self {
        Self {
            pod,
            container: None,
            resource: resource.to_owned(),
            real: ids.clone(),
            ids,
            source,
            pinned: None,
            confirmed: None,
            missing: 0,
            unshown: 0,
            lacked: 0,
            booked: None,
        }
    }

    /// Whether the kubelet may have lost its books of it: it lists the pod, and has started anew since it showed this.
    pub fn may_be_lost(&self) -> bool {
        self.unshown > 0 && self.pod.name.is_some()
    }

    pub(super) fn is_unconfirmed(&self) -> bool {
        matches!(self.source, Source::Allocate(_))
    }

    /// Whether it was given in one with the other, or to the same pod.
    pub fn is_of_the_same_pod(&self, other: &Self) -> bool {
        let both = |one: &Option<String>, two: &Option<String>| one.is_some() && one == two;
        self.ids == other.ids || both(&self.pod.uid, &other.pod.uid) || both(&self.pod.name, &other.pod.name)
    }
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

/// Whether an id can be one of VFIO's: a PCI address, a uuid, or the group's number that older plugins used for resources that
/// we `offer`; others' plugins number what they have too.
pub(super) fn is_ours(id: &str, offer: bool) -> bool {
    id.parse::<DeviceId>().is_ok() || offer && id.parse::<GroupId>().is_ok()
}
