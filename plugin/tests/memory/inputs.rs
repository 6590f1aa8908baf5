//! Inputs of the largest size that the program accepts, each of a form that once took many times its size, or could.

use kubelet_api::podresources::{
    ContainerDevices, ContainerResources, ListPodResourcesResponse, PodResources,
};

/// The largest size of a file, a little below the limit of 16 MiB. For inputs that could be kept in one piece.
const LARGEST: usize = (16 << 20) - 4096;
/// The size of a message in one piece. An unoptimized program does not read 15 MiB within its own deadline of two seconds.
const PIECE: usize = if cfg!(debug_assertions) { 1 << 20 } else { 4 << 20 };
/// A size for inputs of many values: at 50 bytes for each byte, they would exceed the limit three times over.
const SIZE: usize = 4 << 20;

/// A PCI address for each number.
fn address(number: usize) -> String {
    format!("{:04x}:{:02x}:{:02x}.{}", number >> 16, number >> 8 & 0xff, number >> 3 & 0x1f, number & 7)
}

/// Repeats items with their numbers, separated by commas, up to the size.
fn fill(size: usize, item: impl Fn(usize) -> String) -> String {
    let mut text = item(0);
    for number in 1.. {
        let item = item(number);
        if text.len() + item.len() >= size {
            break;
        }
        text.push(',');
        text.push_str(&item);
    }
    text
}

