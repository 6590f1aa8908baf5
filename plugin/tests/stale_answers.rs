//! Stale answers: the kubelet repeats an answer of Allocate from before a reboot or a bind that gave the numbers in it to other
//! devices.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail loudly")]

mod common;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use common::{H100, Serve, device, expect, health, kubelet, run, wait_for_pod, write_pools};
use kubelet_api::v1beta1::{ContainerAllocateResponse, DeviceSpec};
use prost::Message;
use std::time::Instant;
use tonic::Code;
use vfio_sim_node::kubelet::{AdmitError, PodResourcesMode};
use vfio_sim_node::{Function, Kubelet, Node, VmSpec};

const GPU: &str = "0000:1b:00.0";
const OTHER: &str = "0000:3d:00.0";
const THIRD: &str = "0000:4e:00.0";

/// Adds GPUs in this order, each with its group.
fn add(node: &Node, gpus: &[(&str, u32)]) {
    for (address, group) in gpus {
        node.add(Function::gpu(address, *group, 0)).unwrap();
    }
}

/// Reboots the node: all GPUs get these groups, in this order, the run directory and the CDI specs are empty, and the kubelet starts
/// with its checkpoint.
async fn reboot(node: &Node, kubelet: &Kubelet, serve: Serve, gpus: &[(&str, u32)]) {
    let (code, _, _) = serve.terminate();
    assert_eq!(code, 0);
    kubelet.stop();
    for (address, _) in gpus {
        node.remove(address).unwrap();
    }
    for directory in [node.run_dir(), common::cdi_dir(node)] {
        let _ = std::fs::remove_dir_all(directory);
    }
    add(node, gpus);
    kubelet.restart(true).await.unwrap();
}

fn ids(id: &str) -> Vec<String> {
    vec![id.to_owned()]
}

/// Waits until `doctor` has a finding with all these words, and returns its whole output.
#[track_caller]
fn doctor_finds(node: &Node, words: &[&str]) -> String {
    let deadline = Instant::now() + common::PATIENCE;
    loop {
        let (code, out, _) = run(node, &["doctor"]);
        if code != 0 && out.lines().any(|line| words.iter().all(|word| line.contains(word))) {
            return out;
        }
        assert!(Instant::now() < deadline, "{words:?}: {out}");
    }
}

#[tokio::test]
async fn reboot_that_changes_groups_keeps_two_pods_from_one_device() {
    let node = Node::new().unwrap();
    add(&node, &[(GPU, 52), (OTHER, 51), (THIRD, 53)]);
    let kubelet = kubelet(&node).await;
    let serve = Serve::start(&node, &[]);
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 3).await;
    let pod = kubelet.admit_with("vm-a", H100, ids(GPU)).await.unwrap();
    assert_eq!(pod.response.devices[1].host_path, "/dev/vfio/52");
    assert!(kubelet.pre_start(H100, &pod.devices).await.unwrap(), "the options ask for the call");
    wait_for_pod(&node, GPU, "default/vm-a").await;
    assert!(kubelet.pre_start(H100, &pod.devices).await.unwrap(), "a restart of the container");

    reboot(&node, &kubelet, serve, &[(GPU, 51), (OTHER, 52), (THIRD, 53)]).await;
    let serve = Serve::start(&node, &[]);
    expect(&kubelet, "only the device of the stale node Unhealthy", |state| {
        [GPU, OTHER, THIRD].map(|id| health(state, H100, id)) == [Some(true), Some(false), Some(true)]
    })
    .await;
    // No other pod is allocated the device.
    let refused = kubelet.admit_with("vm-b", H100, ids(OTHER)).await;
    let Err(AdmitError::Refused(status)) = refused else { panic!("{refused:?}") };
    assert_eq!(status.code(), Code::FailedPrecondition);
    let text = "0000:3d:00.0: stale answer of another pod: the kubelet starts pod default/vm-a with /dev/vfio/52, and 0000:1b:00.0 is \
                /dev/vfio/51 now; delete that pod";
    assert_eq!(status.message(), text);
    // No container of the pod starts.
    let refused = kubelet.pre_start(H100, &ids(GPU)).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    let text = "0000:1b:00.0: stale answer: the kubelet starts pod default/vm-a with /dev/vfio/52, and this device is /dev/vfio/51 now; \
                delete that pod";
    assert_eq!(refused.message(), text);
    assert!(kubelet.pre_start(H100, &ids(THIRD)).await.unwrap(), "the checkpoint has no answer");
    // The status and doctor name the pod, the device and both nodes.
    for (id, code) in [(GPU, "stale answer: "), (OTHER, "stale answer of another pod: ")] {
        let reason = device(&node, id)["reason"].as_str().unwrap().to_owned();
        let names = ["default/vm-a", "/dev/vfio/52", "/dev/vfio/51"];
        assert!(reason.starts_with(code) && names.iter().all(|name| reason.contains(name)), "{reason}");
    }
    let out = doctor_finds(&node, &[GPU, "default/vm-a", "/dev/vfio/52", "/dev/vfio/51", OTHER]);
    assert!(!out.contains("Nothing is wrong") && out.contains("Delete the pod"), "{out}");
    // Another pod gets another device, and the pod's end frees the device.
    let next = kubelet.admit("vm-c", H100, 1).await.unwrap();
    assert_eq!(next.devices, [THIRD]);
    kubelet.remove(&pod.pod_uid);
    expect(&kubelet, "Healthy when the pod is gone", |state| health(state, H100, OTHER) == Some(true)).await;
    let again = kubelet.admit_with("vm-b", H100, ids(OTHER)).await.unwrap();
    assert_eq!(again.response.devices[1].host_path, "/dev/vfio/52");
    assert!(kubelet.pre_start(H100, &again.devices).await.unwrap());
    let (_, _, log) = serve.terminate();
    for id in [GPU, OTHER] {
        let about = |line: &&str| line.contains("stale answer") && line.contains(&format!("device={id}"));
        let lines: Vec<&str> =
            log.lines().filter(about).filter(|line| !line.contains("Allocate refused")).collect();
        assert_eq!(lines.len(), 1, "one line about {id}: {lines:#?}");
    }
}

