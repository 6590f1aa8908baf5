//! What the kubelet shows: its checkpoint, the responses in it, and pod resources.

use crate::bounded;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use kubelet_api::podresources::ListPodResourcesResponse;
use kubelet_api::v1beta1::ContainerAllocateResponse;
use prost::Message;
use std::collections::{BTreeMap, BTreeSet};
use vfio_device_plugin::fuzzing;
use vfio_plugin_policy::assignments::observation::{CheckpointEntry, ListedPod};
use vfio_plugin_policy::assignments::record::is_vfio_id;
use vfio_plugin_policy::assignments::stored_answer::{is_cdi_annotation, is_vfio_node};

/// The resource that is offered where one is.
const RESOURCE: &str = "r";
/// Bytes for the buffers of a parser.
const BUFFERS: usize = 256 << 10;
/// Bytes for each byte of input: an id of a digit is a text in a set.
const AMPLIFICATION: usize = 48;

/// The checkpoint, with unknown and with known resources.
pub fn checkpoint(data: &[u8]) {
    let most = BUFFERS + AMPLIFICATION * data.len();
    let any = bounded(most, || fuzzing::checkpoint(data, None));
    let ours = bounded(most, || fuzzing::checkpoint(data, Some(&[RESOURCE])));
    let Ok(any) = any else { return };
    let ours = ours.expect("a narrower filter keeps less and exceeds no other limit");
    for entries in [&any, &ours] {
        assert_within_limits(entries);
    }
    let pods = |entries: &[CheckpointEntry]| -> BTreeSet<String> {
        entries.iter().map(|entry| entry.pod_uid.clone()).collect()
    };
    assert_eq!(pods(&any), pods(&ours), "every pod is known, whatever is offered");
    let ids = |entries: Vec<CheckpointEntry>| -> BTreeSet<String> {
        entries.into_iter().flat_map(|entry| entry.ids).collect()
    };
    assert!(ids(ours).is_subset(&ids(any)));
    let end = data.trim_ascii_end().len();
    let cut = &data[..end - 1];
    assert!(fuzzing::checkpoint(cut, None).is_err(), "a file that was cut off is never a checkpoint");
}

fn assert_within_limits(entries: &[CheckpointEntry]) {
    let kept = entries.iter().filter(|entry| !entry.resource.is_empty() && !entry.ids.is_empty());
    assert!(kept.clone().count() <= 2048 && entries.len() <= 2048 + 16_384);
    assert!(kept.clone().map(|entry| entry.ids.len()).sum::<usize>() <= 8_192);
    assert!(entries.iter().flat_map(|entry| &entry.ids).all(|id| is_vfio_id(id, true)));
}

/// A response in the checkpoint, compared with prost's decoder.
pub fn alloc_response(data: &[u8]) {
    let coded = BASE64_STANDARD.encode(data);
    let text = format!(
        r#"{{"Data":{{"PodDeviceEntries":[{{"PodUID":"u","ContainerName":"c","ResourceName":"r",
        "DeviceIDs":["0000:01:00.0"],"AllocResp":"{coded}"}}]}}}}"#
    );
    let most = BUFFERS + AMPLIFICATION * text.len();
    let read = bounded(most, || fuzzing::checkpoint(text.as_bytes(), None));
    let (Ok(read), Ok(decoded)) = (read, ContainerAllocateResponse::decode(data)) else { return };
    let entry = &read[0];
    let is_ours = |name: &str| name.starts_with("PCI_RESOURCE_") || name.starts_with("MDEV_PCI_RESOURCE_");
    let envs = decoded.envs.iter().filter(|(name, _)| is_ours(name)).flat_map(|(_, ids)| ids.split(','));
    // prost keeps the last of the variables with one name.
    for id in envs.map(str::trim).filter(|id| is_vfio_id(id, true)) {
        assert!(entry.response_ids.contains(id));
    }
    let mounts = decoded.mounts.into_iter().map(|mount| mount.host_path);
    let nodes = decoded.devices.into_iter().map(|spec| spec.host_path).chain(mounts);
    assert_eq!(entry.nodes, nodes.filter(|path| is_vfio_node(path)).collect());
    let annotations = decoded.annotations.iter().filter(|(key, _)| is_cdi_annotation(key));
    let names = annotations.flat_map(|(_, names)| names.split(','));
    let devices = decoded.cdi_devices.iter().map(|device| device.name.as_str());
    for name in names.chain(devices).filter(|name| !name.is_empty()) {
        assert!(entry.cdi_names.contains(name));
    }
}

/// A list of pod resources, compared with prost's decoder.
pub fn pod_resources(data: &[u8]) {
    let most = BUFFERS + AMPLIFICATION * data.len();
    let any = bounded(most, || fuzzing::pod_list(data, None));
    let ours = bounded(most, || fuzzing::pod_list(data, Some(&[RESOURCE])));
    if let Ok(any) = &any {
        let ours = ours.expect("a narrower filter keeps less and exceeds no other limit");
        let names =
            |pods: &[ListedPod]| -> Vec<String> { pods.iter().map(|pod| pod.full_name.clone()).collect() };
        assert_eq!(names(any), names(&ours), "every pod is listed, whatever is offered");
    }
    match (any, ListPodResourcesResponse::decode(data)) {
        (Ok(any), Ok(decoded)) => assert_eq!(any, expected(decoded)),
        (Err(is_over_limit), Ok(_)) => assert!(is_over_limit || has_group(data), "prost reads it"),
        (_, Err(_)) => {}
    }
}

/// The pods of prost's message.
fn expected(decoded: ListPodResourcesResponse) -> Vec<ListedPod> {
    let pods = decoded.pod_resources.into_iter().map(|pod| {
        let mut devices: BTreeMap<(String, String), BTreeSet<String>> = BTreeMap::new();
        for container in pod.containers {
            for entry in container.devices {
                let key = (container.name.clone(), entry.resource_name);
                let ids = entry.device_ids.into_iter().filter(|id| is_vfio_id(id, true));
                devices.entry(key).or_default().extend(ids);
            }
        }
        devices.retain(|_, ids| !ids.is_empty());
        ListedPod { full_name: format!("{}/{}", pod.namespace, pod.name), devices }
    });
    pods.collect()
}

/// Returns whether a message could have a group, which prost skips and the plugin refuses: some byte has that wire type.
fn has_group(data: &[u8]) -> bool {
    data.iter().any(|byte| matches!(byte & 7, 3 | 4))
}
