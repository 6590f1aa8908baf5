//! `serve` on a simulated node, with a simulated kubelet over real sockets: the lists and the responses.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail loudly")]

#[path = "../common/mod.rs"]
mod common;
mod descriptors;
mod holders;
mod registration;

use common::{H100, Serve, expect, health, kubelet, list, own_sockets};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use std::time::Duration;
use vfio_sim_node::kubelet::{AdmitError, KubeletState};
use vfio_sim_node::{Function, Hold, Node, VmSpec};

const GPU: &str = "0000:1b:00.0";
const OTHER: &str = "0000:3d:00.0";

/// Returns the numbers of listed and of Healthy devices.
fn capacity(state: &KubeletState) -> (usize, usize) {
    let capacity = state.capacity(H100);
    (capacity.capacity, capacity.allocatable)
}

#[tokio::test]
async fn held_device_is_listed_as_unhealthy_until_freed() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    let serve = Serve::start(&node, &[]);
    expect(&kubelet, "held at start", |state| capacity(state) == (8, 7)).await;
    assert_eq!(health(&kubelet.state(), H100, GPU), Some(false));
    assert_eq!(health(&kubelet.state(), H100, OTHER), Some(true));
    let device = list(&node).into_iter().find(|device| device["address"] == GPU).unwrap();
    assert_eq!(device["state"], "held");
    assert_eq!(device["health"], "Unhealthy");
    assert_eq!(device["holders"][0]["pid"], vm.pid());
    assert!(device["reason"].as_str().unwrap().contains(&format!("held by pid {}", vm.pid())), "{device}");
    vm.kill();
    expect(&kubelet, "freed", |state| capacity(state) == (8, 8)).await;
    let vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    expect(&kubelet, "held again", |state| capacity(state) == (8, 7)).await;
    drop(vm);
    expect(&kubelet, "freed again", |state| capacity(state) == (8, 8)).await;
    let (code, took, log) = serve.terminate();
    assert_eq!(code, 0);
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(own_sockets(&node), 0);
    let changes: Vec<_> =
        log.lines().filter(|line| line.contains("device became ") && line.contains(GPU)).collect();
    assert_eq!(changes.len(), 4, "each change of health is logged once: {changes:#?}");
    assert!(
        changes[2].contains("became unhealthy") && changes[2].contains("reason=\"held\""),
        "{changes:#?}"
    );
}

#[tokio::test]
async fn holder_of_a_group_only_is_found_and_its_end_too() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let vm = node.start_vm(&VmSpec { hold: Hold::GroupOnly, ..VmSpec::foreign(&[GPU]) }).unwrap();
    let _serve = Serve::start(&node, &[]);
    expect(&kubelet, "held", |state| capacity(state) == (8, 7)).await;
    vm.kill();
    expect(&kubelet, "freed", |state| capacity(state) == (8, 8)).await;
}

#[tokio::test]
async fn advertised_held_device_is_healthy_and_refused() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    let _serve = Serve::start(&node, &["--busy", "advertise"]);
    expect(&kubelet, "all healthy", |state| capacity(state) == (8, 8)).await;
    let refused = kubelet.admit_with("vm", H100, vec![GPU.to_owned()]).await.unwrap_err();
    let AdmitError::Refused(status) = refused else { panic!("{refused}") };
    assert_eq!(status.code(), tonic::Code::FailedPrecondition);
    let expected = format!("{GPU} (group 51) is held by pid {} (qemu-system-x86)", vm.pid());
    assert_eq!(status.message(), expected);
}

#[tokio::test]
async fn devices_and_models_come_and_go_without_a_restart() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let _serve = Serve::start(&node, &[]);
    expect(&kubelet, "eight", |state| capacity(state) == (8, 8)).await;
    node.add(Function::gpu("0000:f1:00.0", 90, -1)).unwrap();
    expect(&kubelet, "one bound late", |state| capacity(state) == (9, 9)).await;
    let state = kubelet.state();
    let late = state.resources[H100].devices.iter().find(|device| device.id == "0000:f1:00.0").unwrap();
    assert_eq!(late.topology, None, "-1 is no NUMA node, not node 0");
    let numa_nodes = |id: &str| {
        let device = state.resources[H100].devices.iter().find(|device| device.id == id).unwrap();
        device.topology.as_ref().unwrap().nodes.iter().map(|node| node.id).collect::<Vec<_>>()
    };
    assert_eq!(
        (numa_nodes("0000:1b:00.0"), numa_nodes("0000:df:00.0")),
        (vec![0], vec![1]),
        "one hint for each"
    );
    node.add(Function::gpu("0000:f2:00.0", 91, 1).with_device(0x20b0)).unwrap();
    expect(&kubelet, "a new model", |state| health(state, "nvidia.com/20b0", "0000:f2:00.0") == Some(true))
        .await;
    node.unbind("0000:f2:00.0").unwrap();
    expect(&kubelet, "the model has gone", |state| state.capacity("nvidia.com/20b0").capacity == 0).await;
    let vm = node.start_vm(&VmSpec::foreign(&["0000:f1:00.0"])).unwrap();
    node.unbind("0000:f1:00.0").unwrap();
    expect(&kubelet, "unbinding", |state| capacity(state) == (9, 8)).await;
    vm.kill();
    expect(&kubelet, "unbound", |state| capacity(state) == (8, 8)).await;
}

