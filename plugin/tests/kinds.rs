//! Compares docs/device-kinds.md with the program: for each kind of device and kernel, what `list` prints,
//! what the kubelet receives, and what Allocate returns. `UPDATE=1` writes the page's tables again.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail loudly")]

mod common;

use common::{PATIENCE, Serve, kubelet, run};
use kubelet_api::v1beta1::ContainerAllocateResponse;
use serde_json::Value;
use std::fmt::Write as _;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};
use vfio_sim_node::{Kubelet, Node, trees};

/// A case mostly waits for devices to settle, so several run at once.
const CONCURRENT_CASES: usize = 4;

/// How the test allocates the devices of a resource.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Request {
    /// One pod for each device.
    Each,
    /// One container with all devices.
    Together,
}

/// One section of the page.
struct Case {
    /// The simulated node, by its name in [`trees::ALL`].
    tree: &'static str,
    /// What is special about the case; empty for nothing.
    with: &'static str,
    /// The pools; empty for the default selection.
    pools: &'static [&'static str],
    request: Request,
}

const fn plain(tree: &'static str) -> Case {
    Case { tree, with: "", pools: &[], request: Request::Each }
}

const fn pooled(tree: &'static str, with: &'static str, pools: &'static [&'static str]) -> Case {
    Case { with, pools, ..plain(tree) }
}

const CASES: &[Case] = &[
    plain("GPUs on two NUMA nodes and one without a NUMA node"),
    plain("before 6.1"),
    plain("variant drivers"),
    pooled(
        "variant drivers",
        "selected by driver",
        &[
            "{resource: example.com/nvgrace, select: [{driver: nvgrace-gpu-vfio-pci}]}",
            "{resource: example.com/rest, select: [{driver: xe_vfio_pci}, {vendor: 10de}]}",
        ],
    ),
    pooled(
        "other vendors' GPUs, a NIC and a disk",
        "",
        &[
            "{resource: intel.com/gpu, select: [{vendor: 8086, class: \"03\"}]}",
            "{resource: amd.com/MI300X, select: [{vendor: 1002, device: 74a1}]}",
            "{resource: example.com/nic, select: [{vendor: 15b3, class: \"02\"}]}",
            "{resource: example.com/nvme, select: [{class: \"0108\"}]}",
            "{select: [{vendor: 10de}], alias: {2330: H100}}",
        ],
    ),
    plain("no IOMMU"),
    pooled("a kernel with cdevs", "backend auto", &["{select: [{vendor: 10de}], backend: auto}"]),
    pooled("a kernel with cdevs", "backend legacy", &["{select: [{vendor: 10de}], backend: legacy}"]),
    pooled("a kernel with cdevs", "backend iommufd", &["{select: [{vendor: 10de}], backend: iommufd}"]),
    pooled("a kernel with cdevs", "backend both", &["{select: [{vendor: 10de}], backend: both}"]),
    pooled("before 6.1", "backend iommufd falls back", &["{select: [{vendor: 10de}], backend: iommufd}"]),
    plain("a VM that holds a GPU by its cdev"),
    plain("a cdev that is open and not bound"),
    plain("a kernel without group nodes"),
    pooled(
        "a kernel without group nodes",
        "backend legacy falls back",
        &["{select: [{vendor: 10de}], backend: legacy}"],
    ),
    plain("a VM on a kernel without group nodes"),
    plain("a GPU with audio and USB-C in its group"),
    pooled(
        "a GPU with audio and USB-C in its group",
        "backend iommufd",
        &["{select: [{vendor: 10de, class: \"03\"}], backend: iommufd}"],
    ),
    plain("two GPUs in one group"),
    Case { with: "for one pod", request: Request::Together, ..plain("two GPUs in one group") },
    plain("not viable"),
    pooled(
        "virtual functions of a NIC",
        "",
        &[
            "{resource: example.com/vf-1, select: [{parent: \"0000:f1:00.0\"}]}",
            "{resource: example.com/vf, select: [{vendor: 15b3}]}",
        ],
    ),
    plain("a GPU with virtual functions enabled"),
    plain("mediated devices"),
    plain("a VM with a mediated device"),
    plain("virtual functions with a vGPU and without"),
    plain("extended memory"),
    Case { with: "for one pod", request: Request::Together, ..plain("extended memory") },
    plain("no device node"),
    plain("a GPU that has fallen off the bus"),
    plain("a lost GPU in D3cold"),
    pooled(
        "a kernel with cdevs",
        "found by CDI",
        &["{resource: nvidia.com/H100, select: [{vendor: 10de}], backend: iommufd, cdi: devices}"],
    ),
];

#[test]
fn device_kinds_page_matches_the_program() {
    for (name, _) in trees::ALL {
        assert!(CASES.iter().any(|case| case.tree == *name), "no case uses the node {name:?}");
    }
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/device-kinds.md");
    let document = std::fs::read_to_string(&path).unwrap_or_default();
    let begin = document.find("\n## ").map_or(document.len(), |place| place + 1);
    let (introduction, documented) = document.split_at(begin);
    let made: String = sections().concat();
    let made = made.trim_end().to_owned() + "\n";
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, format!("{introduction}{made}")).unwrap();
        return;
    }
    for (made, documented) in made.split("\n## ").zip(documented.split("\n## ")) {
        assert_eq!(made, documented, "UPDATE=1 cargo test -p vfio-device-plugin --test kinds");
    }
    assert_eq!(made.len(), documented.len());
}

