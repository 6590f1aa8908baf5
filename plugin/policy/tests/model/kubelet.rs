//! The kubelet: its device manager's in-memory state, its checkpoint, and the device list that it received.

use super::id;
use super::node::Pod;
use super::plugin::entry;
use std::collections::{BTreeMap, BTreeSet};
use vfio_plugin_policy::assignments::observation::CheckpointEntry;

/// The kubelet.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Kubelet {
    /// Which pod has which device, in memory.
    pub(super) in_memory: BTreeMap<u8, u8>,
    /// Which pod has which device, in the checkpoint, as of when it was last written.
    pub(super) file: BTreeMap<u8, u8>,
    /// Whether the checkpoint was written since the plugin last polled.
    pub(super) written: bool,
    /// The device list that it received last: whether each device is Healthy.
    pub(super) list: BTreeMap<String, bool>,
    /// Whether it knows the API server's pods.
    pub(super) synced: bool,
    /// How often it has restarted.
    pub(super) restarts: u8,
}

impl Kubelet {
    /// `UpdateAllocatedDevices`: frees the devices of inactive pods, in memory.
    pub(super) fn update_allocated(&mut self, pods: &[Pod]) {
        self.in_memory.retain(|pod, _| matches!(pods.get(usize::from(*pod)), Some(Pod::Active(_))));
    }

    /// `GetCapacity`: returns the number of allocatable devices.
    pub(super) fn allocatable(&self) -> usize {
        self.list.values().filter(|healthy| **healthy).count()
    }

    /// `devicesToAllocate`: returns the Healthy devices that are allocated to no pod, as far as the kubelet knows.
    pub(super) fn available(&self) -> Vec<String> {
        let allocated: BTreeSet<String> = self.in_memory.values().map(|device| id(*device)).collect();
        let healthy = self.list.iter().filter(|(_, healthy)| **healthy).map(|(id, _)| id);
        healthy.filter(|id| !allocated.contains(*id)).cloned().collect()
    }

    /// `writeCheckpoint`.
    pub(super) fn write(&mut self) {
        self.file = self.in_memory.clone();
        self.written = true;
    }

    /// Returns the entries of the checkpoint.
    pub(super) fn checkpoint(&self) -> Vec<CheckpointEntry> {
        self.file.iter().map(|(pod, device)| entry(*pod, *device)).collect()
    }

    /// Starts the next process, with the checkpoint or without it. It has no device list and does not know the pods yet.
    pub(super) fn restart(&mut self, with_checkpoint: bool) {
        let file = if with_checkpoint { std::mem::take(&mut self.file) } else { BTreeMap::new() };
        let restarts = self.restarts + 1;
        *self = Self { in_memory: file.clone(), file, restarts, ..Self::default() };
    }
}