#[tokio::test]
async fn serve_without_the_checkpoint_remembers_the_answer() {
    let node = Node::new().unwrap();
    add(&node, &[(GPU, 52), (OTHER, 51)]);
    let kubelet = kubelet(&node).await;
    let serve = Serve::start(&node, &[]);
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 2).await;
    kubelet.admit_with("vm-a", H100, ids(GPU)).await.unwrap();
    wait_for_pod(&node, GPU, "default/vm-a").await;
    // The groups change while serve does not run, and its run directory stays.
    drop(serve);
    for address in [GPU, OTHER] {
        node.remove(address).unwrap();
    }
    add(&node, &[(GPU, 51), (OTHER, 52)]);
    let checkpoint = node.kubelet_dir().join(kubelet_api::CHECKPOINT);
    std::fs::remove_file(&checkpoint).unwrap();
    std::fs::create_dir_all(checkpoint.join("not a file")).unwrap();
    let _serve = Serve::start(&node, &[]);
    expect(&kubelet, "the device of the stale node Unhealthy", |state| {
        (health(state, H100, GPU), health(state, H100, OTHER)) == (Some(true), Some(false))
    })
    .await;
    // Nothing can be checked without the checkpoint: a container is not kept from starting.
    assert!(kubelet.pre_start(H100, &ids(GPU)).await.unwrap());
}

#[tokio::test]
async fn device_of_a_stale_node_is_no_substitute() {
    let node = Node::new().unwrap();
    let fourth = "0000:5f:00.0";
    add(&node, &[(GPU, 52), (OTHER, 51), (THIRD, 53), (fourth, 54)]);
    let kubelet = kubelet(&node).await;
    let words = ["--busy-allocate", "substitute"];
    let serve = Serve::start(&node, &words);
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 4).await;
    kubelet.admit_with("vm-a", H100, ids(GPU)).await.unwrap();
    reboot(&node, &kubelet, serve, &[(GPU, 51), (OTHER, 52), (THIRD, 53), (fourth, 54)]).await;
    let _serve = Serve::start(&node, &words);
    expect(&kubelet, "Unhealthy", |state| health(state, H100, OTHER) == Some(false)).await;
    let _foreign = node.start_vm(&VmSpec::foreign(&[THIRD])).unwrap();
    let pod = kubelet.admit_with("vm-b", H100, ids(THIRD)).await.unwrap();
    assert_eq!(pod.response.envs["PCI_RESOURCE_NVIDIA_COM_2330"], fourth);
}

