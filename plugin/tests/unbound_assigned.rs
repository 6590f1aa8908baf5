//! Devices that are assigned to pods and are not bound, or have left the bus: they stay listed until their pods end, over every
//! restart, whatever of the assignment can still be read.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail loudly")]

mod common;

use common::{
    H100, Serve, assigned_pod, device, expect, health, kubelet, list, run, wait_for_pod, write_pools,
};
use serde_json::Value;
use std::fs;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::time::Instant;
use vfio_sim_node::kubelet::PodResourcesMode;
use vfio_sim_node::mdev::Mdev;
use vfio_sim_node::{Function, Kubelet, Node};

const GPU: &str = "0000:1b:00.0";
const OTHER: &str = "0000:3d:00.0";
const UUID: &str = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";

/// What happens to the device.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    /// It is bound to the driver `nvidia`.
    OtherDriver,
    /// It is bound to no driver.
    NoDriver,
    /// It leaves the bus.
    Gone,
}

/// What a restarted `serve` can read of the assignment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Source {
    RunDir,
    Checkpoint,
    PodResources,
}

const FAULTS: [Fault; 3] = [Fault::OtherDriver, Fault::NoDriver, Fault::Gone];
const SOURCES: [Source; 3] = [Source::RunDir, Source::Checkpoint, Source::PodResources];

fn strike(node: &Node, address: &str, fault: Fault) {
    if fault == Fault::Gone {
        return node.remove(address).unwrap();
    }
    node.unbind(address).unwrap();
    if fault == Fault::OtherDriver {
        node.bind(address, "nvidia").unwrap();
    }
}

/// Leaves only one source of the assignments.
fn keep_only(node: &Node, kubelet: &Kubelet, source: Source) {
    if source != Source::RunDir {
        fs::remove_dir_all(node.run_dir()).unwrap();
    }
    if source != Source::PodResources {
        kubelet.set_pod_resources_mode(PodResourcesMode::Hang);
    }
    if source != Source::Checkpoint {
        let checkpoint = node.kubelet_dir().join(kubelet_api::CHECKPOINT);
        fs::remove_file(&checkpoint).unwrap();
        // The kubelet does not overwrite a directory of that name.
        fs::create_dir_all(checkpoint.join("not a file")).unwrap();
    }
}

/// Returns the pod as far as the source names it.
fn pod_of(source: Source, uid: &str) -> String {
    if source == Source::Checkpoint { uid.to_owned() } else { "default/vm-9".to_owned() }
}

/// Starts one GPU, the only device of its resource, that pod vm-9 has. Returns the pod's uid.
async fn with_a_pod(words: &[&str], resource: &str) -> (Node, Kubelet, Serve, String) {
    let node = Node::new().unwrap();
    node.add(Function::gpu(GPU, 51, 0)).unwrap();
    let kubelet = kubelet(&node).await;
    let serve = Serve::start(&node, words);
    expect(&kubelet, "offered", |state| state.capacity(resource).allocatable == 1).await;
    let pod = kubelet.admit_with("vm-9", resource, vec![GPU.to_owned()]).await.unwrap();
    wait_for_pod(&node, GPU, "default/vm-9").await;
    (node, kubelet, serve, pod.pod_uid)
}

/// Waits for a new registration with the device in the list.
async fn listed_again(kubelet: &Kubelet, before: usize, what: &str, healthy: bool) {
    expect(kubelet, what, |state| {
        state.registrations_of(H100) > before && health(state, H100, GPU) == Some(healthy)
    })
    .await;
}

