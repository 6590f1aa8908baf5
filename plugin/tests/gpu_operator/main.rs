//! The image in the place of NVIDIA's sandbox device plugin, as the GPU operator runs it: privileged, without arguments, in pid and
//! other namespaces of its own, with three mounts of the host
//! (`assets/state-sandbox-device-plugin/0500_daemonset.yaml` of NVIDIA/gpu-operator).

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail loudly")]

#[path = "../common/mod.rs"]
mod common;
mod container;

use common::{PATIENCE, assigned_pod, expect, health, kubelet};
use container::{Container, Layer, is_permitted};
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Instant;
use vfio_sim_node::kubelet::{AdmitError, KubeletState};
use vfio_sim_node::{Hold, Node, VmSpec};

/// The name that NVIDIA's plugin gives to the GPUs.
const H100: &str = "nvidia.com/GH100_H100_SXM5_80GB";
const GPU: &str = "0000:1b:00.0";
const OTHER: &str = "0000:3d:00.0";

/// Returns a node with eight GPUs. Its thread gives up CAP_SYS_ADMIN, which the test's needs.
fn node() -> Node {
    std::thread::spawn(|| Node::with_eight_gpus().unwrap()).join().unwrap()
}

fn allocatable(state: &KubeletState) -> usize {
    state.capacity(H100).allocatable
}

/// Returns `list --json` of the container.
fn listing(container: &Container) -> Value {
    let (code, out, errors) = container.exec(&["list", "--json"]);
    assert_eq!(code, 0, "{errors}");
    serde_json::from_str(&out).unwrap()
}

/// Waits until a device of `list --json` is as wanted, and returns it.
fn wait_for(container: &Container, address: &str, wanted: impl Fn(&Value) -> bool) -> Value {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let listing = listing(container);
        let device =
            listing["devices"].as_array().unwrap().iter().find(|device| device["address"] == address);
        if let Some(device) = device.filter(|device| wanted(device)) {
            return device.clone();
        }
        assert!(Instant::now() < deadline, "{listing:#}");
    }
}

/// Returns each event of the log with its level, without time and fields, and how often it came.
fn events(container: &Container) -> BTreeMap<String, usize> {
    let mut events = BTreeMap::new();
    for line in container.log() {
        let text = line.split_once(" vfio_device_plugin").map_or(&*line, |(_, text)| text);
        let level = ["ERROR", "WARN"].into_iter().find(|level| line.contains(level)).unwrap_or("INFO");
        let event = text.split_once(": ").map_or(text, |(_, event)| event);
        *events.entry(format!("{level} {event}")).or_insert(0) += 1;
    }
    events
}

/// Fails if a warning came twice, and returns the events.
fn without_repetition(container: &Container) -> BTreeMap<String, usize> {
    let events = events(container);
    assert!(events.values().all(|count| *count == 1), "{events:#?}");
    events
}

/// Returns how many events contain a text.
fn count(events: &BTreeMap<String, usize>, text: &str) -> usize {
    events.keys().filter(|event| event.contains(text)).count()
}

#[tokio::test]
async fn default_command_serves_the_node() {
    if !is_permitted() {
        return;
    }
    let node = node();
    let kubelet = kubelet(&node).await;
    let vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    let container = Container::start(&node, Layer::Writable);
    expect(&kubelet, "the held GPU is Unhealthy", |state| allocatable(state) == 7).await;
    assert_eq!(container.exec(&["ready"]).0, 0);
    // The holder is outside the pid namespace: its GPU is held, and no command says that no process holds it.
    let device = wait_for(&container, GPU, |device| device["health"] == "Unhealthy");
    assert_eq!((&device["state"], &device["holders"]), (&"held".into(), &serde_json::json!([])), "{device}");
    assert_eq!(device["reason"], "held by a process that could not be found");
    let (code, text, _) = container.exec(&["who", GPU]);
    assert_eq!(code, 3, "{text}");
    assert!(text.starts_with("Group 51 looks held (enable), and its holder could not be found."), "{text}");
    let (code, text, _) = container.exec(&["who", OTHER]);
    assert_eq!(code, 3, "{text}");
    assert!(text.starts_with("Unknown: ") && !text.contains("no process"), "{text}");
    let (code, text, _) = container.exec(&["doctor"]);
    assert_eq!(code, 1, "{text}");
    assert!(text.contains("warning  pod resources: cannot be listed"), "{text}");
    assert!(
        text.contains("info     holders: some may be missing: this is not the host's pid namespace"),
        "{text}"
    );
    assert!(!text.contains("no serve answers"), "{text}");
    assert_eq!(listing(&container)["coverage"]["pid_namespace"], "foreign");
    // A refusal and an Allocate.
    let refused = kubelet.admit_with("vm-1", H100, vec![GPU.to_owned()]).await.unwrap_err();
    assert!(
        matches!(&refused, AdmitError::Refused(status) if status.message().contains("group 51")),
        "{refused}"
    );
    let pod = kubelet.admit_with("vm-2", H100, vec![OTHER.to_owned()]).await.unwrap();
    assert_eq!(pod.response.envs["PCI_RESOURCE_NVIDIA_COM_GH100_H100_SXM5_80GB"], OTHER);
    // From the checkpoint, which has uids and no names.
    wait_for(&container, OTHER, |device| assigned_pod(device).as_ref() == Some(&pod.pod_uid));
    vm.kill();
    expect(&kubelet, "the freed GPU is Healthy", |state| allocatable(state) == 8).await;
    let events = without_repetition(&container);
    assert_eq!(count(&events, "not all holders can be named"), 1, "{events:#?}");
    assert_eq!(count(&events, "assignments come from the kubelet's checkpoint alone"), 1, "{events:#?}");
    assert_eq!(count(&events, "ERROR"), 0, "{events:#?}");
    assert_eq!(container.terminate(), 0);
}

