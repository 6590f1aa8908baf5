use super::*;
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use kubelet_api::v1beta1::{CdiDevice, ContainerAllocateResponse, DeviceSpec, Mount};
use proptest::prelude::*;
use prost::Message;
use std::collections::{BTreeSet, HashMap};

/// The entries of a text, with all resources offered.
fn parse(text: &[u8]) -> Result<Vec<CheckpointEntry>, CheckpointError> {
    super::parse(text, &OfferedResources::default())
}

fn read(kubelet_dir: &Path) -> Result<Vec<CheckpointEntry>, CheckpointError> {
    super::read(kubelet_dir, &OfferedResources::default())
}

/// A checkpoint with these entries.
fn checkpoint(entries: &str) -> String {
    format!(r#"{{"Data":{{"PodDeviceEntries":[{entries}],"RegisteredDevices":{{"r":null}}}},"Checksum":1}}"#)
}

/// An entry of the resource `r`.
fn entry(pod: &str, ids: &str, response: &str) -> String {
    format!(
        r#"{{"PodUID":"{pod}","ContainerName":"c","ResourceName":"r","DeviceIDs":{ids},"AllocResp":"{response}"}}"#
    )
}

/// A PCI address for each number.
fn address(number: usize) -> String {
    format!("{:04x}:{:02x}:{:02x}.{}", number >> 16, number >> 8 & 0xff, number >> 3 & 0x1f, number & 7)
}

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
        let truncated = parse(&text.as_bytes()[..at]);
        assert_eq!(truncated, Err(CheckpointError::Malformed), "a truncated file is malformed");
    }
}

#[test]
fn ids_of_the_response_are_kept_apart() {
    let coded = response("MDEV_PCI_RESOURCE_X", "0000:02:00.0, 0000:03:00.0");
    let text = format!(
        r#"{{"Data":{{"PodDeviceEntries":[{{"PodUID":"u","ContainerName":"c","ResourceName":"r",
        "DeviceIDs":{{"0":["0000:01:00.0"],"1":null}},"AllocResp":"{coded}"}}],"RegisteredDevices":null}}}}"#
    );
    let entry = parse(text.as_bytes()).unwrap().remove(0);
    assert_eq!(
        (entry.ids, entry.response_ids),
        (set(&["0000:01:00.0"]), set(&["0000:02:00.0", "0000:03:00.0"]))
    );
}