#[tokio::test]
async fn two_pods_with_each_others_node_are_only_warned_about() {
    let node = Node::new().unwrap();
    add(&node, &[(GPU, 52), (OTHER, 51)]);
    let kubelet = kubelet(&node).await;
    let serve = Serve::start(&node, &[]);
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 2).await;
    kubelet.admit_with("vm-a", H100, ids(GPU)).await.unwrap();
    kubelet.admit_with("vm-b", H100, ids(OTHER)).await.unwrap();
    reboot(&node, &kubelet, serve, &[(GPU, 51), (OTHER, 52)]).await;
    let _serve = Serve::start(&node, &[]);
    wait_for_pod(&node, GPU, "default/vm-a").await;
    for (id, pod) in [(GPU, "vm-a"), (OTHER, "vm-b")] {
        doctor_finds(
            &node,
            &[&format!("{id}: is assigned to pod default/{pod}"), "/dev/vfio/51", "/dev/vfio/52"],
        );
        let refused = kubelet.pre_start(H100, &ids(id)).await.unwrap_err();
        assert!(refused.message().contains(&format!("default/{pod}")), "{refused}");
    }
    assert_eq!(kubelet.capacity(H100).allocatable, 2, "an assigned device is never Unhealthy for that");
}

#[tokio::test]
async fn other_order_of_binding_makes_an_iommufd_answer_stale() {
    let node = Node::new().unwrap().with_cdevs().unwrap();
    add(&node, &[(GPU, 51), (OTHER, 52)]);
    let pools = "pools: [{resource: example.com/GPU, backend: iommufd, select: [{vendor: \"10de\"}]}]";
    let pools = write_pools(&node, pools);
    let words = ["--pools", pools.as_str()];
    let resource = "example.com/GPU";
    let kubelet = kubelet(&node).await;
    let serve = Serve::start(&node, &words);
    expect(&kubelet, "offered", |state| state.capacity(resource).allocatable == 2).await;
    let pod = kubelet.admit_with("vm-a", resource, ids(GPU)).await.unwrap();
    assert_eq!(pod.response.devices[1].host_path, "/dev/vfio/devices/vfio0");
    // The groups stay, and the GPUs are bound in the other order.
    reboot(&node, &kubelet, serve, &[(OTHER, 52), (GPU, 51)]).await;
    let _serve = Serve::start(&node, &words);
    expect(&kubelet, "the device of the stale node Unhealthy", |state| {
        (health(state, resource, GPU), health(state, resource, OTHER)) == (Some(true), Some(false))
    })
    .await;
    let refused = kubelet.pre_start(resource, &ids(GPU)).await.unwrap_err();
    let text =
        "with /dev/vfio/devices/vfio0, and this device is /dev/vfio/devices/vfio1 now; delete that pod";
    assert!(refused.message().ends_with(text), "{refused}");
    let (_, out, _) = run(&node, &["doctor", "--pools", &pools]);
    assert!(out.contains("/dev/vfio/devices/vfio0 belongs to 0000:3d:00.0"), "{out}");
}

#[tokio::test]
async fn answer_with_cdi_names_alone_survives_a_reboot() {
    let resource = "example.com/GPU";
    for backend in ["legacy", "iommufd"] {
        let node = Node::new().unwrap().with_cdevs().unwrap();
        add(&node, &[(GPU, 52), (OTHER, 51)]);
        let pools = format!(
            "pools: [{{resource: {resource}, cdi: names, backend: {backend}, select: [{{vendor: \"10de\"}}]}}]"
        );
        let pools = write_pools(&node, &pools);
        let words = ["--pools", pools.as_str()];
        let kubelet = kubelet(&node).await;
        let serve = Serve::start(&node, &words);
        expect(&kubelet, "offered", |state| state.capacity(resource).allocatable == 2).await;
        let pod = kubelet.admit_with("vm-a", resource, ids(GPU)).await.unwrap();
        let names: Vec<_> = pod.response.cdi_devices.iter().map(|device| device.name.as_str()).collect();
        assert_eq!((pod.response.devices.len(), names), (0, vec!["example.com/GPU=0000:1b:00.0"]));
        assert_eq!(pod.response.envs["PCI_RESOURCE_EXAMPLE_COM_GPU"], GPU);
        // The groups and the order of binding change.
        reboot(&node, &kubelet, serve, &[(OTHER, 52), (GPU, 51)]).await;
        let _serve = Serve::start(&node, &words);
        expect(&kubelet, "both Healthy", |state| state.capacity(resource).allocatable == 2).await;
        assert!(kubelet.pre_start(resource, &ids(GPU)).await.unwrap());
        let spec = common::cdi_dir(&node).join("vfio-device-plugin_example.com_GPU.json");
        let spec: serde_json::Value = serde_json::from_slice(&std::fs::read(spec).unwrap()).unwrap();
        let is_gpu = |device: &&serde_json::Value| device["name"] == GPU;
        let of_gpu = spec["devices"].as_array().unwrap().iter().find(is_gpu).unwrap();
        let own = if backend == "legacy" { "/dev/vfio/51" } else { "/dev/vfio/devices/vfio1" };
        assert_eq!(of_gpu["containerEdits"]["deviceNodes"][0]["path"], own, "the nodes of now: {spec}");
        wait_for_pod_with(&node, &words, GPU, "default/vm-a").await;
        let (_, out, _) = run(&node, &["doctor", "--pools", &pools]);
        assert_eq!(out, "Nothing is wrong.\n");
        kubelet.admit_with("vm-b", resource, ids(OTHER)).await.unwrap();
    }
}