/// Waits until `list` shows the driver that the device has after the fault.
async fn wait_for_driver(node: &Node, fault: Fault) {
    let driver = if fault == Fault::OtherDriver { Value::from("nvidia") } else { Value::Null };
    let deadline = Instant::now() + common::PATIENCE;
    while device(node, GPU)["driver"] != driver {
        assert!(Instant::now() < deadline, "{fault:?}: {}", device(node, GPU));
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[track_caller]
fn doctor_finds(node: &Node, words: &[&str]) -> String {
    let deadline = Instant::now() + common::PATIENCE;
    loop {
        let (_, out, _) = run(node, &["doctor"]);
        if words.iter().all(|word| out.contains(word)) {
            return out;
        }
        assert!(Instant::now() < deadline, "{words:?}: {out}");
    }
}

#[tokio::test]
async fn only_device_of_a_resource_stays_listed_over_restarts() {
    for source in SOURCES {
        for fault in FAULTS {
            let (node, kubelet, serve, uid) = with_a_pod(&[], H100).await;
            let what = format!("{source:?}, {fault:?}");
            strike(&node, GPU, fault);
            wait_for_driver(&node, fault).await;
            drop(serve);
            keep_only(&node, &kubelet, source);
            // Over two restarts: the second one has what the first one wrote.
            for _ in 0..2 {
                let before = kubelet.state().registrations_of(H100);
                let serve = Serve::start(&node, &[]);
                listed_again(&kubelet, before, &what, fault != Fault::Gone).await;
                let listed = device(&node, GPU);
                assert_eq!(assigned_pod(&listed).as_deref(), Some(&*pod_of(source, &uid)), "{what}");
                let state = state_after(fault);
                assert_eq!((&listed["resource"], &listed["state"]), (&H100.into(), &state.into()), "{what}");
                drop(serve);
            }
        }
    }
}

/// Returns the state in `list`.
fn state_after(fault: Fault) -> &'static str {
    if fault == Fault::Gone { "absent" } else { "unknown" }
}

/// Returns a device in the answer of the status socket.
fn in_status(node: &Node, address: &str) -> Value {
    let mut text = String::new();
    UnixStream::connect(node.run_dir().join("status.sock")).unwrap().read_to_string(&mut text).unwrap();
    let status: Value = serde_json::from_str(&text).unwrap();
    let devices = status["devices"].as_array().unwrap();
    devices.iter().find(|device| device["address"] == address).unwrap().clone()
}

#[tokio::test]
async fn device_that_is_not_bound_is_never_shown_as_free() {
    for fault in FAULTS {
        let (node, _kubelet, _serve, _) = with_a_pod(&[], H100).await;
        assert_eq!(device(&node, GPU)["state"], "free");
        strike(&node, GPU, fault);
        let deadline = Instant::now() + common::PATIENCE;
        // A pass can find a function that is leaving the bus, and has lost its driver only.
        let mut was_free = true;
        while in_status(&node, GPU)["state"] != state_after(fault) {
            let device = in_status(&node, GPU);
            assert!(was_free || device["state"] != "free", "{fault:?}: {device}");
            was_free = device["state"] == "free";
            assert!(Instant::now() < deadline, "{fault:?}: {device}");
        }
        for device in [in_status(&node, GPU), device(&node, GPU)] {
            let found = ["state", "evidence", "viable"].map(|field| device[field].clone());
            assert_eq!(
                found,
                [Value::from(state_after(fault)), Value::from("none"), Value::from(false)],
                "{fault:?}: {device}"
            );
            assert_eq!(assigned_pod(&device).as_deref(), Some("default/vm-9"));
        }
        let (_, table, _) = run(&node, &["list"]);
        assert!(table.contains(state_after(fault)) && !table.contains("free"), "{table}");
    }
}

#[tokio::test]
async fn list_sees_a_device_leave_before_serve_does() {
    for fault in FAULTS {
        // serve makes no pass, and gets no event of a simulated node.
        let (node, _kubelet, _serve, _) = with_a_pod(&["--interval", "1h"], H100).await;
        strike(&node, GPU, fault);
        let device = device(&node, GPU);
        let found = ["state", "evidence"].map(|field| device[field].clone());
        assert_eq!(found, [Value::from(state_after(fault)), Value::from("none")], "{fault:?}: {device}");
    }
}

#[tokio::test]
async fn device_leaves_the_list_when_its_pod_ends() {
    for fault in FAULTS {
        let (node, kubelet, serve, uid) = with_a_pod(&[], H100).await;
        kubelet.admit_with("other", "example.com/none", vec![]).await.unwrap_err();
        strike(&node, GPU, fault);
        drop(serve);
        fs::remove_dir_all(node.run_dir()).unwrap();
        node.add(Function::gpu(OTHER, 52, 0)).unwrap();
        let _serve = Serve::start(&node, &[]);
        listed_again(&kubelet, 1, "listed", fault != Fault::Gone).await;
        // An empty list of pods is no answer.
        kubelet.admit_with("vm-2", H100, vec![OTHER.to_owned()]).await.unwrap();
        kubelet.remove(&uid);
        expect(&kubelet, "dropped", |state| state.capacity(H100).capacity == 1).await;
        assert!(!list(&node).iter().any(|device| device["address"] == GPU));
    }
}

#[tokio::test]
async fn doctor_names_the_pod_and_gives_advice_that_can_be_followed() {
    for (fault, words) in [
        (Fault::OtherDriver, ["is no longer bound to a VFIO driver: nvidia has it", "bind it again"]),
        (Fault::NoDriver, ["is no longer bound to a VFIO driver", "Bind it again"]),
        (Fault::Gone, ["is gone", "Delete the pod"]),
    ] {
        let (node, _kubelet, serve, _) = with_a_pod(&[], H100).await;
        strike(&node, GPU, fault);
        let finding = format!("{GPU}: is assigned to pod default/vm-9 and {}", words[0]);
        let check = |out: &str| {
            assert_eq!(out.matches("is assigned to pod").count(), 1, "one finding: {out}");
            let mut lines = out.lines();
            while let Some(line) = lines.next() {
                let advice = lines.next().unwrap_or_default();
                let binds = advice.contains("ind it") || advice.contains("driverctl");
                assert!(!(fault == Fault::Gone && line.contains(GPU) && binds), "{out}");
            }
        };
        check(&doctor_finds(&node, &[&finding, words[1]]));
        drop(serve);
        check(&doctor_finds(&node, &[&finding, words[1]]));
        fs::remove_dir_all(node.run_dir()).unwrap();
        check(&doctor_finds(&node, &[&finding, words[1]]));
    }
}

#[tokio::test]
async fn kubelet_may_restart_at_the_same_time() {
    for fault in FAULTS {
        for keep_checkpoint in [true, false] {
            let (node, kubelet, serve, _) = with_a_pod(&[], H100).await;
            strike(&node, GPU, fault);
            drop(serve);
            let before = kubelet.state().registrations_of(H100);
            kubelet.restart(keep_checkpoint).await.unwrap();
            let _serve = Serve::start(&node, &[]);
            listed_again(&kubelet, before, &format!("{fault:?}, {keep_checkpoint}"), fault != Fault::Gone)
                .await;
            // Also after the kubelet's start, when its lists show which pods are missing.
            tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
            assert_eq!(health(&kubelet.state(), H100, GPU), Some(fault != Fault::Gone), "{fault:?}");
            assert_eq!(assigned_pod(&device(&node, GPU)).as_deref(), Some("default/vm-9"));
        }
    }
}

#[tokio::test]
async fn device_that_cannot_be_read_stays_listed() {
    let (node, kubelet, serve, _) = with_a_pod(&[], H100).await;
    node.unbind(GPU).unwrap();
    node.make_unreadable(&format!("sys/devices/pci0000:00/{GPU}/uevent")).unwrap();
    drop(serve);
    fs::remove_dir_all(node.run_dir()).unwrap();
    let _serve = Serve::start(&node, &[]);
    listed_again(&kubelet, 1, "listed", true).await;
    assert_eq!(assigned_pod(&device(&node, GPU)).as_deref(), Some("default/vm-9"));
}

#[tokio::test]
async fn unbound_device_that_leaves_and_comes_back_is_followed() {
    let (node, kubelet, _serve, _) = with_a_pod(&["--assignments-interval", "1h"], H100).await;
    node.unbind(GPU).unwrap();
    wait_for_driver(&node, Fault::NoDriver).await;
    node.remove(GPU).unwrap();
    expect(&kubelet, "gone", |state| health(state, H100, GPU) == Some(false)).await;
    node.add(Function::gpu(GPU, 51, 0).with_driver(Some("nvidia"))).unwrap();
    expect(&kubelet, "back, on another driver", |state| health(state, H100, GPU) == Some(true)).await;
    wait_for_driver(&node, Fault::OtherDriver).await;
    node.unbind(GPU).unwrap();
    node.bind(GPU, "vfio-pci").unwrap();
    doctor_is_silent(&node).await;
}

/// Waits until `doctor` finds nothing wrong.
async fn doctor_is_silent(node: &Node) {
    let deadline = Instant::now() + common::PATIENCE;
    loop {
        let (_, out, _) = run(node, &["doctor"]);
        if out == "Nothing is wrong.\n" {
            return;
        }
        assert!(Instant::now() < deadline, "{out}");
    }
}

#[tokio::test]
async fn containers_of_two_resources_keep_both() {
    let node = Node::new().unwrap();
    for (address, group) in [(GPU, 51), (OTHER, 52)] {
        node.add(Function::gpu(address, group, 0)).unwrap();
    }
    let pool = |name: &str, address: &str| {
        format!("{{resource: example.com/{name}, select: [{{address: \"{address}\"}}]}}")
    };
    let pools = write_pools(&node, &format!("pools: [{}, {}]", pool("one", GPU), pool("two", OTHER)));
    let words = ["--pools", pools.as_str()];
    let [one, two] = ["example.com/one", "example.com/two"];
    let kubelet = kubelet(&node).await;
    let serve = Serve::start(&node, &words);
    expect(&kubelet, "offered", |state| [one, two].map(|name| state.capacity(name).allocatable) == [1, 1])
        .await;
    kubelet.admit_with("vm-1", one, vec![GPU.to_owned()]).await.unwrap();
    kubelet.admit_with("vm-2", two, vec![OTHER.to_owned()]).await.unwrap();
    strike(&node, GPU, Fault::Gone);
    strike(&node, OTHER, Fault::OtherDriver);
    drop(serve);
    fs::remove_dir_all(node.run_dir()).unwrap();
    let _serve = Serve::start(&node, &words);
    expect(&kubelet, "both listed", |state| {
        (health(state, one, GPU), health(state, two, OTHER)) == (Some(false), Some(true))
            && [one, two].map(|name| state.registrations_of(name)) == [2, 2]
    })
    .await;
}

#[tokio::test]
async fn resource_of_another_plugin_is_never_served() {
    let node = Node::new().unwrap();
    node.add(Function::gpu(OTHER, 52, 0)).unwrap();
    let kubelet = kubelet(&node).await;
    // The checkpoint of another plugin's pods, which uses PCI addresses of functions that are not there, or are on other drivers.
    node.add(Function { class: 0x02_0000, vendor: 0x15b3, ..Function::new("0000:60:00.1", 60) }).unwrap();
    let entry = |uid: &str, resource: &str, id: &str| {
        format!(
            r#"{{"PodUID":"{uid}","ContainerName":"c","ResourceName":"{resource}","DeviceIDs":{{"-1":["{id}"]}},"AllocResp":""}}"#
        )
    };
    let entries = [
        entry("u1", "intel.com/sriov", "0000:61:00.1"),
        entry("u2", "nvidia.com/hostdev", "0000:60:00.1"),
        entry("u3", "nvidia.com/hostdev", "0000:61:00.2"),
        entry("u4", "nvidia.com/gpu", "0"),
    ];
    let text = format!(
        r#"{{"Data":{{"PodDeviceEntries":[{}],"RegisteredDevices":{{}}}},"Checksum":0}}"#,
        entries.join(",")
    );
    kubelet.set_pod_resources_mode(PodResourcesMode::Hang);
    fs::write(node.kubelet_dir().join(kubelet_api::CHECKPOINT), text).unwrap();
    let _serve = Serve::start(&node, &[]);
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 1).await;
    tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
    let state = kubelet.state();
    let resources: Vec<_> = state.resources.keys().map(String::as_str).collect();
    assert_eq!(resources, [H100]);
    assert_eq!(state.capacity(H100).capacity, 1);
    let (_, out, _) = run(&node, &["doctor"]);
    assert!(!out.contains("0000:60:00.1") && !out.contains("0000:61:00"), "{out}");
}

