//! Remembers what ResourceSlices and metadata say of each device and its record does not have.

use crate::node::dra_facts::DraFacts;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use vfio_plugin_policy::device::DeviceState;
use vfio_plugin_policy::dra::attributes::DeviceFacts;
use vfio_probe::{Device, DeviceId, Root};

/// Reads the facts of a device when it is first described. They do not change while it is bound. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct KnownFacts {
    root: Root,
    path: PathBuf,
    pci_ids: Option<PathBuf>,
    known: Arc<Mutex<BTreeMap<DeviceId, DeviceFacts>>>,
}

impl KnownFacts {
    /// Knows nothing yet. `path` is the root's directory; with `pci_ids` all names of models come from that file.
    pub(super) fn new(root: Root, path: PathBuf, pci_ids: Option<PathBuf>) -> Self {
        Self { root, path, pci_ids, known: Arc::default() }
    }

    /// Returns the facts of a device.
    pub(super) fn of(&self, state: &DeviceState) -> DeviceFacts {
        let device = &state.device;
        let mut known = self.known.lock();
        known.entry(device.id).or_insert_with(|| self.read(device)).clone()
    }

    fn read(&self, device: &Device) -> DeviceFacts {
        let only = std::iter::once(device);
        DraFacts::new(self.root.clone(), &self.path, self.pci_ids.as_deref(), only).read(device)
    }

    /// Forgets the devices that are not published any more.
    pub(super) fn retain(&self, is_published: impl Fn(DeviceId) -> bool) {
        self.known.lock().retain(|id, _| is_published(*id));
    }
}
