//! What the kubelet shows at one moment: listed pods, checkpoint entries, its socket.

use crate::assignments::record;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// What one container of a pod was given of one resource.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct CheckpointEntry {
    /// The pod.
    pub pod_uid: String,
    /// The container, of the pod's init containers or others.
    pub container: String,
    /// The resource.
    pub resource: String,
    /// The devices' ids in the kubelet's books.
    pub ids: BTreeSet<String>,
    /// The addresses that the container was told; after a substitution these are the real ones.
    pub told: BTreeSet<String>,
}

/// Which kubelet.sock: another one means another kubelet process.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct KubeletSocket {
    inode: u64,
    device: u64,
    /// Of its making: nothing is ever written to a socket's file, while its mode may change.
    modified: (i64, i64),
}

impl KubeletSocket {
    /// The socket of this inode on this device, made at `modified`: seconds and nanoseconds after 1970.
    pub fn new(device: u64, inode: u64, modified: (i64, i64)) -> Self {
        Self { inode, device, modified }
    }

    /// When it was made by the wall clock: the time after 1970.
    pub fn made(&self) -> Duration {
        let (seconds, nanoseconds) = self.modified;
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
            + Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0))
    }
}

/// One container of a listed pod.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ListedPod {
    /// `namespace/name`.
    pub pod: String,
    /// Ids by container and resource.
    pub devices: BTreeMap<(String, String), BTreeSet<String>>,
}

/// What was asked at one time. Pods are listed before the checkpoint is read, which then has all of them.
#[derive(Debug)]
pub struct Observation<'a> {
    /// When.
    pub now: Instant,
    /// The pods, if the kubelet told.
    pub pods: Option<&'a [ListedPod]>,
    /// The checkpoint, if it could be read.
    pub checkpoint: Option<&'a [CheckpointEntry]>,
    /// It was written since the round before.
    pub written: bool,
    /// The kubelet's socket.
    pub kubelet: Option<KubeletSocket>,
    /// It has appeared a short time ago: its pods may not be known to it yet.
    pub young: bool,
    /// How long after an Allocate the kubelet may not show what it has given.
    pub settling: Duration,
    /// Resource and ids of devices in groups that are held, with the pod uid of the holder's cgroup.
    pub cgroups: &'a [(String, BTreeSet<String>, String)],
    /// Whether they make owners: after our own start only; later whoever holds without owning is foreign.
    pub adopt: bool,
    /// The resources that we offer, if they are known: of others numbers are no ids of ours.
    pub offered: Option<&'a BTreeSet<Arc<str>>>,
}

impl Observation<'_> {
    /// One in which nothing was told.
    pub fn at(now: Instant) -> Self {
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
    pub(super) fn is_ours(&self, resource: &str, id: &str) -> bool {
        record::is_ours(id, self.offered.is_none_or(|offered| offered.contains(resource)))
    }
}

/// What came of a round.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LedgerUpdate {
    /// Either source gave an answer.
    pub answered: bool,
    /// A pod was missing for the first time, or is not shown yet: worth asking again soon.
    pub ask_again: bool,
    /// The checkpoint names a pod that cannot be found in the list: one that has ended since it was written, or one that has
    /// devices in its init containers alone. Only a checkpoint that is written anew tells.
    pub stale: bool,
}