#[tokio::test]
async fn renamed_pool_keeps_the_resource_of_the_pod() {
    for fault in FAULTS {
        let pool =
            |name: &str| format!("pools: [{{resource: example.com/{name}, select: [{{vendor: \"10de\"}}]}}]");
        let node = Node::new().unwrap();
        node.add(Function::gpu(GPU, 51, 0)).unwrap();
        let pools = write_pools(&node, &pool("old"));
        let words = ["--pools", pools.as_str()];
        let kubelet = kubelet(&node).await;
        let serve = Serve::start(&node, &words);
        expect(&kubelet, "offered", |state| state.capacity("example.com/old").allocatable == 1).await;
        kubelet.admit_with("vm-9", "example.com/old", vec![GPU.to_owned()]).await.unwrap();
        wait_for_pod(&node, GPU, "default/vm-9").await;
        strike(&node, GPU, fault);
        drop(serve);
        write_pools(&node, &pool("new"));
        let before = kubelet.state().registrations_of("example.com/old");
        let _serve = Serve::start(&node, &words);
        expect(&kubelet, "under the old name", |state| {
            state.registrations_of("example.com/old") > before
                && health(state, "example.com/old", GPU) == Some(fault != Fault::Gone)
        })
        .await;
        assert!(!kubelet.state().resources.contains_key("example.com/new"));
    }
}