/// Waits until `list` with these words shows the pod of a device.
async fn wait_for_pod_with(node: &Node, words: &[&str], address: &str, pod: &str) {
    let deadline = Instant::now() + common::PATIENCE;
    loop {
        let (_, out, _) = run(node, &[&["list"], words].concat());
        if out.lines().any(|line| line.starts_with(address) && line.contains(pod)) {
            return;
        }
        assert!(Instant::now() < deadline, "{out}");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn bind_while_serve_runs_makes_an_answer_stale() {
    let node = Node::new().unwrap().without_group_nodes().unwrap();
    add(&node, &[(GPU, 51), (OTHER, 52)]);
    let kubelet = kubelet(&node).await;
    let _serve = Serve::start(&node, &[]);
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 2).await;
    let pod = kubelet.admit_with("vm-a", H100, ids(GPU)).await.unwrap();
    assert_eq!(pod.response.devices[1].host_path, "/dev/vfio/devices/vfio0");
    wait_for_pod(&node, GPU, "default/vm-a").await;
    for address in [GPU, OTHER] {
        node.unbind(address).unwrap();
    }
    for address in [OTHER, GPU] {
        node.bind(address, "vfio-pci").unwrap();
    }
    expect(&kubelet, "the device of the stale node Unhealthy", |state| {
        (health(state, H100, GPU), health(state, H100, OTHER)) == (Some(true), Some(false))
    })
    .await;
    assert!(kubelet.pre_start(H100, &ids(GPU)).await.is_err());
}

#[tokio::test]
async fn node_that_belongs_to_nothing_is_reported_and_not_started() {
    let node = Node::new().unwrap();
    add(&node, &[(GPU, 52), (OTHER, 51)]);
    let kubelet = kubelet(&node).await;
    let serve = Serve::start(&node, &[]);
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 2).await;
    kubelet.admit_with("vm-a", H100, ids(GPU)).await.unwrap();
    reboot(&node, &kubelet, serve, &[(GPU, 60), (OTHER, 61)]).await;
    let _serve = Serve::start(&node, &[]);
    expect(&kubelet, "both Healthy", |state| state.capacity(H100).allocatable == 2).await;
    let out = doctor_finds(&node, &[GPU, "default/vm-a", "/dev/vfio/52 belongs to no offered device"]);
    assert!(!out.contains(OTHER), "{out}");
    assert!(kubelet.pre_start(H100, &ids(GPU)).await.is_err());
}

#[tokio::test]
async fn extended_memory_of_another_pods_gpu_is_stale() {
    let node = Node::new().unwrap();
    let [first, second] = ["0008:01:00.0", "0009:01:00.0"];
    for (address, group) in [(first, 60), (second, 61)] {
        let gpu = Function::gpu(address, group, 0).with_device(0x2342);
        node.add(gpu.with_driver(Some("nvgrace_gpu_vfio_pci"))).unwrap();
    }
    let memory = |name: &str, gpu: &str| {
        let directory = format!("sys/class/egm/{name}");
        std::fs::create_dir_all(node.root().join(&directory)).unwrap();
        node.write(&format!("{directory}/gpu_devices"), format!("{gpu}\n")).unwrap();
        node.write(&format!("{directory}/dev"), "510:0\n").unwrap();
    };
    memory("egm4", first);
    memory("egm5", second);
    let gh200 = "nvidia.com/2342";
    let kubelet = kubelet(&node).await;
    let serve = Serve::start(&node, &[]);
    expect(&kubelet, "offered", |state| state.capacity(gh200).allocatable == 2).await;
    let pod = kubelet.admit_with("vm-a", gh200, ids(first)).await.unwrap();
    assert_eq!(pod.response.devices[2].host_path, "/dev/egm4");
    wait_for_pod(&node, first, "default/vm-a").await;
    assert!(kubelet.pre_start(gh200, &pod.devices).await.unwrap());
    drop(serve);
    memory("egm4", second);
    memory("egm5", first);
    let _serve = Serve::start(&node, &[]);
    expect(&kubelet, "the GPU of the memory Unhealthy", |state| {
        (health(state, gh200, first), health(state, gh200, second)) == (Some(true), Some(false))
    })
    .await;
    let refused = kubelet.pre_start(gh200, &pod.devices).await.unwrap_err();
    assert!(refused.message().contains("with /dev/egm4, and this device has no such node now"), "{refused}");
    doctor_finds(&node, &[first, "default/vm-a", "/dev/egm4 belongs to 0009:01:00.0"]);
}

