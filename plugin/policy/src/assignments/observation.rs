//! What the kubelet shows at one moment, and what came of taking it in.

use crate::assignments::kubelet::KubeletSocket;
use crate::assignments::record;
use crate::assignments::stored_answer::StoredAnswer;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// An entry of the checkpoint: what one container was allocated of one resource.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CheckpointEntry {
    /// The pod's uid.
    pub pod_uid: String,
    /// The container, an init container or another.
    pub container: String,
    /// The resource.
    pub resource: String,
    /// The ids that the kubelet requested.
    pub ids: BTreeSet<String>,
    /// The ids in the environment variables of the plugin's response. After a substitution these are the real devices.
    pub response_ids: BTreeSet<String>,
    /// The host paths of the VFIO device nodes in the devices and mounts of the plugin's response ([`is_vfio_node`](crate::assignments::stored_answer::is_vfio_node)). The kubelet repeats
    /// the response when it creates a container again, also after a reboot.
    pub nodes: BTreeSet<String>,
    /// The CDI names in the plugin's response, from its field and from its annotations.
    pub cdi_names: BTreeSet<String>,
}

impl CheckpointEntry {
    /// Returns what the answer names of single devices and groups.
    pub fn answer(&self) -> StoredAnswer {
        let mut answer = StoredAnswer::default();
        answer.add(&self.nodes, &self.cdi_names);
        answer
    }

    /// Returns the ids of the devices that the container really has: those in the response, if it names any.
    pub fn devices(&self) -> &BTreeSet<String> {
        let in_response = self.response_ids.iter().any(|id| record::is_vfio_id(id, true));
        if in_response { &self.response_ids } else { &self.ids }
    }
}

/// A pod as pod resources list it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListedPod {
    /// `namespace/name`.
    pub full_name: String,
    /// Device ids by container and resource.
    pub devices: BTreeMap<(String, String), BTreeSet<String>>,
}

/// What a poll found. Pods are listed before the checkpoint is read, so that the checkpoint names all of them.
#[derive(Debug)]
pub struct Observation<'a> {
    /// When.
    pub now: Instant,
    /// The listed pods; none if pod resources gave no answer.
    pub pods: Option<&'a [ListedPod]>,
    /// The checkpoint's entries; none if it could not be read.
    pub checkpoint: Option<&'a [CheckpointEntry]>,
    /// Whether the checkpoint was written since the poll before.
    pub checkpoint_is_new: bool,
    /// The kubelet's socket.
    pub kubelet: Option<KubeletSocket>,
    /// Whether the kubelet started a short time ago, and may not know all its pods yet.
    pub kubelet_is_starting: bool,
    /// How long after an Allocate the kubelet may not show the assignment yet.
    pub settling: Duration,
    /// Devices that pods' processes hold.
    pub holders: &'a [PodHolds],
    /// Devices that a process in the sandbox of an unknown pod holds. The pod may be any: such a holder never shows that a pod
    /// has ended, and never becomes an assignment.
    pub held_by_unknown_pods: &'a BTreeSet<String>,
    /// Whether `holders` become assignments. They do after a start of the plugin only; later, a pod that holds a device without
    /// an assignment is foreign.
    pub adopt_holders: bool,
    /// The resources that this plugin offers, if they are known. A number is a device id of these resources only.
    pub offered: Option<&'a BTreeSet<Arc<str>>>,
}

/// The devices of one resource that the processes of one pod hold, by their cgroups.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PodHolds {
    /// The pod's uid.
    pub pod_uid: String,
    /// The resource.
    pub resource: String,
    /// All devices of the groups that the pod's processes hold.
    pub ids: BTreeSet<String>,
}

/// What came of taking in an observation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LedgerUpdate {
    /// Whether the checkpoint was read, or a list that shows which pods are missing.
    pub answered: bool,
    /// Whether another poll soon decides something: a pod was missing for the first time, or the kubelet does not show an
    /// Allocate yet.
    pub poll_again: bool,
    /// Whether the kubelet has not named the pod of some assignment yet. A pod with devices in its init containers alone is
    /// never named.
    pub unnamed: bool,
    /// Whether the checkpoint names a pod that is not in the list with these devices: one that ended since the checkpoint was
    /// written, or one with devices in its init containers alone. Only a newly written checkpoint separates the two.
    pub checkpoint_is_stale: bool,
}

impl Observation<'_> {
    /// Returns an observation in which no source gave an answer.
    pub fn at(now: Instant) -> Self {
        Self {
            now,
            pods: None,
            checkpoint: None,
            checkpoint_is_new: false,
            kubelet: None,
            kubelet_is_starting: false,
            settling: Duration::ZERO,
            holders: &[],
            held_by_unknown_pods: const { &BTreeSet::new() },
            adopt_holders: false,
            offered: None,
        }
    }

    /// Returns whether an id of a resource can be one of this plugin's.
    pub(super) fn is_vfio_id(&self, resource: &str, id: &str) -> bool {
        record::is_vfio_id(id, self.offered.is_none_or(|offered| offered.contains(resource)))
    }
}