#[test]
fn nodes_and_cdi_names_of_the_response_are_read() {
    let spec = |path: &str| DeviceSpec { host_path: path.into(), ..DeviceSpec::default() };
    let mount = |path: &str| Mount { host_path: path.into(), ..Mount::default() };
    let annotation = |key: &str, names: &str| (key.to_owned(), names.to_owned());
    let response = ContainerAllocateResponse {
        devices: ["/dev/vfio/vfio", "/dev/vfio/52", "/dev/nvidia0"].map(spec).to_vec(),
        mounts: ["/dev/vfio/53", "/dev/vfio/devices/vfio7", "/usr/lib/x"].map(mount).to_vec(),
        cdi_devices: vec![CdiDevice { name: "a.b/c=0000:1b:00.0".into() }],
        annotations: HashMap::from([
            annotation("cdi.k8s.io/x", "a.b/c=0000:1b:00.0,a.b/c=0000:3d:00.0"),
            annotation("example.com/x", "a.b/c=no"),
        ]),
        ..ContainerAllocateResponse::default()
    };
    let coded = BASE64_STANDARD.encode(response.encode_to_vec());
    let text = format!(
        r#"{{"Data":{{"PodDeviceEntries":[{{"PodUID":"u","ContainerName":"c","ResourceName":"r",
        "DeviceIDs":null,"AllocResp":"{coded}"}}],"RegisteredDevices":null}}}}"#
    );
    let entry = parse(text.as_bytes()).unwrap().remove(0);
    let nodes = ["/dev/vfio/52", "/dev/vfio/53", "/dev/vfio/devices/vfio7", "/dev/vfio/vfio"];
    assert_eq!(entry.nodes, set(&nodes));
    assert_eq!(entry.cdi_names, set(&["a.b/c=0000:1b:00.0", "a.b/c=0000:3d:00.0"]));
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
        Ok(vec![])
    );
    assert!(parse(entry(r#""DeviceIDs":null,"AllocResp":null"#).as_bytes()).is_ok());
    for text in [
        String::new(),
        "null".into(),
        "{}".into(),
        r#"{"Data":null}"#.into(),
        r#"{"Data":{}}"#.into(),
        r#"{"Data":{"PodDeviceEntries":[],"PodDeviceEntries":[]}}"#.into(),
        r#"{"Data":{"PodDeviceEntries":[]},"Data":{"PodDeviceEntries":[]}}"#.into(),
        r#"{"Data":{"PodDeviceEntries":[]}} {}"#.into(),
        r#"{"Data":{"PodDeviceEntries":[{}]}}"#.into(),
        entry(r#""DeviceIDs":[],"DeviceIDs":[],"AllocResp":"""#),
        entry(r#""DeviceIDs":[null],"AllocResp":"""#),
        entry(r#""DeviceIDs":7,"AllocResp":"""#),
        entry(r#""DeviceIDs":[],"AllocResp":"%""#),
        entry(r#""DeviceIDs":[],"AllocResp":"/w==""#),
    ] {
        assert_eq!(parse(text.as_bytes()), Err(CheckpointError::Malformed), "{text}");
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
    for text in [" ", r#"{"Data":{"PodDeviceEntries":[{"PodUID":"#, "null"] {
        std::fs::write(&path, text).unwrap();
        assert_eq!(read(directory.path()), Err(CheckpointError::Malformed), "{text}");
    }
    File::create(&path).unwrap().set_len((16 << 20) + 1).unwrap();
    assert_eq!(read(directory.path()), Err(CheckpointError::TooLarge));
    std::fs::remove_file(&path).unwrap();
    std::fs::create_dir(&path).unwrap();
    let error = read(directory.path()).unwrap_err();
    assert_eq!(error, CheckpointError::NotRegular);
}

#[test]
fn entries_of_other_plugins_leave_their_pod_only() {
    let gpu = r#"["GPU-1","51"]"#;
    let text = checkpoint(&[entry("u1", gpu, ""), entry("u2", r#"["0000:01:00.0"]"#, "")].join(","));
    let offered = OfferedResources::known(BTreeSet::from(["other/x".into()]));
    let entries = super::parse(text.as_bytes(), &offered).unwrap();
    assert_eq!(entries.len(), 2);
    assert_eq!((entries[0].pod_uid.as_str(), entries[0].ids.len()), ("u2", 1));
    let pod = CheckpointEntry { pod_uid: "u1".into(), ..CheckpointEntry::default() };
    assert_eq!(entries[1], pod, "the kubelet knows the pod");
    let offered = OfferedResources::known(BTreeSet::from(["r".into()]));
    let entries = super::parse(text.as_bytes(), &offered).unwrap();
    assert_eq!(entries[0].ids, set(&["51"]), "a group's number counts for an offered resource");
}

#[test]
fn order_of_the_fields_does_not_matter() {
    let text = r#"{"DeviceIDs":{"0":["7","0000:01:00.0"]},"New":[{}],"AllocResp":"","ResourceName":"r","ContainerName":"c","PodUID":"u"}"#;
    let offered = OfferedResources::known(BTreeSet::new());
    let entries = super::parse(checkpoint(text).as_bytes(), &offered).unwrap();
    assert_eq!((entries.len(), &entries[0].ids), (1, &set(&["0000:01:00.0"])));
}

#[test]
fn each_limit_makes_the_whole_file_unused() {
    let over = |text: String| match parse(text.as_bytes()) {
        Err(CheckpointError::OverLimit(limit)) => limit,
        other => panic!("{other:?}"),
    };
    let list =
        |count: usize, each: &dyn Fn(usize) -> String| (0..count).map(each).collect::<Vec<_>>().join(",");
    let entries =
        |count| checkpoint(&list(count, &|n| entry(&format!("u{n}"), &format!("[\"{}\"]", address(n)), "")));
    assert_eq!(parse(entries(2048).as_bytes()).map(|entries| entries.len()), Ok(2048));
    assert_eq!(over(entries(2049)), Limit::Entries);
    let ids = |count| {
        checkpoint(&entry("u", &format!("[{}]", list(count, &|n| format!("\"{}\"", address(n)))), ""))
    };
    assert_eq!(parse(ids(8_192).as_bytes()).map(|entries| entries[0].ids.len()), Ok(8_192));
    assert_eq!(over(ids(8_193)), Limit::Ids);
    let pods = |count| checkpoint(&list(count, &|n| entry(&format!("u{n}"), "null", "")));
    assert_eq!(parse(pods(16_384).as_bytes()).map(|entries| entries.len()), Ok(16_384));
    assert_eq!(over(pods(16_385)), Limit::Pods);
    let id = r#"["0000:01:00.0"]"#;
    assert_eq!(over(checkpoint(&entry(&"u".repeat(513), id, ""))), Limit::Text);
    assert_eq!(over(checkpoint(&entry("u", id, &"AAAA".repeat(1 << 21)))), Limit::Text);
    assert_eq!(over(format!("{}{}", r#"{"x":"#, "[".repeat(1000))), Limit::Depth);
}

/// Everything that a response of 4 MiB can be filled with.
#[test]
fn large_response_is_bounded_by_the_ids_in_it() {
    let coded = |message: ContainerAllocateResponse| BASE64_STANDARD.encode(message.encode_to_vec());
    let id = r#"["0000:01:00.0"]"#;
    let empty = vec![DeviceSpec::default(); 1 << 20];
    let empty = coded(ContainerAllocateResponse { devices: empty, ..Default::default() });
    let entries = parse(checkpoint(&entry("u", id, &empty)).as_bytes()).unwrap();
    assert!(entries[0].nodes.is_empty());
    let names = (0..100_000).map(|n| CdiDevice { name: format!("a.b/c={n}") }).collect();
    let names = coded(ContainerAllocateResponse { cdi_devices: names, ..Default::default() });
    assert_eq!(
        parse(checkpoint(&entry("u", id, &names)).as_bytes()),
        Err(CheckpointError::OverLimit(Limit::Ids))
    );
    let same = vec![CdiDevice { name: "a.b/c=1".into() }; 100_000];
    let same = coded(ContainerAllocateResponse { cdi_devices: same, ..Default::default() });
    assert_eq!(parse(checkpoint(&entry("u", id, &same)).as_bytes()).unwrap()[0].cdi_names.len(), 1);
}

#[test]
fn registered_devices_and_unknown_fields_are_skipped() {
    let registered = format!("[{}0]", "\"0000:01:00.0\",".repeat(100_000));
    let text = format!(
        r#"{{"New":{registered},"Data":{{"RegisteredDevices":{{"r":{registered}}},"PodDeviceEntries":[{}]}},"Checksum":1}}"#,
        entry("u", r#"["0000:01:00.0"]"#, "")
    );
    assert_eq!(parse(text.as_bytes()).unwrap().len(), 1);
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text: Vec<u8>) {
        let _ = parse(&text);
    }
}