#[tokio::test]
async fn every_start_with_current_nodes_is_granted() {
    let (node, kubelet, _serve) = common::offered(&[]).await;
    let pod = kubelet.admit("vm-a", H100, 8).await.unwrap();
    wait_for_pod(&node, GPU, "default/vm-a").await;
    let mut times = Vec::new();
    for _ in 0..200 {
        let began = Instant::now();
        assert!(kubelet.pre_start(H100, &pod.devices).await.unwrap());
        times.push(began.elapsed());
    }
    times.sort_unstable();
    println!("PreStartContainer of 8 devices: p50 {:?}, p99 {:?}", times[100], times[198]);
}

/// Writes a checkpoint with these entries: pod uid, container, device id, address in the environment, and node.
fn write_checkpoint(node: &Node, entries: &[(&str, &str, &str, &str, &str)]) {
    let entry = |(uid, container, id, address, path): &(&str, &str, &str, &str, &str)| {
        let spec = |path: &str| DeviceSpec { host_path: path.to_owned(), ..DeviceSpec::default() };
        let response = ContainerAllocateResponse {
            envs: [("PCI_RESOURCE_NVIDIA_COM_2330".to_owned(), (*address).to_owned())].into(),
            devices: vec![spec("/dev/vfio/vfio"), spec(path)],
            ..ContainerAllocateResponse::default()
        };
        serde_json::json!({
            "PodUID": uid, "ContainerName": container, "ResourceName": H100, "DeviceIDs": {"-1": [id]},
            "AllocResp": BASE64_STANDARD.encode(response.encode_to_vec()),
        })
    };
    let entries: Vec<_> = entries.iter().map(entry).collect();
    let text = serde_json::json!({
        "Data": {"PodDeviceEntries": entries, "RegisteredDevices": {H100: []}}, "Checksum": 0,
    });
    let path = node.kubelet_dir().join(kubelet_api::CHECKPOINT);
    std::fs::write(path.with_extension("new"), text.to_string()).unwrap();
    std::fs::rename(path.with_extension("new"), path).unwrap();
}

#[tokio::test]
async fn start_is_granted_if_any_container_has_a_current_answer() {
    let node = Node::new().unwrap();
    add(&node, &[(GPU, 51), (OTHER, 52)]);
    let kubelet = kubelet(&node).await;
    kubelet.set_pod_resources_mode(PodResourcesMode::Hang);
    let _serve = Serve::start(&node, &[]);
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 2).await;
    let init = |path| ("u1", "init", GPU, GPU, path);
    let compute = |path| ("u1", "compute", GPU, GPU, path);
    // The init container's answer is of another time than the other one's: which of the two starts is not known.
    write_checkpoint(&node, &[init("/dev/vfio/52"), compute("/dev/vfio/51")]);
    expect(&kubelet, "Unhealthy", |state| health(state, H100, OTHER) == Some(false)).await;
    assert!(kubelet.pre_start(H100, &ids(GPU)).await.unwrap());
    write_checkpoint(&node, &[init("/dev/vfio/52"), compute("/dev/vfio/52")]);
    assert!(kubelet.pre_start(H100, &ids(GPU)).await.is_err());
    // A kubelet passes all ids of the container: another set is another container.
    assert!(kubelet.pre_start(H100, &[GPU, OTHER].map(str::to_owned)).await.unwrap());
}

#[tokio::test]
async fn doctor_alone_finds_stale_answers_of_an_older_plugin() {
    let node = Node::new().unwrap();
    add(&node, &[(GPU, 51), (OTHER, 52)]);
    let kubelet = kubelet(&node).await;
    kubelet.set_pod_resources_mode(PodResourcesMode::Hang);
    // Its id is the group's number; the answer has the address.
    write_checkpoint(&node, &[("u1", "compute", "52", GPU, "/dev/vfio/52")]);
    doctor_finds(&node, &[GPU, "pod u1", "/dev/vfio/52", "/dev/vfio/51", OTHER]);
    write_checkpoint(&node, &[("u1", "compute", "51", GPU, "/dev/vfio/51")]);
    let (_, out, _) = run(&node, &["doctor"]);
    assert!(!out.contains("stored answer"), "{out}");
}
