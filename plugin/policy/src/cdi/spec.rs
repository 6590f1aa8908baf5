//! Pure: one resource's spec, as it is written.

use crate::cdi::names::{kind, qualified, version};
use crate::cdi::request::SpecDevice;
use serde::Serialize;
use std::sync::Arc;
use vfio_probe::DeviceId;

/// Nodes of the host, which belong to no device. Where every device of a spec needs one, it is said once for all of them: the
/// effect is the same (`Cache.InjectDevices` applies a spec's own edits with those of its first device), but Kata in Rust
/// takes each node of a device for a device to pass through (`discover_vfio_group_device`).
const SHARED: [&str; 2] = ["/dev/vfio/vfio", "/dev/iommu"];

/// One resource's.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Spec {
    /// Which one's.
    pub resource: Arc<str>,
    /// `vendor/class`.
    pub kind: String,
    devices: Vec<(DeviceId, Vec<String>)>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Written<'a> {
    cdi_version: &'static str,
    kind: &'a str,
    devices: Vec<WrittenDevice<'a>>,
    #[serde(skip_serializing_if = "Edits::is_empty")]
    container_edits: Edits<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct WrittenDevice<'a> {
    name: String,
    container_edits: Edits<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Edits<'a> {
    device_nodes: Vec<Node<'a>>,
}

/// On the host and in the container alike; type and numbers are the host's at the time (`fillMissingInfo`).
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
    /// A resource's, without devices yet: such a one must not be written.
    pub fn of(resource: &Arc<str>) -> Self {
        Self { resource: Arc::clone(resource), kind: kind(resource), devices: Vec::new() }
    }

    /// One more device. One without a node of its own is left out, for it would make the whole spec invalid
    /// (`Device.validate`).
    pub fn add(&mut self, device: DeviceId, nodes: Vec<String>) {
        if nodes.iter().any(|node| !SHARED.contains(&node.as_str())) {
            self.devices.push((device, nodes));
        }
    }

    /// Whether it has no device: such a spec is not written.
    pub fn is_empty(&self) -> bool {
        self.devices.is_empty()
    }

    /// How many devices it has.
    pub fn len(&self) -> usize {
        self.devices.len()
    }

    /// Its devices as they are found by whoever reads it.
    pub fn entries(&self) -> Vec<SpecDevice> {
        let entry = |(id, nodes): &(DeviceId, Vec<String>)| SpecDevice {
            device: *id,
            name: qualified(&self.kind, *id),
            nodes: nodes.clone(),
            written: 0,
        };
        self.devices.iter().map(entry).collect()
    }

    /// The text of its file.
    pub fn text(&self) -> String {
        let has = |nodes: &[String], node: &str| nodes.iter().any(|known| known == node);
        let all_have = |node: &&str| self.devices.iter().all(|(_, nodes)| has(nodes, node));
        let shared: Vec<&str> = SHARED.into_iter().filter(all_have).collect();
        let node = |path| Node { path, permissions: "mrw" };
        let devices = self.devices.iter().map(|(id, nodes)| {
            let own = nodes.iter().map(String::as_str).filter(|node| !shared.contains(node));
            let container_edits = Edits { device_nodes: own.map(node).collect() };
            WrittenDevice { name: id.to_string(), container_edits }
        });
        let written = Written {
            cdi_version: version(&self.kind),
            kind: &self.kind,
            devices: devices.collect(),
            container_edits: Edits { device_nodes: shared.iter().copied().map(node).collect() },
        };
        serde_json::to_string(&written).unwrap_or_default() + "\n"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn spec(resource: &str, devices: &[(&str, &[&str])]) -> serde_json::Value {
        let mut spec = Spec::of(&resource.into());
        for (id, nodes) in devices {
            let nodes: Vec<String> = nodes.iter().map(|&node| node.to_owned()).collect();
            spec.add(id.parse().unwrap(), nodes);
        }
        assert_eq!(spec.len(), spec.entries().len());
        serde_json::from_str(&spec.text()).unwrap()
    }

    #[test]
    fn what_all_devices_need_is_said_once() {
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
    fn what_only_some_devices_need_is_theirs() {
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
}
