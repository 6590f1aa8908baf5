//! Remembers what ResourceSlices and metadata say of each device.

use crate::node::dra_facts::DraFacts;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use vfio_plugin_policy::device::{DeviceState, NodeSnapshot};
use vfio_plugin_policy::dra::attributes::{Attributes, DeviceFacts, attributes};
use vfio_probe::{Device, DeviceId, Root};

/// Reads the facts of a device when it is first described. They do not change while it is bound. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct KnownFacts(Arc<Mutex<State>>);

#[derive(Debug)]
struct State {
    facts: DraFacts,
    known: BTreeMap<DeviceId, Known>,
}

#[derive(Debug)]
struct Known {
    facts: DeviceFacts,
    /// The latest attributes, with the record and the resource from which they were made.
    attributes: Option<(Device, Arc<str>, Arc<Attributes>)>,
}

impl KnownFacts {
    /// Knows nothing yet. `path` is the root's directory; with `pci_ids` all names of models come from that file.
    pub(super) fn new(root: Root, path: &Path, pci_ids: Option<PathBuf>) -> Self {
        let facts = DraFacts::new(root, path, pci_ids);
        Self(Arc::new(Mutex::new(State { facts, known: BTreeMap::new() })))
    }

    /// Looks up the models of all devices, so that the file of their names is read once for them.
    pub(super) fn look_up(&self, snapshot: &NodeSnapshot) {
        self.0.lock().facts.look_up(snapshot.records());
    }

    /// Returns the attributes of a device. They are made again only if its record or its resource changes: each decision asks for
    /// those of all devices.
    pub(super) fn attributes(&self, state: &DeviceState) -> Arc<Attributes> {
        let mut locked = self.0.lock();
        let Known { facts, attributes: known } = locked.known(&state.device);
        if let Some((device, resource, attributes)) = known
            && *device == state.device
            && *resource == state.resource
        {
            return Arc::clone(attributes);
        }
        let attributes = Arc::new(attributes(state, facts));
        *known = Some((state.device, Arc::clone(&state.resource), Arc::clone(&attributes)));
        attributes
    }

    /// Forgets the devices that are not published any more.
    pub(super) fn retain(&self, is_published: impl Fn(DeviceId) -> bool) {
        self.0.lock().known.retain(|id, _| is_published(*id));
    }
}

impl State {
    fn known(&mut self, device: &Device) -> &mut Known {
        let Self { facts, known } = self;
        known.entry(device.id).or_insert_with(|| {
            facts.look_up(std::iter::once(device));
            Known { facts: facts.read(device), attributes: None }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use inotify::{EventMask, Inotify, WatchMask};
    use std::io::ErrorKind;
    use vfio_plugin_policy::testing::node_of;

    /// Returns how often the file was opened since the last call.
    fn opens(watch: &mut Inotify) -> usize {
        let mut buffer = [0; 4096];
        match watch.read_events(&mut buffer) {
            Ok(events) => events.filter(|event| event.mask.contains(EventMask::OPEN)).count(),
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            Err(error) => panic!("{error}"),
        }
    }

    #[test]
    fn attributes_are_made_again_after_a_change_only() {
        let directory = tempfile::tempdir().unwrap();
        let facts = KnownFacts::new(Root::open(directory.path()).unwrap(), directory.path(), None);
        let mut state = node_of(1).devices[0].clone();
        let first = facts.attributes(&state);
        assert!(Arc::ptr_eq(&first, &facts.attributes(&state)));
        state.resource = "nvidia.com/other".into();
        let other = facts.attributes(&state).by_name();
        assert_eq!(other["resource"].string.as_deref(), Some("nvidia.com/other"));
        state.device.numa_node = Some(7);
        assert_eq!(facts.attributes(&state).by_name()["resource.kubernetes.io/numaNode"].int, Some(7));
    }

    #[test]
    fn names_of_all_models_are_read_at_once() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pci.ids");
        let mut node = node_of(4);
        for (model, device) in (1..).zip(&mut node.devices) {
            device.device.device = model;
        }
        let vendor = node.devices[0].device.vendor;
        std::fs::write(&path, format!("{vendor:04x}  Vendor\n\t0001  One\n\t0002  Two\n\t0003  Three\n"))
            .unwrap();
        let mut watch = Inotify::init().unwrap();
        // The kernel merges equal events that follow each other.
        watch.watches().add(&path, WatchMask::OPEN | WatchMask::CLOSE).unwrap();

        let facts = KnownFacts::new(Root::open(directory.path()).unwrap(), directory.path(), Some(path));
        facts.look_up(&node);
        let model =
            |device| facts.attributes(device).by_name().get("model").and_then(|model| model.string.clone());
        let models: Vec<Option<String>> = node.devices.iter().map(model).collect();
        assert_eq!(models, [Some("One".into()), Some("Two".into()), Some("Three".into()), None]);
        assert_eq!(opens(&mut watch), 1);

        facts.retain(|_| false);
        facts.look_up(&node);
        assert_eq!(model(&node.devices[3]), None);
        assert_eq!(opens(&mut watch), 0);
    }
}
