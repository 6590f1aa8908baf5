//! CDI: the specs by which container runtimes and Kata find devices by name, and the names that Allocate answers with.
//!
//! An answer has the names and the device nodes too. A runtime that does not know CDI has the nodes then: kubelets older than
//! 1.28 and 1.28 without its gate DevicePluginCDIDevices drop the names (KEP-4009), and so does containerd 1.7 unless
//! `enable_cdi` is set. One that knows it adds CDI's nodes last (containerd: `containerSpecOpts`; CRI-O:
//! `SpecInjectCDIDevices`), each in the place of the one with its path (CDI: `ContainerEdits.Apply`). But a name that it
//! cannot resolve fails the container, so none is given that is not on disk with just the container's nodes.

pub(crate) mod folder;
pub(crate) mod names;
pub(crate) mod spec;

use crate::device_nodes::look;
use crate::pools::backend;
use crate::snapshot::Snapshot;
use folder::Written;
use serde::{Deserialize, Serialize};
use spec::Spec;
use std::sync::Arc;
use vfio_probe::{DeviceId, Root};

/// How a pool uses CDI.
// Not `on` and `off`, which many a program that writes YAML takes for booleans.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub(crate) enum Cdi {
    /// No spec, no names.
    #[default]
    None,
    /// A spec, and the names in `cdi_devices`.
    Devices,
    /// The names in annotations too, for kubelets before 1.29, and containerd before 1.7.2, which know no field.
    // Whoever knows both takes each name once (containerd: `WithCDI`; CRI-O: `SpecInjectCDIDevices`).
    Annotations,
}

/// One device of a spec on disk.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Entry {
    /// Which one.
    pub(crate) device: DeviceId,
    /// Its fully qualified name.
    pub(crate) name: String,
    /// All nodes that it gives.
    pub(crate) nodes: Vec<String>,
    /// The file that says so; none where it is not written yet.
    pub(crate) file: Option<Arc<Written>>,
}

/// What a container's answer says of CDI.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Request {
    /// Fully qualified names.
    pub(crate) names: Vec<String>,
    /// Key and value.
    pub(crate) annotation: Option<(String, String)>,
}

/// What to say for devices that come with these nodes; none if the specs on disk would not give just these.
pub(crate) fn request(
    cdi: Cdi,
    on_disk: &[Entry],
    devices: &[DeviceId],
    nodes: &[String],
) -> Option<Request> {
    if cdi == Cdi::None {
        return Some(Request::default());
    }
    let entry = |id: &DeviceId| on_disk.iter().find(|entry| entry.device == *id);
    let entries = devices.iter().map(entry).collect::<Option<Vec<&Entry>>>()?;
    let given = || entries.iter().flat_map(|entry| &entry.nodes);
    if !given().all(|node| nodes.contains(node))
        || !nodes.iter().all(|node| given().any(|known| known == node))
    {
        return None;
    }
    let names: Vec<String> = entries.iter().map(|entry| entry.name.clone()).collect();
    let annotation = devices.first().filter(|_| cdi == Cdi::Annotations);
    let annotation = annotation.map(|first| (names::annotation_key(*first), names.join(",")));
    Some(Request { names, annotation })
}

/// Whether the file of a container's devices is still the one that was written; one system call. It is one file, for they are
/// of one resource.
pub(crate) fn is_there(on_disk: &[Entry], devices: &[DeviceId]) -> bool {
    let entry = on_disk.iter().find(|entry| devices.contains(&entry.device));
    entry.and_then(|entry| entry.file.as_ref()).is_some_and(|file| file.is_there())
}

/// The specs for these devices, with the nodes that the kernel has now: each device that is bound and whose pool uses CDI, held
/// or not, so that an entry stays as long as its pod and a restarted container finds it.
pub(crate) fn wanted(root: &Root, snapshot: &Snapshot) -> Vec<Spec> {
    let (devices, lacks_container) = (&snapshot.devices, snapshot.lacks_container);
    let mut specs: Vec<Spec> = Vec::new();
    for view in devices.iter().filter(|view| view.terms.cdi != Cdi::None && !view.unbinding) {
        let Some(group) = view.device.group else { continue };
        let backend = view.terms.backend;
        let nodes = backend::nodes(backend, &[look(root, lacks_container, backend, group)]).paths;
        if let Some(spec) = specs.iter_mut().find(|spec| spec.resource == view.resource) {
            spec.add(view.device.id, nodes);
        } else {
            let mut spec = Spec::of(&view.resource);
            spec.add(view.device.id, nodes);
            specs.push(spec);
        }
    }
    specs.retain(|spec| spec.len() > 0);
    specs
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> DeviceId {
        text.parse().unwrap()
    }

    fn nodes(group: u32) -> Vec<String> {
        vec!["/dev/vfio/vfio".to_owned(), format!("/dev/vfio/{group}")]
    }

    #[test]
    fn names_are_given_only_for_what_is_on_disk_with_just_these_nodes() {
        let mut spec = Spec::of(&"a.b/gpu".into());
        let (one, two) = (id("0000:01:00.0"), id("0000:02:00.0"));
        spec.add(one, nodes(51));
        spec.add(two, nodes(52));
        let on_disk = spec.entries();
        let both = [nodes(51), nodes(52)].concat();
        let names = ["a.b/gpu=0000:02:00.0", "a.b/gpu=0000:01:00.0"].map(str::to_owned);
        let field = request(Cdi::Devices, &on_disk, &[two, one], &both).unwrap();
        assert_eq!(field, Request { names: names.to_vec(), annotation: None });
        let annotated = request(Cdi::Annotations, &on_disk, &[two, one], &both).unwrap();
        let key = "cdi.k8s.io/vfio-device-plugin_0000-02-00.0".to_owned();
        assert_eq!(annotated, Request { names: names.to_vec(), annotation: Some((key, names.join(","))) });

        assert_eq!(request(Cdi::Devices, &on_disk, &[one], &nodes(52)), None, "another group's");
        assert_eq!(request(Cdi::Devices, &on_disk, &[one], &both), None, "more than it gives");
        assert_eq!(request(Cdi::Devices, &on_disk, &[one, two], &nodes(51)), None, "less than it gives");
        assert_eq!(request(Cdi::Devices, &on_disk, &[id("0000:03:00.0")], &nodes(51)), None, "not there");
        let none = request(Cdi::None, &[], &[one], &nodes(51));
        assert_eq!(none, Some(Request::default()), "nothing was asked for");
    }
}