#[tokio::test]
async fn mediated_device_that_is_gone_stays_listed() {
    let node = Node::new().unwrap();
    node.add(Function::gpu(GPU, 51, 0).with_driver(Some("nvidia"))).unwrap();
    let mdev = Mdev {
        uuid: UUID.to_owned(),
        parent: GPU.to_owned(),
        kind: "nvidia-222".to_owned(),
        group: 70,
        cdev: Some(7),
    };
    node.add_mdev(&mdev).unwrap();
    let resource = "nvidia.com/nvidia-222";
    let kubelet = kubelet(&node).await;
    let serve = Serve::start(&node, &[]);
    expect(&kubelet, "offered", |state| state.capacity(resource).allocatable == 1).await;
    kubelet.admit_with("vm-9", resource, vec![UUID.to_owned()]).await.unwrap();
    wait_for_pod(&node, UUID, "default/vm-9").await;
    for path in ["sys/bus/mdev/devices", "sys/kernel/iommu_groups/70/devices"] {
        fs::remove_file(node.root().join(path).join(UUID)).unwrap();
    }
    fs::remove_file(node.root().join("sys/class/vfio-dev/vfio7")).unwrap();
    fs::remove_dir_all(node.root().join("sys/devices/pci0000:00").join(GPU).join(UUID)).unwrap();
    expect(&kubelet, "gone", |state| health(state, resource, UUID) == Some(false)).await;
    drop(serve);
    fs::remove_dir_all(node.run_dir()).unwrap();
    let _serve = Serve::start(&node, &[]);
    expect(&kubelet, "after a restart", |state| {
        state.registrations_of(resource) == 2 && health(state, resource, UUID) == Some(false)
    })
    .await;
    doctor_finds(&node, &[&format!("{UUID}: is assigned to pod default/vm-9 and is gone")]);
}

#[tokio::test]
async fn device_back_in_another_group_has_a_stale_answer() {
    let (node, kubelet, serve, _) = with_a_pod(&[], H100).await;
    node.remove(GPU).unwrap();
    drop(serve);
    let _serve = Serve::start(&node, &[]);
    listed_again(&kubelet, 1, "gone", false).await;
    node.add(Function::gpu(GPU, 60, 0)).unwrap();
    expect(&kubelet, "back", |state| health(state, H100, GPU) == Some(true)).await;
    let finding =
        format!("{GPU}: is assigned to pod default/vm-9, which the kubelet starts with /dev/vfio/51");
    doctor_finds(&node, &[&finding, "the device is /dev/vfio/60 now"]);
    assert_eq!(device(&node, GPU)["iommu_group"], 60);
}
