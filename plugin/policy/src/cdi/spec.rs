//! Makes the CDI spec of one resource.

use crate::cdi::names::{kind, qualified, version};
use crate::cdi::request::SpecDevice;
use serde::Serialize;
use std::sync::Arc;
use vfio_probe::DeviceId;

/// Nodes of the host that belong to no device. A node that all devices of a spec need is in the spec's own edits, once. The effect
/// is the same, because `Cache.InjectDevices` applies a spec's own edits with those of its first device. But Kata's Rust runtime takes
/// each node of a device for a device to pass through (`discover_vfio_group_device`).
const SHARED: [&str; 2] = ["/dev/vfio/vfio", "/dev/iommu"];

/// The spec of one resource.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Spec {
    /// The resource.
    pub resource: Arc<str>,
    /// The CDI kind, `vendor/class`.
    pub kind: String,
    devices: Vec<(DeviceId, Vec<String>)>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SpecFile<'a> {
    cdi_version: &'static str,
    kind: &'a str,
    devices: Vec<DeviceEntry<'a>>,
    #[serde(skip_serializing_if = "Edits::is_empty")]
    container_edits: Edits<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct DeviceEntry<'a> {
    name: String,
    container_edits: Edits<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Edits<'a> {
    device_nodes: Vec<Node<'a>>,
}

/// A device node, with the same path on the host and in the container. The runtime reads type and numbers from the host
/// (`fillMissingInfo`).
#[derive(Serialize)]
struct Node<'a> {
    path: &'a str,
    permissions: &'static str,
}

impl Edits<'_> {
    fn is_empty(&self) -> bool {
        self.device_nodes.is_empty()
    }
}

impl Spec {
    /// Returns a spec without devices, which must not be written.
    pub fn of(resource: &Arc<str>) -> Self {
        Self { resource: Arc::clone(resource), kind: kind(resource), devices: Vec::new() }
    }

    /// Adds a device. A device without a node of its own is left out, because it would make the whole spec invalid
    /// (`Device.validate`).
    pub fn add(&mut self, device: DeviceId, nodes: Vec<String>) {
        if nodes.iter().any(|node| !SHARED.contains(&node.as_str())) {
            self.devices.push((device, nodes));
        }
    }

    /// Returns whether it has no device. Such a spec must not be written.
    pub fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }

    /// Returns the number of devices.
    pub fn len(&self) -> usize {
        self.devices.len()
    }

    /// Returns the devices as a reader of the spec finds them.
    pub fn entries(&self) -> Vec<SpecDevice> {
        let entry = |(id, nodes): &(DeviceId, Vec<String>)| SpecDevice {
            device: *id,
            name: qualified(&self.kind, *id),
            nodes: nodes.clone(),
            written: 0,
        };
        self.devices.iter().map(entry).collect()
    }

    /// Returns the text of the file.
    ///
    /// # Errors
    /// The spec cannot be serialized. The file must stay as it is then.
    pub fn text(&self) -> serde_json::Result<String> {
        let has = |nodes: &[String], node: &str| nodes.iter().any(|known| known == node);
        let all_have = |node: &&str| self.devices.iter().all(|(_, nodes)| has(nodes, node));
        let shared: Vec<&str> = SHARED.into_iter().filter(all_have).collect();
        let node = |path| Node { path, permissions: "mrw" };
        let devices = self.devices.iter().map(|(id, nodes)| {
            let own = nodes.iter().map(String::as_str).filter(|node| !shared.contains(node));
            let container_edits = Edits { device_nodes: own.map(node).collect() };
            DeviceEntry { name: id.to_string(), container_edits }
        });
        let spec = SpecFile {
            cdi_version: version(&self.kind),
            kind: &self.kind,
            devices: devices.collect(),
            container_edits: Edits { device_nodes: shared.iter().copied().map(node).collect() },
        };
        json_line(&spec)
    }
}

/// Returns a value as one line of JSON.
fn json_line(value: &impl Serialize) -> serde_json::Result<String> {
    Ok(serde_json::to_string(value)? + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Serializer;
    use serde_json::json;

    /// A type that no serializer can write.
    struct Unserializable;

    impl Serialize for Unserializable {
        fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("unserializable"))
        }
    }

    fn spec(resource: &str, devices: &[(&str, &[&str])]) -> serde_json::Value {
        let mut spec = Spec::of(&resource.into());
        for (id, nodes) in devices {
            let nodes: Vec<String> = nodes.iter().map(|&node| node.to_owned()).collect();
            spec.add(id.parse().unwrap(), nodes);
        }
        assert_eq!(spec.len(), spec.entries().len());
        serde_json::from_str(&spec.text().unwrap()).unwrap()
    }

    #[test]
    fn node_of_all_devices_is_in_the_specs_own_edits() {
        let made = spec(
            "nvidia.com/H100",
            &[
                ("0000:01:00.0", &["/dev/vfio/vfio", "/dev/vfio/51"]),
                ("0000:02:00.0", &["/dev/vfio/vfio", "/dev/vfio/52"]),
            ],
        );
        let node = |path: &str| json!({"path": path, "permissions": "mrw"});
        let expected = json!({
            "cdiVersion": "0.5.0",
            "kind": "nvidia.com/H100",
            "devices": [
                {"name": "0000:01:00.0", "containerEdits": {"deviceNodes": [node("/dev/vfio/51")]}},
                {"name": "0000:02:00.0", "containerEdits": {"deviceNodes": [node("/dev/vfio/52")]}},
            ],
            "containerEdits": {"deviceNodes": [node("/dev/vfio/vfio")]},
        });
        assert_eq!(made, expected);
    }

    #[test]
    fn node_of_some_devices_is_in_their_edits() {
        let uuid = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
        let made = spec(
            "a.b/c.d",
            &[
                ("0000:01:00.0", &["/dev/vfio/vfio", "/dev/vfio/51"]),
                ("0000:02:00.0", &["/dev/vfio/vfio"]),
                (uuid, &["/dev/iommu", "/dev/vfio/devices/vfio3"]),
            ],
        );
        let node = |path: &str| json!({"path": path, "permissions": "mrw"});
        let edits =
            |nodes: &[&str]| json!({"deviceNodes": nodes.iter().map(|path| node(path)).collect::<Vec<_>>()});
        let expected = json!({
            "cdiVersion": "0.6.0",
            "kind": "a.b/c.d",
            "devices": [
                {"name": "0000:01:00.0", "containerEdits": edits(&["/dev/vfio/vfio", "/dev/vfio/51"])},
                {"name": uuid, "containerEdits": edits(&["/dev/iommu", "/dev/vfio/devices/vfio3"])},
            ],
        });
        assert_eq!(made, expected);
    }

    #[test]
    fn failed_serialization_is_an_error_and_no_text() {
        assert!(json_line(&Unserializable).unwrap_err().to_string().contains("unserializable"));
    }
}
