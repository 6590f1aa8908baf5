//! An assignment: the devices of one resource that one container of a pod was allocated.

use crate::assignments::stored_answer::StoredAnswer;
use crate::pools::terms::PinnedTerms;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use std::time::Instant;
use vfio_probe::{DeviceId, GroupId};

/// A pod, as far as it is known. Without uid and name it is a pod that the kubelet is still admitting.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct PodRef {
    /// The uid, from the checkpoint or a holder's cgroup.
    pub uid: Option<String>,
    /// `namespace/name`, from pod resources.
    pub full_name: Option<String>,
}

/// The devices of one resource that one container was allocated.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Assignment {
    /// The pod.
    pub pod: PodRef,
    /// The container of the pod. An Allocate does not name it.
    pub(super) container: Option<String>,
    /// The resource.
    pub resource: String,
    /// The ids that the kubelet's checkpoint names.
    pub checkpoint_ids: BTreeSet<String>,
    /// The ids of the devices that the container really has. They differ from `checkpoint_ids` after a substitution.
    pub device_ids: BTreeSet<String>,
    /// How the assignment is known.
    pub(super) source: Source,
    /// The terms on which an Allocate of this plugin allocated the devices, in this process or an earlier one. The resource is
    /// then offered by this plugin, whatever the pools file says by now. None if no Allocate of this plugin is known.
    #[serde(default)]
    pub(super) pinned: Option<PinnedTerms>,
    /// Whether this plugin, in this process or an earlier one, has offered devices under the resource.
    #[serde(default)]
    pub(super) was_offered: bool,
    /// The device nodes and CDI names in the kubelet's stored answer.
    #[serde(default)]
    pub(super) answer: StoredAnswer,
    /// Whether an Allocate of an earlier process, which may have been before a reboot, is the source.
    #[serde(skip)]
    pub(super) is_restored: bool,
    /// When the kubelet last showed that the pod exists.
    #[serde(skip)]
    pub confirmed: Option<Instant>,
    /// In how many observations in a row the pod was missing.
    #[serde(skip)]
    pub(super) misses: u32,
    /// How often the kubelet was restarted, perhaps without its checkpoint, since it last showed this assignment. At most 2.
    pub(super) kubelet_restarts: u8,
    /// In how many lists the pod was missing although the checkpoint named it. At most [`super::merge::LISTS_BEFORE_KEPT`].
    #[serde(skip)]
    pub(super) lists_without_pod: u8,
    /// When a checkpoint that was written after such a list still named the assignment: the kubelet keeps it.
    #[serde(skip)]
    pub(super) kept_at: Option<Instant>,
}

/// How an assignment is known.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub(super) enum Source {
    /// The kubelet has shown it.
    Kubelet,
    /// An Allocate of this plugin was granted, and the kubelet has not shown it yet. The time is that of the Allocate, or of the
    /// plugin's start if an earlier process answered it.
    Allocate(#[serde(skip)] Option<Instant>),
    /// The cgroup of a process that holds the device names the pod; nothing else does.
    Cgroup,
}

impl PodRef {
    /// Returns the namespace, if the name is known.
    pub fn namespace(&self) -> Option<&str> {
        Some(self.full_name.as_deref()?.split_once('/')?.0)
    }

    /// Returns the name within the namespace, if it is known.
    pub fn name(&self) -> Option<&str> {
        let full = self.full_name.as_deref()?;
        Some(full.split_once('/').map_or(full, |(_, name)| name))
    }

    /// Returns whether the kubelet is still admitting the pod: Allocate was answered, and no source names the pod yet.
    pub fn is_being_admitted(&self) -> bool {
        self.uid.is_none() && self.full_name.is_none()
    }
}

impl fmt::Display for PodRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.full_name, &self.uid) {
            (Some(name), _) => write!(f, "pod {name}"),
            (None, Some(uid)) => write!(f, "pod {uid}"),
            (None, None) => f.write_str("a pod being admitted"),
        }
    }
}

impl Assignment {
    pub(super) fn new(pod: PodRef, resource: &str, ids: BTreeSet<String>, source: Source) -> Self {
        Self {
            pod,
            container: None,
            resource: resource.to_owned(),
            device_ids: ids.clone(),
            checkpoint_ids: ids,
            source,
            pinned: None,
            was_offered: false,
            answer: StoredAnswer::default(),
            is_restored: false,
            confirmed: None,
            misses: 0,
            kubelet_restarts: 0,
            lists_without_pod: 0,
            kept_at: None,
        }
    }

