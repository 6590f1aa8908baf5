//! What a poll takes from the node's snapshot and from the kubelet's directory, and what of it causes the next poll.

use crate::kubelet::socket_watch::PluginDirState;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;
use vfio_plugin_policy::assignments::kubelet::KubeletSocket;
use vfio_plugin_policy::assignments::observation::PodHolds;
use vfio_plugin_policy::device::{DeviceState, GroupState, NodeSnapshot};
use vfio_plugin_policy::pools::terms::OfferBy;
use vfio_probe::{GroupId, InPod};

/// The identity of a checkpoint file: inode and modification time. The kubelet writes a new file each time and renames it into
/// place (`FileStore.Write`).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct CheckpointId(u64, SystemTime);

/// What a poll depended on. A difference causes another poll.
#[derive(Debug)]
pub(super) struct Inputs {
    held: Vec<GroupId>,
    kubelet: Option<KubeletSocket>,
    checkpoint: Option<CheckpointId>,
}

impl CheckpointId {
    /// Returns the identity of the checkpoint in the kubelet's directory; none without a checkpoint.
    pub(super) fn of(kubelet_dir: &Path) -> Option<Self> {
        let metadata = std::fs::metadata(kubelet_dir.join(kubelet_api::CHECKPOINT)).ok()?;
        Some(Self(metadata.ino(), metadata.modified().ok()?))
    }
}

impl Inputs {
    /// Returns what a poll at this moment depends on.
    pub(super) fn new(
        snapshot: Option<&NodeSnapshot>,
        directory: &PluginDirState,
        kubelet_dir: &Path,
    ) -> Self {
        let checkpoint = CheckpointId::of(kubelet_dir);
        Self { held: held_groups(snapshot), kubelet: directory.kubelet, checkpoint }
    }

    /// Returns whether any group is held.
    pub(super) fn any_held(&self) -> bool {
        !self.held.is_empty()
    }

    /// Returns whether other groups are held now.
    pub(super) fn holding_changed(&self, snapshot: Option<&NodeSnapshot>) -> bool {
        self.held != held_groups(snapshot)
    }

    /// Returns whether the kubelet's socket or its checkpoint is another one now.
    pub(super) fn directory_changed(&self, directory: &PluginDirState, kubelet_dir: &Path) -> bool {
        self.kubelet != directory.kubelet || self.checkpoint != CheckpointId::of(kubelet_dir)
    }
}

fn held_groups(snapshot: Option<&NodeSnapshot>) -> Vec<GroupId> {
    let devices = snapshot.map(|snapshot| &*snapshot.devices).unwrap_or_default();
    let groups = devices.iter().filter_map(|device| device.group.as_ref());
    let mut held: Vec<GroupId> =
        groups.filter(|group| group.occupancy.is_held()).map(|group| group.id).collect();
    held.dedup();
    held
}

/// Returns the resources that this plugin offers.
pub(super) fn offered_resources(snapshot: &NodeSnapshot) -> BTreeSet<Arc<str>> {
    let devices = snapshot.devices.iter().chain(&snapshot.unbound);
    devices.map(|device| Arc::clone(&device.resource)).collect()
}

/// Returns the devices that processes in sandboxes of unknown pods hold.
pub(super) fn held_by_unknown_pods(snapshot: &NodeSnapshot) -> BTreeSet<String> {
    let is_held = |device: &&DeviceState| {
        let holders = device.group.iter().flat_map(|group| &group.holders);
        holders.map(|holder| holder.container.in_pod).any(|in_pod| in_pod == InPod::Unknown)
    };
    snapshot
        .devices
        .iter()
        .filter(is_listed)
        .filter(is_held)
        .map(|device| device.device.id.to_string())
        .collect()
}

/// Returns whether the device plugin offers a device. The pods of the others have claims, which the driver knows.
fn is_listed(device: &&DeviceState) -> bool {
    device.terms.offer == OfferBy::DevicePlugin
}

/// Returns whether the search for holders is over for every held group.
pub(super) fn holders_are_known(snapshot: &NodeSnapshot) -> bool {
    snapshot.devices.iter().filter_map(|device| device.group.as_ref()).all(GroupState::search_is_over)
}

/// Returns the devices that pods' processes hold, by the cgroups of the holders.
pub(super) fn pods_that_hold(snapshot: &NodeSnapshot) -> Vec<PodHolds> {
    let mut found: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
    for device in snapshot.devices.iter().filter(is_listed) {
        let holders = device.group.as_ref().map(|group| group.holders.as_slice()).unwrap_or_default();
        for uid in holders.iter().filter_map(|holder| holder.container.pod_uid) {
            let ids = found.entry((device.resource.to_string(), uid.to_string())).or_default();
            ids.insert(device.device.id.to_string());
        }
    }
    found.into_iter().map(|((resource, pod_uid), ids)| PodHolds { pod_uid, resource, ids }).collect()
}