#[tokio::test]
async fn holder_without_a_device_is_found_by_probes() {
    if !is_permitted() {
        return;
    }
    let node = node();
    let kubelet = kubelet(&node).await;
    let hold = |address: &str| {
        node.start_vm(&VmSpec { hold: Hold::GroupOnly, ..VmSpec::foreign(&[address]) }).unwrap()
    };
    // The holder has the group open and no device, so that its enable count is 0.
    let _before = hold(GPU);
    let container = Container::start(&node, Layer::Writable);
    expect(&kubelet, "the probe at the start finds it", |state| allocatable(state) == 7).await;
    let device = wait_for(&container, GPU, |device| device["health"] == "Unhealthy");
    assert_eq!((&device["state"], &device["evidence"]), (&"held".into(), &"open".into()), "{device}");
    let _later = hold(OTHER);
    let refused = kubelet.admit_with("vm-1", H100, vec![OTHER.to_owned()]).await.unwrap_err();
    assert!(
        matches!(&refused, AdmitError::Refused(status) if status.message().contains("group 52")),
        "{refused}"
    );
    expect(&kubelet, "Allocate finds the later one", |state| allocatable(state) == 6).await;
    without_repetition(&container);
}

#[tokio::test]
async fn restarted_container_has_its_state_from_the_kubelet() {
    if !is_permitted() {
        return;
    }
    let node = node();
    let kubelet = kubelet(&node).await;
    let container = Container::start(&node, Layer::Writable);
    expect(&kubelet, "offered", |state| allocatable(state) == 8).await;
    let pod = kubelet.admit_with("vm-1", H100, vec![OTHER.to_owned()]).await.unwrap();
    let _vm = node.start_vm(&VmSpec::of_pod(&pod.pod_uid, &pod.devices)).unwrap();
    let _foreign = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    expect(&kubelet, "the foreign one is found", |state| allocatable(state) == 7).await;
    assert_eq!(container.terminate(), 0);
    // The files of the container are lost with it.
    let registrations = kubelet.state().registrations_of(H100);
    let container = Container::start(&node, Layer::Writable);
    let mut was_unhealthy = false;
    expect(&kubelet, "found again", |state| {
        if state.registrations_of(H100) == registrations {
            return false;
        }
        was_unhealthy |= health(state, H100, OTHER) == Some(false);
        allocatable(state) == 7 && health(state, H100, GPU) == Some(false)
    })
    .await;
    assert!(!was_unhealthy, "the device of a running pod was Unhealthy");
    let device = wait_for(&container, OTHER, |device| device["state"] == "held");
    assert_eq!(assigned_pod(&device).as_ref(), Some(&pod.pod_uid), "{device}");
    assert_eq!(device["health"], "Healthy");
    // Another start of the kubelet, with and without its checkpoint.
    for keeps_checkpoint in [true, false] {
        let registrations = kubelet.state().registrations_of(H100);
        kubelet.restart(keeps_checkpoint).await.unwrap();
        expect(&kubelet, "registered again", |state| {
            state.registrations_of(H100) > registrations && allocatable(state) == 7
        })
        .await;
        let device = wait_for(&container, OTHER, |device| device["health"] == "Healthy");
        assert_eq!(assigned_pod(&device).as_ref(), Some(&pod.pod_uid), "{keeps_checkpoint}: {device}");
    }
    let mut events = events(&container);
    // A kubelet that starts refuses connections until it listens on its socket; each attempt is an event.
    events.retain(|event, _| !event.starts_with("INFO") && !event.starts_with("WARN cannot register"));
    assert!(events.values().all(|count| *count == 1), "{events:#?}");
}

#[tokio::test]
async fn read_only_file_system_needs_no_state() {
    if !is_permitted() {
        return;
    }
    let node = node();
    let kubelet = kubelet(&node).await;
    let container = Container::start(&node, Layer::ReadOnly);
    expect(&kubelet, "offered", |state| allocatable(state) == 8).await;
    let pod = kubelet.admit_with("vm-1", H100, vec![OTHER.to_owned()]).await.unwrap();
    let _vm = node.start_vm(&VmSpec::of_pod(&pod.pod_uid, &pod.devices)).unwrap();
    let _foreign = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    expect(&kubelet, "the foreign one is found", |state| health(state, H100, GPU) == Some(false)).await;
    assert_eq!(health(&kubelet.state(), H100, OTHER), Some(true));
    // No status socket either, which is said; the command reads the node itself.
    let (code, out, errors) = container.exec(&["list"]);
    assert!(code == 0 && out.contains(GPU) && errors.contains("no serve answers"), "{out}{errors}");
    let (code, _, errors) = container.exec(&["ready"]);
    assert!(code == 1 && errors.contains("no serve answers"), "{errors}");
    let events = without_repetition(&container);
    assert_eq!(count(&events, "WARN no status socket yet"), 1, "{events:#?}");
    assert_eq!(container.terminate(), 0);
}
