//! Reads the kubelet's checkpoint (`pkg/kubelet/cm/devicemanager/checkpoint`): the devices of each container, with pod uids and
//! with init containers.
//!
//! The file is no stable interface: if any part of it is malformed, none of it is used.

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use kubelet_api::v1beta1::ContainerAllocateResponse;
use prost::Message;
use rustix::fs::{Mode, OFlags};
use serde::Deserialize;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::path::Path;
use vfio_plugin_policy::assignments::observation::CheckpointEntry;

/// The longest file that is read, in bytes. An entry has a few hundred bytes.
const MAX_LENGTH: u64 = 16 * 1024 * 1024;

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Checkpoint {
    data: Data,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Data {
    /// Go writes a nil slice as null. A file without this field is not a checkpoint.
    pod_device_entries: Option<Vec<RawEntry>>,
    /// Only its presence matters: a file without it is not a checkpoint.
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

/// The devices of a container: by NUMA node since 1.20, before that a list.
#[derive(Deserialize)]
#[serde(untagged)]
enum Ids {
    ByNode(BTreeMap<String, Option<Vec<String>>>),
    List(Vec<String>),
}

/// Parses a checkpoint; none if any part of it is malformed. The checksum is ignored: it is a hash of Go's own print of the data
/// (`checksum.New`), which only Go can compute.
pub(crate) fn parse(text: &[u8]) -> Option<Vec<CheckpointEntry>> {
    let checkpoint: Checkpoint = serde_json::from_slice(text).ok()?;
    let entries = checkpoint.data.pod_device_entries.unwrap_or_default();
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
    let response_ids = response
        .envs
        .iter()
        .filter(|(name, _)| name.starts_with("PCI_RESOURCE_") || name.starts_with("MDEV_PCI_RESOURCE_"))
        .flat_map(|(_, addresses)| addresses.split(','))
        .map(|address| address.trim().to_owned())
        .filter(|address| !address.is_empty());
    Some(CheckpointEntry {
        response_ids: response_ids.collect(),
        pod_uid: raw.pod_uid,
        container: raw.container_name,
        resource: raw.resource_name,
        ids,
    })
}

/// Why the checkpoint is not used. A file that is not understood is not a missing file: it may name pods.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(crate) enum CheckpointError {
    /// There is no such file: the kubelet has allocated nothing yet, or the directory is not the kubelet's.
    Missing,
    /// The file could not be opened or read.
    Unreadable(ErrorKind),
    /// The path leads to a symbolic link, a directory, a FIFO or a device.
    NotRegular,
    /// The file has more than 16 MiB.
    TooLarge,
    /// The content is no checkpoint: half written, empty, or of an unknown version.
    Malformed,
}

impl fmt::Display for CheckpointError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing => f.write_str("the file does not exist"),
            Self::Unreadable(kind) => write!(f, "the file cannot be read: {kind}"),
            Self::NotRegular => f.write_str("the file is not a regular file"),
            Self::TooLarge => f.write_str("the file has more than 16 MiB"),
            Self::Malformed => f.write_str("the file is not a checkpoint that this version understands"),
        }
    }
}

/// Reads the checkpoint in the kubelet's directory of device plugins. Reads regular files only, so it never waits for a FIFO's
/// writer.
///
/// # Errors
/// The checkpoint does not exist, cannot be read or is not understood. None of it may be used then.
pub(crate) fn read(kubelet_dir: &Path) -> Result<Vec<CheckpointEntry>, CheckpointError> {
    let path = kubelet_dir.join(kubelet_api::CHECKPOINT);
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(file) => File::from(file),
        Err(rustix::io::Errno::NOENT) => return Err(CheckpointError::Missing),
        // A symbolic link, and a socket.
        Err(rustix::io::Errno::LOOP | rustix::io::Errno::NXIO) => return Err(CheckpointError::NotRegular),
        Err(error) => return Err(CheckpointError::Unreadable(std::io::Error::from(error).kind())),
    };
    let unreadable = |error: std::io::Error| CheckpointError::Unreadable(error.kind());
    if !file.metadata().map_err(unreadable)?.is_file() {
        return Err(CheckpointError::NotRegular);
    }
    let mut text = Vec::new();
    let length = file.take(MAX_LENGTH + 1).read_to_end(&mut text).map_err(unreadable)?;
    if u64::try_from(length).is_ok_and(|length| length > MAX_LENGTH) {
        return Err(CheckpointError::TooLarge);
    }
    parse(&text).ok_or(CheckpointError::Malformed)
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
            assert_eq!(parse(&text.as_bytes()[..at]), None, "a truncated file is malformed");
        }
    }

    #[test]
    fn ids_of_the_response_are_kept_apart() {
        let coded = response("MDEV_PCI_RESOURCE_X", "a, b");
        let text = format!(
            r#"{{"Data":{{"PodDeviceEntries":[{{"PodUID":"u","ContainerName":"c","ResourceName":"r",
            "DeviceIDs":{{"0":["x"],"1":null}},"AllocResp":"{coded}"}}],"RegisteredDevices":null}}}}"#
        );
        let entry = parse(text.as_bytes()).unwrap().remove(0);
        assert_eq!((entry.ids, entry.response_ids), (set(&["x"]), set(&["a", "b"])));
    }

    #[test]
    fn malformed_checkpoint_is_not_used() {
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
    fn only_a_regular_file_is_read_without_waiting() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(read(directory.path()), Err(CheckpointError::Missing));
        let path = directory.path().join(kubelet_api::CHECKPOINT);
        std::os::unix::fs::symlink("/dev/zero", &path).unwrap();
        assert_eq!(read(directory.path()), Err(CheckpointError::NotRegular));
        std::fs::remove_file(&path).unwrap();
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert_eq!(read(directory.path()), Err(CheckpointError::NotRegular), "a FIFO without a writer");
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, r#"{"Data":{"PodDeviceEntries":[]}}"#).unwrap();
        assert_eq!(read(directory.path()), Ok(vec![]));
    }

    #[test]
    fn checkpoint_not_understood_is_not_missing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(kubelet_api::CHECKPOINT);
        for text in ["", r#"{"Data":{"PodDeviceEntries":[{"PodUID":"#, "null"] {
            std::fs::write(&path, text).unwrap();
            assert_eq!(read(directory.path()), Err(CheckpointError::Malformed), "{text}");
        }
        File::create(&path).unwrap().set_len(MAX_LENGTH + 1).unwrap();
        assert_eq!(read(directory.path()), Err(CheckpointError::TooLarge));
        std::fs::remove_file(&path).unwrap();
        std::fs::create_dir(&path).unwrap();
        let error = read(directory.path()).unwrap_err();
        assert_eq!(error, CheckpointError::NotRegular);
    }

    proptest! {
        #[test]
        fn no_text_makes_it_panic(text: Vec<u8>) {
            let _ = parse(&text);
        }
    }
}
