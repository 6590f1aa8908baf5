//! Writes the checkpoint beside kubelet.sock (`pkg/kubelet/cm/devicemanager/checkpoint`): the allocated devices with
//! the pod UIDs that pod resources lack.

use super::state::{KubeletState, Pod, Resource};
use prost::Message;
use serde::Serialize;
use std::collections::BTreeMap;
use std::io::Result;
use std::path::Path;

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Checkpoint {
    data: Data,
    /// The kubelet's checksum is a hash of the data as Go prints it. Other readers cannot verify it, and this one is
    /// not valid.
    checksum: u64,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Data {
    pod_device_entries: Vec<Entry>,
    registered_devices: BTreeMap<String, Vec<String>>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Entry {
    #[serde(rename = "PodUID")]
    pod_uid: String,
    container_name: String,
    resource_name: String,
    /// By NUMA node; -1 for a device without topology (`nodeWithoutTopology`).
    #[serde(rename = "DeviceIDs")]
    device_ids: BTreeMap<i64, Vec<String>>,
    alloc_resp: String,
}

/// Replaces the checkpoint in one step, as the kubelet's file store does.
pub(super) fn write(dir: &Path, state: &KubeletState) -> Result<()> {
    let healthy = |resource: &Resource| {
        let healthy = resource.devices.iter().filter(|device| device.health == kubelet_api::HEALTHY);
        healthy.map(|device| device.id.clone()).collect()
    };
    let given = state.pods.iter().filter(|pod| !pod.devices.is_empty());
    let data = Data {
        pod_device_entries: given.map(|pod| entry(state, pod)).collect(),
        registered_devices: state
            .resources
            .iter()
            .map(|(name, resource)| (name.clone(), healthy(resource)))
            .collect(),
    };
    let text = serde_json::to_vec(&Checkpoint { data, checksum: 0 })?;
    let fresh = dir.join(format!(".{}", kubelet_api::CHECKPOINT));
    std::fs::write(&fresh, text)?;
    std::fs::rename(fresh, dir.join(kubelet_api::CHECKPOINT))
}

fn entry(state: &KubeletState, pod: &Pod) -> Entry {
    let numa_node = |id: &String| {
        let devices = state.resources.get(&pod.resource).map(|resource| resource.devices.as_slice());
        let device = devices.unwrap_or_default().iter().find(|device| device.id == *id);
        device.and_then(|device| device.topology.as_ref()?.nodes.first()).map_or(-1, |node| node.id)
    };
    let mut device_ids: BTreeMap<i64, Vec<String>> = BTreeMap::new();
    for id in &pod.devices {
        device_ids.entry(numa_node(id)).or_default().push(id.clone());
    }
    Entry {
        pod_uid: pod.uid.clone(),
        container_name: "compute".to_owned(),
        resource_name: pod.resource.clone(),
        device_ids,
        alloc_resp: base64(&pod.response.encode_to_vec()),
    }
}

/// Encodes bytes as Go's encoding/json encodes a []byte.
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for chunk in bytes.chunks(3) {
        let bits =
            (0..3).fold(0, |bits, place| bits << 8 | chunk.get(place).map_or(0, |&byte| u32::from(byte)));
        for place in 0..4 {
            let digit = DIGITS.get((bits >> (18 - 6 * place) & 0x3f) as usize).copied().unwrap_or(b'A');
            text.push(if place <= chunk.len() { char::from(digit) } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::base64;

    #[test]
    fn base64_pads_as_rfc_4648_says() {
        for (plain, coded) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foob", "Zm9vYg=="),
            ("fooba", "Zm9vYmE="),
        ] {
            assert_eq!(base64(plain.as_bytes()), coded);
        }
    }
}