fn checkpoint(entries: &str) -> String {
    format!(r#"{{"Data":{{"PodDeviceEntries":[{entries}],"RegisteredDevices":{{}}}},"Checksum":1}}"#)
}

fn entry(pod: &str, ids: &str, response: &str) -> String {
    let resource = "nvidia.com/2330";
    format!(
        r#"{{"PodUID":"{pod}","ContainerName":"c","ResourceName":"{resource}","DeviceIDs":{{"0":[{ids}]}},"AllocResp":"{response}"}}"#
    )
}

/// Checkpoints of up to 16 MiB.
pub(crate) fn checkpoints() -> Vec<(&'static str, String)> {
    let ids = |count: usize| (0..count).map(|n| format!("\"{}\"", address(n))).collect::<Vec<_>>().join(",");
    let id = |number: usize| format!("\"{}\"", address(number));
    vec![
        ("empty entries", checkpoint(&fill(SIZE, |_| entry("", "", "")))),
        ("entries without fields", checkpoint(&fill(SIZE, |_| "{}".into()))),
        ("null entries", checkpoint(&fill(SIZE, |_| "null".into()))),
        ("one entry for each pod", checkpoint(&fill(SIZE, |n| entry(&format!("u{n}"), &id(n), "")))),
        ("a million ids", checkpoint(&entry("u", &fill(SIZE, id), ""))),
        ("ids of a byte", checkpoint(&entry("u", &fill(SIZE, |n| format!("\"{}\"", n % 10)), ""))),
        ("numbers as ids", checkpoint(&entry("u", &fill(SIZE, |n| format!("\"{n}\"")), ""))),
        ("deep nesting", format!("{{\"x\":{}", "[".repeat(LARGEST))),
        ("deep objects", "{\"Data\":".repeat(SIZE / 8)),
        ("one long text", checkpoint(&entry(&"x".repeat(LARGEST), &id(1), ""))),
        ("one long text of escapes", checkpoint(&entry(&"\\u0041".repeat(LARGEST / 6), &id(1), ""))),
        ("a long key", format!("{{\"{}\":1}}", "k".repeat(LARGEST))),
        (
            "an unknown field",
            format!("{{\"x\":[{}],\"Data\":{{\"PodDeviceEntries\":null}}}}", fill(SIZE, id)),
        ),
        ("many keys", format!("{{{}}}", fill(SIZE, |n| format!("\"{n}\":0")))),
        ("the same key", format!("{{{}}}", fill(SIZE, |_| "\"Data\":{\"PodDeviceEntries\":[]}".into()))),
        ("a response of empty devices", checkpoint(&entry("u", &id(1), &"GgAa".repeat(LARGEST / 4)))),
        (
            "a response of empty devices that is read",
            // Field 3, length 0, three times in eight characters of base64: no text is kept.
            checkpoint(&entry("u", &id(1), &"GgAaABoA".repeat(PIECE / 6))),
        ),
        (
            "registered devices",
            format!(
                r#"{{"Data":{{"PodDeviceEntries":[],"RegisteredDevices":{{"r":[{}]}}}}}}"#,
                fill(SIZE, id)
            ),
        ),
        (
            "as many entries as are kept",
            checkpoint(&(0..2048).map(|n| entry(&format!("u{n}"), &id(n), "")).collect::<Vec<_>>().join(",")),
        ),
        (
            "as many ids and pods as are kept",
            checkpoint(
                &(0..16_000)
                    .map(|n| entry(&format!("u{n}"), "", ""))
                    .chain([entry("u", &ids(16_000), "")])
                    .collect::<Vec<_>>()
                    .join(","),
            ),
        ),
    ]
}

fn pod(name: String, devices: Vec<ContainerDevices>) -> PodResources {
    let container = ContainerResources { name: "c".into(), devices, ..ContainerResources::default() };
    PodResources { name, namespace: "vms".into(), containers: vec![container] }
}

fn devices(resource: &str, device_ids: Vec<String>) -> ContainerDevices {
    ContainerDevices { resource_name: resource.into(), device_ids, ..ContainerDevices::default() }
}

/// Lists of pods of up to 16 MiB.
pub(crate) fn pod_lists() -> Vec<(&'static str, ListPodResourcesResponse)> {
    let list = |pods: Vec<PodResources>| ListPodResourcesResponse { pod_resources: pods };
    let ours = |count: usize| devices("nvidia.com/2330", (0..count).map(address).collect());
    vec![
        ("empty pods", list(vec![PodResources::default(); 100_000])),
        ("100,000 ids of a pod", list(vec![pod("a".into(), vec![ours(100_000)])])),
        (
            "long ids of another plugin",
            list(vec![pod("a".into(), vec![devices("a/x", vec!["x".repeat(PIECE); 3])])]),
        ),
        ("empty ids", list(vec![pod("a".into(), vec![devices("a/x", vec![String::new(); 100_000])])])),
        ("a long name", list(vec![pod("x".repeat(3 * PIECE), Vec::new())])),
        (
            "empty containers",
            list(vec![PodResources {
                containers: vec![ContainerResources::default(); 100_000],
                ..PodResources::default()
            }]),
        ),
        (
            "as many pods and ids as are kept",
            list(
                (0..16_000)
                    .map(|n| pod(format!("pod-with-a-name-of-usual-length-{n}"), Vec::new()))
                    .chain((0..150).map(|n| {
                        let ids = (0..100).map(|id| address(n * 100 + id)).collect();
                        pod(format!("vm-{n}"), vec![devices("nvidia.com/2330", ids)])
                    }))
                    .collect(),
            ),
        ),
        (
            "as many entries as are kept",
            list(
                (0..2000)
                    .map(|n| pod(format!("vm-{n}"), vec![devices("nvidia.com/2330", vec![address(n)])]))
                    .collect(),
            ),
        ),
    ]
}

/// A checkpoint and a list of pods that both reach every limit, with the same devices.
pub(crate) fn both_at_their_limits() -> (String, ListPodResourcesResponse) {
    let ids = |n: usize| (n * 8..n * 8 + 8).map(address).collect::<Vec<_>>();
    let quoted = |n: usize| ids(n).iter().map(|id| format!("\"{id}\"")).collect::<Vec<_>>().join(",");
    let entries = (0..2000).map(|n| entry(&format!("uid-of-a-pod-with-devices-{n}"), &quoted(n), ""));
    let others = (0..14_000).map(|n| entry(&format!("uid-of-a-pod-without-devices-{n}"), "", ""));
    let text = checkpoint(&entries.chain(others).collect::<Vec<_>>().join(","));
    let named = |n: usize| format!("pod-with-a-name-of-usual-length-{n}");
    let pods = (0..2000).map(|n| pod(named(n), vec![devices("nvidia.com/2330", ids(n))]));
    let others = (2000..16_000).map(|n| pod(named(n), Vec::new()));
    (text, ListPodResourcesResponse { pod_resources: pods.chain(others).collect() })
}

/// State files of up to 16 MiB.
pub(crate) fn state_files() -> Vec<(&'static str, String)> {
    let record = |n: usize| {
        format!(
            r#"{{"pod":{{"uid":"u{n}","full_name":null}},"container":null,"resource":"r","checkpoint_ids":["{n}"],"device_ids":["{n}"],"source":"Kubelet","kubelet_restarts":0}}"#
        )
    };
    let ledger = |records: &str, ended: &str| {
        format!(
            r#"{{"version":1,"ledger":{{"records":[{records}],"ended":[{ended}],"kubelet":null}},"kubelet":{{"sighting":null}},"files":[{ended}],"types":{{}},"held":[{ended}]}}"#
        )
    };
    vec![
        ("zeros", format!("{{\"version\":1,\"x\":[{}]}}", fill(SIZE, |_| "0".into()))),
        ("arrays", format!("[{}]", fill(SIZE, |_| "[]".into()))),
        ("deep nesting", "[".repeat(LARGEST)),
        ("one text", format!("{{\"version\":1,\"x\":\"{}\"}}", "x".repeat(LARGEST))),
        ("10,000 records", ledger(&(0..10_000).map(record).collect::<Vec<_>>().join(","), "")),
        ("many records", ledger(&fill(SIZE, record), "")),
        ("many uids", ledger("", &fill(SIZE / 4, |n| format!("\"{n}\"")))),
    ]
}

/// Pools files of up to 64 KiB.
pub(crate) fn pools_files() -> Vec<(&'static str, String)> {
    let size = 60 << 10;
    let bomb = |levels: usize| {
        let mut text = "x: &a0 [{}]\n".to_owned();
        for level in 1..levels {
            let alias = format!("*a{}", level - 1);
            text.push_str(&format!("y{level}: &a{level} [{}]\n", vec![alias; 10].join(",")));
        }
        format!("{text}pools: *a{}\n", levels - 1)
    };
    let selector = "&s {vendor: 10de, device: 2330, class: '03', address: '0000:1b:00.0'}";
    vec![
        ("a billion aliases", bomb(9)),
        (
            "aliases of one pool",
            format!(
                "pools: [&p {{select: [{selector}{}]}}{}]\n",
                ",*s".repeat(size / 8),
                ",*p".repeat(size / 8)
            ),
        ),
        ("many pools", format!("pools: [{}]\n", fill(size, |_| "{select: [{}]}".into()))),
        (
            "many aliases of names",
            format!("pools: [{{select: [{{}}], alias: {{{}}}}}]\n", fill(size, |n| format!("{n}: a"))),
        ),
        ("deep nesting", format!("pools: {}\n", "[".repeat(size))),
        ("a long text", format!("pools: [{{select: [{{driver: {}}}]}}]\n", "x".repeat(size))),
    ]
}

/// Answers of up to 16 MiB.
pub(crate) fn answers() -> Vec<(&'static str, Vec<u8>)> {
    let report = |resources: &str, devices: &str| {
        format!(
            r#"{{"pid":1,"version":"","busy":"","uptime_ms":1,"silent_ms":1,"settled":true,"resources":[{resources}],"devices":[{devices}]}}"#
        )
        .into_bytes()
    };
    let device = |_: usize| {
        r#"{"address":"","vendor":"","device":"","class":"","driver":null,"iommu_group":null,"numa_node":null,"kind":"","resource":"","state":"free","evidence":"open","viable":true,"assignment":null,"health":null,"reason":null,"holders":[]}"#.into()
    };
    vec![
        ("many devices", report("", &fill(SIZE, device))),
        ("many values", report(&fill(SIZE, |_| "0".into()), "")),
        ("a long text", format!("{{\"version\":\"{}\"}}", "x".repeat(LARGEST)).into_bytes()),
        ("deep nesting", format!("{{\"x\":{}", "[".repeat(LARGEST)).into_bytes()),
    ]
}

/// pci.ids files of up to 64 MiB that do not name the GPUs.
pub(crate) fn pci_ids() -> Vec<(&'static str, String)> {
    let size = 48 << 20;
    vec![
        ("one line", "x".repeat(size)),
        ("empty lines", "\n".repeat(SIZE)),
        ("one long name", format!("10de  {}", "x".repeat(size))),
    ]
}
