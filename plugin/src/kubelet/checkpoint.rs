//! The kubelet's checkpoint (`pkg/kubelet/cm/devicemanager/checkpoint`): who was given what, with pod uids and with init
//! containers. It is no stable interface, so whatever is not understood is no answer.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use kubelet_api::v1beta1::ContainerAllocateResponse;
use prost::Message;
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::Path;
use vfio_plugin_policy::assignments::observation::CheckpointEntry;

/// Longest file read: an entry has a few hundred bytes.
const LONGEST: u64 = 16 * 1024 * 1024;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct File {
    data: Data,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Data {
    /// Go writes a nil slice as null; a checkpoint without the field is none.
    pod_device_entries: Option<Vec<RawEntry>>,
    /// Only that it is there is of interest: a text without it is another file.
    #[serde(rename = "RegisteredDevices")]
    _registered: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct RawEntry {
    #[serde(rename = "PodUID")]
    pod_uid: String,
    container_name: String,
    resource_name: String,
    #[serde(rename = "DeviceIDs")]
    device_ids: Option<Ids>,
    alloc_resp: Option<String>,
}

/// By NUMA node since 1.20, before that a list.
#[derive(Deserialize)]
#[serde(untagged)]
enum Ids {
    ByNode(BTreeMap<String, Option<Vec<String>>>),
    List(Vec<String>),
}

/// Reads a checkpoint's text; none if any of it is not understood. Its checksum is a hash of Go's own print of the data
/// (`checksum.New`), which only Go can compute, so it is not looked at.
pub(crate) fn parse(text: &[u8]) -> Option<Vec<CheckpointEntry>> {
    let file: File = serde_json::from_slice(text).ok()?;
    let entries = file.data.pod_device_entries.unwrap_or_default();
    entries.into_iter().map(entry).collect()
}

fn entry(raw: RawEntry) -> Option<CheckpointEntry> {
    let ids = match raw.device_ids {
        None => BTreeSet::new(),
        Some(Ids::List(ids)) => ids.into_iter().collect(),
        Some(Ids::ByNode(nodes)) => nodes.into_values().flatten().flatten().collect(),
    };
    let response = BASE64_STANDARD.decode(raw.alloc_resp.unwrap_or_default()).ok()?;
    let response = ContainerAllocateResponse::decode(response.as_slice()).ok()?;
    let told = response
        .envs
        .iter()
        .filter(|(name, _)| name.starts_with("PCI_RESOURCE_") || name.starts_with("MDEV_PCI_RESOURCE_"))
        .flat_map(|(_, addresses)| addresses.split(','))
        .map(|address| address.trim().to_owned())
        .filter(|address| !address.is_empty());
    Some(CheckpointEntry {
        response_ids: told.collect(),
        pod_uid: raw.pod_uid,
        container: raw.container_name,
        resource: raw.resource_name,
        ids,
    })
}

/// Reads the checkpoint beside kubelet.sock; none if there is none, or it is not understood.
pub(crate) fn read(folder: &Path) -> Option<Vec<CheckpointEntry>> {
    let path = folder.join(kubelet_api::CHECKPOINT);
    // Never waits on what is not a regular file.
    if !std::fs::symlink_metadata(&path).ok()?.is_file() {
        return None;
    }
    let mut text = Vec::new();
    let length = std::fs::File::open(path).ok()?.take(LONGEST).read_to_end(&mut text).ok()?;
    (u64::try_from(length).ok()? < LONGEST).then(|| parse(&text)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashMap;

    fn response(name: &str, addresses: &str) -> String {
        let envs = HashMap::from([(name.to_owned(), addresses.to_owned())]);
        BASE64_STANDARD.encode(ContainerAllocateResponse { envs, ..Default::default() }.encode_to_vec())
    }

    fn set(ids: &[&str]) -> BTreeSet<String> {
        ids.iter().map(|&id| id.to_owned()).collect()
    }

    #[test]
    fn both_formats_are_read() {
        let coded = response("PCI_RESOURCE_NVIDIA_COM_GPU", "0000:01:00.0,0000:02:00.0");
        for ids in [r#"{"0":["0000:01:00.0"],"-1":["0000:02:00.0"]}"#, r#"["0000:01:00.0","0000:02:00.0"]"#] {
            let text = format!(
                r#"{{"Data":{{"PodDeviceEntries":[{{"PodUID":"u","ContainerName":"c","ResourceName":"r",
                "DeviceIDs":{ids},"AllocResp":"{coded}"}}],"RegisteredDevices":{{"r":null}}}},"Checksum":1}}"#
            );
            let entries = parse(text.as_bytes()).unwrap();
            assert_eq!(entries.len(), 1);
            assert_eq!(entries[0].ids, set(&["0000:01:00.0", "0000:02:00.0"]));
            assert_eq!(entries[0].response_ids, entries[0].ids);
            let at = text.len() - 30;
            assert_eq!(parse(&text.as_bytes()[..at]), None, "half a file is no answer");
        }
    }

    #[test]
    fn what_the_container_was_told_is_kept_apart() {
        let coded = response("MDEV_PCI_RESOURCE_X", "a, b");
        let text = format!(
            r#"{{"Data":{{"PodDeviceEntries":[{{"PodUID":"u","ContainerName":"c","ResourceName":"r",
            "DeviceIDs":{{"0":["x"],"1":null}},"AllocResp":"{coded}"}}],"RegisteredDevices":null}}}}"#
        );
        let entry = parse(text.as_bytes()).unwrap().remove(0);
        assert_eq!((entry.ids, entry.response_ids), (set(&["x"]), set(&["a", "b"])));
    }

    #[test]
    fn what_is_not_understood_is_no_answer() {
        let entry = |rest: &str| {
            format!(
                r#"{{"Data":{{"PodDeviceEntries":[{{"PodUID":"u","ContainerName":"c","ResourceName":"r",{rest}}}],
                "RegisteredDevices":{{}}}}}}"#
            )
        };
        assert_eq!(
            parse(br#"{"Data":{"PodDeviceEntries":null,"RegisteredDevices":{}},"Checksum":0}"#),
            Some(vec![])
        );
        assert!(parse(entry(r#""DeviceIDs":null,"AllocResp":null"#).as_bytes()).is_some());
        for text in [
            String::new(),
            "null".into(),
            "{}".into(),
            r#"{"Data":null}"#.into(),
            entry(r#""DeviceIDs":7,"AllocResp":"""#),
            entry(r#""DeviceIDs":[],"AllocResp":"%""#),
            entry(r#""DeviceIDs":[],"AllocResp":"/w==""#),
        ] {
            assert_eq!(parse(text.as_bytes()), None, "{text}");
        }
    }

    #[test]
    fn only_a_regular_file_of_a_sane_length_is_read() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path()), None);
        let path = folder.path().join(kubelet_api::CHECKPOINT);
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert_eq!(read(folder.path()), None);
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, r#"{"Data":{"PodDeviceEntries":[]}}"#).unwrap();
        assert_eq!(read(folder.path()), Some(vec![]));
    }

    proptest! {
        #[test]
        fn no_text_panics(text: Vec<u8>) {
            let _ = parse(&text);
        }
    }
}