/// Returns the sections of all cases, in the order of [`CASES`].
fn sections() -> Vec<String> {
    let next = AtomicUsize::new(0);
    let made = Mutex::new(vec![String::new(); CASES.len()]);
    std::thread::scope(|scope| {
        for _ in 0..CONCURRENT_CASES {
            scope.spawn(|| {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                loop {
                    let place = next.fetch_add(1, Ordering::Relaxed);
                    let Some(case) = CASES.get(place) else { break };
                    let section = runtime.block_on(section(case));
                    made.lock().unwrap()[place] = section;
                }
            });
        }
    });
    made.into_inner().unwrap()
}

/// Returns one case as a heading and a table.
async fn section(case: &Case) -> String {
    let tree = trees::by_name(case.tree).unwrap();
    let node = &tree.node;
    let kubelet = kubelet(node).await;
    let mut words = vec!["--checks-interval", "100ms"];
    let file = node.root().join("pools.yaml").to_str().unwrap().to_owned();
    let pools: String = case.pools.iter().map(|pool| format!("  - {pool}\n")).collect();
    if !pools.is_empty() {
        node.write("pools.yaml", format!("pools:\n{pools}")).unwrap();
        words.extend(["--pools", &file]);
    }
    let _serve = Serve::start(node, &words);
    let devices = settled_devices(node, &kubelet, &words).await;
    let mut text = format!("## {}{}", case.tree[..1].to_uppercase(), &case.tree[1..]);
    if !case.with.is_empty() {
        let _ = write!(text, ": {}", case.with);
    }
    text += "\n";
    if !pools.is_empty() {
        let _ = write!(text, "\n```yaml\npools:\n{pools}```\n");
    }
    text += "\n| device | driver | resource | state | health | NUMA | Allocate returns |\n| --- | --- | --- | --- | --- | --- | --- |\n";
    let mut allocated = allocate_all(&kubelet, &devices, case.request).await.into_iter();
    for device in &devices {
        let [address, resource, state, health] =
            ["address", "resource", "state", "health"].map(|key| device[key].as_str().unwrap_or("-"));
        let driver = device["driver"].as_str().unwrap_or("none");
        let reason =
            device["reason"].as_str().map(|reason| format!(": {}", without_pids(reason))).unwrap_or_default();
        let numa = topology(&kubelet, resource, address);
        let allocated = allocated.next().unwrap();
        let _ = writeln!(
            text,
            "| `{address}` | {driver} | `{resource}` | {state} | {health}{reason} | {numa} | {allocated} |"
        );
    }
    text + "\n"
}

/// Returns the devices of `list` once the kubelet has received all of them and nothing has changed for longer
/// than `--settling`.
async fn settled_devices(node: &Node, kubelet: &Kubelet, words: &[&str]) -> Vec<Value> {
    let list = [&["list", "--json"], words].concat();
    let deadline = Instant::now() + PATIENCE * 3;
    let (mut known, mut since) = (Vec::new(), Instant::now());
    loop {
        let (code, out, error) = run(node, &list);
        assert_eq!(code, 0, "{error}");
        let listed = serde_json::from_str::<Value>(&out).unwrap()["devices"].as_array().unwrap().clone();
        if listed != known {
            (known, since) = (listed, Instant::now());
        }
        let state = kubelet.state();
        let reported = |device: &Value| {
            let resource = state.resources.get(device["resource"].as_str().unwrap());
            let health = resource.and_then(|resource| resource.health(device["address"].as_str().unwrap()));
            health.is_some() && health == device["health"].as_str()
        };
        if known.iter().all(reported) && since.elapsed() > Duration::from_millis(1000) {
            return known;
        }
        assert!(Instant::now() < deadline, "{known:#?} {state:#?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// Allocates the devices and returns the last cell of each row.
async fn allocate_all(kubelet: &Kubelet, devices: &[Value], request: Request) -> Vec<String> {
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let mut cells: Vec<String> = Vec::new();
    for (place, device) in devices.iter().enumerate() {
        let resource = text(&device["resource"]);
        let same = |other: &&Value| other["resource"] == device["resource"];
        let ids: Vec<String> = match request {
            Request::Each => vec![text(&device["address"])],
            Request::Together if devices[..place].iter().any(|other| same(&other)) => {
                cells.push("with the first".to_owned());
                continue;
            }
            Request::Together => devices.iter().filter(same).map(|device| text(&device["address"])).collect(),
        };
        cells.push(match kubelet.allocate(&resource, &[&ids]).await {
            Ok(response) => response_text(&response[0]),
            Err(status) => format!("refused: {}", without_pids(status.message())),
        });
    }
    cells
}

/// Returns a response as the words of a cell.
fn response_text(response: &ContainerAllocateResponse) -> String {
    let mut words: Vec<String> =
        response.envs.iter().map(|(name, value)| format!("`{name}={value}`")).collect();
    words.sort();
    words.extend(response.devices.iter().map(|spec| format!("`{}`", spec.host_path)));
    words.extend(response.cdi_devices.iter().map(|device| format!("CDI `{}`", device.name)));
    words.join(" ")
}

/// Returns the NUMA node of the topology hint that the kubelet received; `-` for no hint.
fn topology(kubelet: &Kubelet, resource: &str, address: &str) -> String {
    let state = kubelet.state();
    let devices = state.resources.get(resource).map(|resource| resource.devices.clone()).unwrap_or_default();
    let device = devices.into_iter().find(|device| device.id == address);
    let hint = device.and_then(|device| device.topology);
    hint.map_or_else(|| "-".to_owned(), |hint| hint.nodes[0].id.to_string())
}

/// Replaces the number after each "pid" by N: it differs from run to run.
fn without_pids(text: &str) -> String {
    let mut words = text.split_inclusive(' ');
    let mut made = String::new();
    while let Some(word) = words.next() {
        made += word;
        if word == "pid " {
            let number = words.next().unwrap_or_default();
            made += &number.replace(|c: char| c.is_ascii_digit(), "").replace(' ', "N ");
        }
    }
    made
}