    /// Returns the assignment of an Allocate of this plugin that is about to be answered. The kubelet requested `checkpoint_ids`,
    /// and the container gets `device_ids`.
    pub fn allocated(
        resource: &str,
        checkpoint_ids: BTreeSet<String>,
        device_ids: BTreeSet<String>,
        pinned: PinnedTerms,
        now: Instant,
    ) -> Self {
        let record = Self::new(PodRef::default(), resource, checkpoint_ids, Source::Allocate(Some(now)));
        Self { device_ids, pinned: Some(pinned), ..record }
    }

    /// Returns the assignment of devices that a claim has, for the pod that the claim is reserved for.
    pub(super) fn prepared(
        pod: PodRef,
        resource: &str,
        device_ids: BTreeSet<String>,
        pinned: PinnedTerms,
    ) -> Self {
        Self { pinned: Some(pinned), ..Self::new(pod, resource, device_ids, Source::Kubelet) }
    }

    /// Returns whether `other` is the same but for the time at which the kubelet last showed it.
    pub(super) fn differs_only_in_time(&self, other: &Self) -> bool {
        let Self { pod, container, resource, checkpoint_ids, device_ids, source, pinned, answer, .. } = self;
        *pod == other.pod
            && *container == other.container
            && *resource == other.resource
            && *checkpoint_ids == other.checkpoint_ids
            && *device_ids == other.device_ids
            && *source == other.source
            && *pinned == other.pinned
            && *answer == other.answer
            && self.was_offered == other.was_offered
            && self.kubelet_restarts == other.kubelet_restarts
    }

    /// Returns whether the kubelet may have lost the checkpoint entry: it lists the pod, and it was restarted since it last
    /// showed the assignment.
    pub fn may_be_lost(&self) -> bool {
        self.kubelet_restarts > 0 && self.pod.full_name.is_some()
    }

    /// Returns whether the resource is known to be this plugin's: it has allocated the devices, or has offered the resource.
    pub fn is_of_this_plugin(&self) -> bool {
        self.pinned.is_some() || self.was_offered
    }

    /// Returns whether only an Allocate of this plugin is known of it.
    pub fn is_unconfirmed(&self) -> bool {
        matches!(self.source, Source::Allocate(_))
    }

    /// Returns whether only an Allocate of this process is known of it. The kubelet's answer then names the nodes of now.
    pub fn was_just_allocated(&self) -> bool {
        self.is_unconfirmed() && !self.is_restored
    }

    /// Returns whether both are of one pod: the pods are known to be the same, or the ids are the same, as in one assignment to a
    /// pod that is not known yet.
    pub fn shares_pod_with(&self, other: &Self) -> bool {
        let same = |one: &Option<String>, two: &Option<String>| one.is_some() && one == two;
        self.checkpoint_ids == other.checkpoint_ids
            || same(&self.pod.uid, &other.pod.uid)
            || same(&self.pod.full_name, &other.pod.full_name)
    }
}

/// Returns whether an id can be one of this plugin's: a PCI address or a uuid. Older plugins used a group's number, which counts
/// for an offered resource only, because other plugins number their devices too.
pub fn is_vfio_id(id: &str, resource_is_offered: bool) -> bool {
    id.parse::<DeviceId>().is_ok() || resource_is_offered && id.parse::<GroupId>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pod_shows_its_namespace_name_and_admission() {
        let pod = |uid: Option<&str>, name: Option<&str>| PodRef {
            uid: uid.map(Into::into),
            full_name: name.map(Into::into),
        };
        let listed = pod(None, Some("vms/vm-1"));
        assert_eq!((listed.namespace(), listed.name()), (Some("vms"), Some("vm-1")));
        assert!(!listed.is_being_admitted());
        let by_uid = pod(Some("u1"), None);
        assert_eq!((by_uid.namespace(), by_uid.name()), (None, None));
        assert!(!by_uid.is_being_admitted());
        assert!(PodRef::default().is_being_admitted());
        assert_eq!(PodRef::default().to_string(), "a pod being admitted");
    }
}