#[tokio::test]
async fn responses_are_exact_and_bad_requests_are_refused() {
    let node = Node::with_eight_gpus().unwrap();
    node.add(Function::gpu("0000:f2:00.0", 91, 1).with_device(0x20b0)).unwrap();
    let kubelet = kubelet(&node).await;
    let _serve = Serve::start(&node, &[]);
    expect(&kubelet, "all", |state| capacity(state) == (8, 8)).await;
    let ids = |ids: &[&str]| ids.iter().map(|&id| id.to_owned()).collect::<Vec<_>>();
    let response = kubelet.allocate(H100, &[&ids(&[GPU, OTHER]), &ids(&["0000:4e:00.0"])]).await.unwrap();
    let paths =
        |index: usize| response[index].devices.iter().map(|spec| spec.host_path.as_str()).collect::<Vec<_>>();
    assert_eq!(response[0].envs["PCI_RESOURCE_NVIDIA_COM_2330"], format!("{GPU},{OTHER}"));
    assert_eq!(paths(0), ["/dev/vfio/vfio", "/dev/vfio/51", "/dev/vfio/52"]);
    assert_eq!(response[1].envs["PCI_RESOURCE_NVIDIA_COM_2330"], "0000:4e:00.0");
    assert_eq!(paths(1), ["/dev/vfio/vfio", "/dev/vfio/53"]);
    for (id, expected) in [
        ("0000:ff:00.0", "0000:ff:00.0: nvidia.com/2330 has no such device"),
        ("0000:f2:00.0", "0000:f2:00.0: nvidia.com/2330 has no such device"),
        ("", "has no such device"),
    ] {
        let status = kubelet.allocate(H100, &[&ids(&[id])]).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert!(status.message().contains(expected), "{}", status.message());
    }
    let chosen = kubelet.preferred(H100, &ids(&[GPU, "0000:9b:00.0", "0000:bd:00.0"]), &[], 2).await.unwrap();
    assert_eq!(chosen, ["0000:9b:00.0", "0000:bd:00.0"], "both on one NUMA node");
}

#[tokio::test]
async fn unreadable_device_costs_no_other_device() {
    let node = Node::with_eight_gpus().unwrap();
    for (path, content) in [
        (format!("sys/devices/pci0000:00/{GPU}/uevent"), &b""[..]),
        (format!("sys/devices/pci0000:00/{OTHER}/numa_node"), b"\xff\xfe garbage"),
        ("sys/class/vfio-dev/vfio99".into(), b"not a link"),
        ("sys/class/vfio-dev/garbage".into(), b""),
        ("dev/vfio/garbage".into(), b""),
        ("sys/kernel/iommu_groups/54/devices/garbage".into(), b""),
    ] {
        node.write(&path, content).unwrap();
    }
    let kubelet = kubelet(&node).await;
    let serve = Serve::start(&node, &[]);
    expect(&kubelet, "six of eight", |state| capacity(state) == (6, 6)).await;
    let _vm = node.start_vm(&VmSpec::foreign(&["0000:9b:00.0"])).unwrap();
    expect(&kubelet, "one held", |state| capacity(state) == (6, 5)).await;
    let (_, _, log) = serve.terminate();
    assert!(log.contains(&format!("{GPU}: uevent")) && log.contains(&format!("{OTHER}: numa_node")), "{log}");
}

#[tokio::test]
async fn device_that_was_free_longest_is_preferred() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let _serve = Serve::start(&node, &[]);
    expect(&kubelet, "all", |state| capacity(state) == (8, 8)).await;
    let ids = [GPU.to_owned(), OTHER.to_owned()];
    assert_eq!(kubelet.preferred(H100, &ids, &[], 1).await.unwrap(), [GPU], "the first of equals");
    let vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    expect(&kubelet, "held", |state| capacity(state) != (8, 8)).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    vm.kill();
    expect(&kubelet, "freed", |state| capacity(state) == (8, 8)).await;
    assert_eq!(kubelet.preferred(H100, &ids, &[], 1).await.unwrap(), [OTHER]);
}

/// Returns the processor time that a process has used.
fn processor_time(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // utime and stime, in ticks of 10 ms.
    let fields = stat.rsplit_once(')').unwrap().1.split_whitespace().skip(11).take(2);
    Duration::from_millis(fields.map(|ticks| ticks.parse::<u64>().unwrap() * 10).sum())
}

#[tokio::test]
async fn lack_of_descriptors_makes_no_busy_loop() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let serve = Serve::start(&node, &["--interval", "1h"]);
    expect(&kubelet, "offered", |state| capacity(state) == (8, 8)).await;
    let limit = |current| {
        let limit = Rlimit { current: Some(current), maximum: Some(1024) };
        prlimit(Some(Pid::from_child(&serve.0)), Resource::Nofile, limit).unwrap();
    };
    // Enough for the new socket and for Register, but not for the kubelet's connection.
    let open = std::fs::read_dir(format!("/proc/{}/fd", serve.0.id())).unwrap().count();
    limit(open as u64 - 1);
    let endpoint = kubelet.state().resources[H100].endpoint.clone();
    std::fs::remove_file(node.kubelet_dir().join(endpoint)).unwrap();
    let before = processor_time(serve.0.id());
    tokio::time::sleep(Duration::from_secs(2)).await;
    let used = processor_time(serve.0.id()) - before;
    assert!(used < Duration::from_millis(200), "{used:?} of processor time in two seconds");
    limit(1024);
    expect(&kubelet, "registered again", |state| {
        state.registrations_of(H100) >= 2 && capacity(state) == (8, 8)
    })
    .await;
}
