//! The policy `attributed` on a simulated node: which devices are assigned to pods, where the plugin reads it, and what
//! Allocate refuses.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail loudly")]

#[path = "../common/mod.rs"]
mod common;
mod timing;
mod unknown_sandbox;

use common::{H100, INTERVAL, Serve, assigned_pod, device, expect, health, kubelet, offered, wait_for_pod};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};
use vfio_sim_node::kubelet::{AdmitError, KubeletState, PodResourcesMode};
use vfio_sim_node::{Kubelet, Node, VmSpec};

const GPU: &str = "0000:1b:00.0";
const OTHER: &str = "0000:3d:00.0";
const THIRD: &str = "0000:4e:00.0";
/// `--settling` of these tests, and enough time for what follows it.
const SETTLED: Duration = Duration::from_millis(300 + 1200);

/// Returns the number of Healthy devices.
fn allocatable(state: &KubeletState) -> usize {
    state.capacity(H100).allocatable
}

/// Starts eight offered GPUs, and a pod with a VM that holds [`GPU`].
async fn with_a_pod(words: &[&str]) -> (Node, Kubelet, Serve, vfio_sim_node::Vm) {
    let (node, kubelet, serve) = offered(words).await;
    let pod = kubelet.admit_with("vm-1", H100, vec![GPU.to_owned()]).await.unwrap();
    let vm = node.start_vm(&VmSpec::of_pod(&pod.pod_uid, &pod.devices)).unwrap();
    wait_for_pod(&node, GPU, "default/vm-1").await;
    (node, kubelet, serve, vm)
}

#[tokio::test]
async fn assigned_device_stays_healthy_over_every_restart() {
    let (node, kubelet, serve, _vm) = with_a_pod(&[]).await;
    tokio::time::sleep(SETTLED).await;
    assert_eq!(allocatable(&kubelet.state()), 8);
    drop(serve);
    let serve = Serve::start(&node, &[]);
    expect(&kubelet, "registered again", |state| {
        state.registrations_of(H100) == 2 && allocatable(state) == 8
    })
    .await;
    tokio::time::sleep(SETTLED).await;
    assert_eq!(allocatable(&kubelet.state()), 8);
    for keep_checkpoint in [true, false] {
        let before = kubelet.state().registrations_of(H100);
        kubelet.restart(keep_checkpoint).await.unwrap();
        expect(&kubelet, "registered again", |state| {
            state.registrations_of(H100) > before && allocatable(state) == 8
        })
        .await;
        tokio::time::sleep(SETTLED).await;
        assert_eq!(allocatable(&kubelet.state()), 8, "checkpoint kept: {keep_checkpoint}");
        assert_eq!(assigned_pod(&device(&node, GPU)).as_deref(), Some("default/vm-1"));
    }
    assert_eq!(
        node.opens(51),
        2,
        "one probe at discovery and one in Allocate; none after a restart, because the device is assigned"
    );
    let (_, _, log) = serve.terminate();
    assert!(!log.contains("Unhealthy"), "{log}");
}

#[tokio::test]
async fn unknown_assignments_keep_held_devices_healthy_but_refused() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    kubelet.set_pod_resources_mode(PodResourcesMode::Hang);
    let began = Instant::now();
    let serve = Serve::start(&node, &[]);
    expect(&kubelet, "a first list despite the hanging pod resources", |state| allocatable(state) == 8).await;
    assert!(began.elapsed() < Duration::from_secs(3), "{:?}", began.elapsed());
    let checkpoint = node.kubelet_dir().join(kubelet_api::CHECKPOINT);
    std::fs::write(checkpoint, "{\"Data\":").unwrap();
    let vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    tokio::time::sleep(SETTLED).await;
    assert_eq!(health(&kubelet.state(), H100, GPU), Some(true));
    assert_eq!(device(&node, GPU)["state"], "held");
    let refused = kubelet.admit_with("vm-1", H100, vec![GPU.to_owned()]).await;
    let Err(AdmitError::Refused(status)) = refused else { panic!("{refused:?}") };
    assert_eq!(status.code(), tonic::Code::FailedPrecondition);
    assert!(status.message().contains(&format!("{GPU} (group 51) is held by pid {}", vm.pid())), "{status}");
    // The list was sent before the refusal, so that the replacement of the failed pod is allocated another
    // device.
    assert_eq!(health(&kubelet.state(), H100, GPU), Some(false));
    vm.kill();
    expect(&kubelet, "free again", |state| allocatable(state) == 8).await;
    let (_, _, log) = serve.terminate();
    let warning = "assignments are unknown: pod resources and the kubelet's checkpoint could not be read";
    assert_eq!(log.matches(warning).count(), 1, "{log}");
}

#[tokio::test]
async fn checkpoint_alone_assigns_if_pod_resources_are_malformed() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    std::fs::remove_file(node.pod_resources_socket()).unwrap();
    let garbage = UnixListener::bind(node.pod_resources_socket()).unwrap();
    std::thread::spawn(move || {
        for stream in garbage.incoming() {
            let _ = std::io::Write::write_all(&mut stream.unwrap(), &[0xff; 4096]);
        }
    });
    let _serve = Serve::start(&node, &[]);
    expect(&kubelet, "offered", |state| allocatable(state) == 8).await;
    let pod = kubelet.admit_with("vm-1", H100, vec![GPU.to_owned()]).await.unwrap();
    let _vm = node.start_vm(&VmSpec::of_pod(&pod.pod_uid, &pod.devices)).unwrap();
    let _foreign = node.start_vm(&VmSpec::foreign(&[OTHER])).unwrap();
    expect(&kubelet, "only the foreign holder's device unhealthy", |state| allocatable(state) == 7).await;
    tokio::time::sleep(SETTLED).await;
    assert_eq!(health(&kubelet.state(), H100, GPU), Some(true));
    assert_eq!(assigned_pod(&device(&node, GPU)).as_deref(), Some(&*pod.pod_uid));
}

#[tokio::test]
async fn kubelet_is_polled_at_most_once_an_interval() {
    let (node, kubelet, _serve, _vm) = with_a_pod(&[]).await;
    let (before, began) = (kubelet.pod_lists(), Instant::now());
    for _ in 0..40 {
        let vm = node.start_vm(&VmSpec::foreign(&[OTHER])).unwrap();
        tokio::time::sleep(Duration::from_millis(25)).await;
        drop(vm);
        tokio::time::sleep(Duration::from_millis(25)).await;
    }
    let lists = u128::from(kubelet.pod_lists() - before);
    let intervals = began.elapsed().as_millis() / INTERVAL.as_millis() + 1;
    assert!((2..=intervals).contains(&lists), "{lists} lists in {intervals} intervals");
}

#[tokio::test]
async fn vm_that_outlives_its_pod_is_a_foreign_holder() {
    let (node, kubelet, _serve, vm) = with_a_pod(&[]).await;
    let pods = kubelet.state().pods;
    kubelet.admit_with("vm-2", H100, vec![OTHER.to_owned()]).await.unwrap();
    wait_for_pod(&node, OTHER, "default/vm-2").await;
    kubelet.remove(&pods[0].uid);
    expect(&kubelet, "held by a VM without a pod", |state| health(state, H100, GPU) == Some(false)).await;
    let listed = device(&node, GPU);
    assert!(listed["assignment"].is_null(), "{listed}");
    assert!(listed["reason"].as_str().unwrap().contains(&format!("held by pid {}", vm.pid())), "{listed}");
    vm.kill();
    expect(&kubelet, "free again", |state| allocatable(state) == 8).await;
}

#[tokio::test]
async fn unbound_assigned_device_stays_listed_until_its_pod_ends() {
    let (node, kubelet, serve, vm) = with_a_pod(&[]).await;
    kubelet.admit_with("vm-2", H100, vec![OTHER.to_owned()]).await.unwrap();
    wait_for_pod(&node, OTHER, "default/vm-2").await;
    drop(vm);
    node.unbind(GPU).unwrap();
    tokio::time::sleep(SETTLED).await;
    assert_eq!(kubelet.capacity(H100).capacity, 8, "the kubelet still counts it as requested");
    assert_eq!(health(&kubelet.state(), H100, GPU), Some(true));
    drop(serve);
    let _serve = Serve::start(&node, &[]);
    expect(&kubelet, "also after a restart", |state| {
        state.registrations_of(H100) == 2 && allocatable(state) == 8
    })
    .await;
    let uid = kubelet.state().pods.iter().find(|pod| pod.name == "vm-1").unwrap().uid.clone();
    kubelet.remove(&uid);
    expect(&kubelet, "dropped", |state| state.capacity(H100).capacity == 7).await;
}

#[tokio::test]
async fn substitution_never_allocates_an_allocated_device() {
    let (node, kubelet, _serve, _vm) = with_a_pod(&["--busy-allocate", "substitute"]).await;
    let foreign = node.start_vm(&VmSpec::foreign(&[OTHER])).unwrap();
    let substituted = kubelet.admit_with("vm-2", H100, vec![OTHER.to_owned()]).await.unwrap();
    let allocated = substituted.response.envs["PCI_RESOURCE_NVIDIA_COM_2330"].clone();
    assert_eq!(allocated, THIRD, "{substituted:?}");
    assert_eq!(substituted.response.devices[1].host_path, "/dev/vfio/53");
    // The kubelet's checkpoint names OTHER. The plugin allocated THIRD to vm-2, and OTHER is held by a VM
    // without a pod.
    wait_for_pod(&node, THIRD, "default/vm-2").await;
    expect(&kubelet, "only the held device unhealthy", |state| {
        health(state, H100, OTHER) == Some(false) && health(state, H100, THIRD) == Some(true)
    })
    .await;
    assert_eq!(kubelet.capacity(H100).left(), 5, "five devices are free");
    let _vm = node.start_vm(&VmSpec::of_pod(&substituted.pod_uid, &[allocated])).unwrap();
    // To the kubelet THIRD is free. A pod that it allocates THIRD to gets a substitute too.
    let again = kubelet.admit_with("vm-3", H100, vec![THIRD.to_owned()]).await.unwrap();
    assert_eq!(again.response.envs["PCI_RESOURCE_NVIDIA_COM_2330"], "0000:5f:00.0");
    // Without the checkpoint the plugin does not know which devices substitute others.
    // The kubelet does not overwrite a directory of that name with its next checkpoint.
    let checkpoint = node.kubelet_dir().join(kubelet_api::CHECKPOINT);
    std::fs::remove_file(&checkpoint).unwrap();
    std::fs::create_dir_all(checkpoint.join("not a file")).unwrap();
    let _second = node.start_vm(&VmSpec::foreign(&["0000:9b:00.0"])).unwrap();
    let refused = kubelet.admit_with("vm-4", H100, vec!["0000:9b:00.0".to_owned()]).await;
    let Err(AdmitError::Refused(status)) = refused else { panic!("{refused:?}") };
    assert!(status.message().contains("no substitute: the kubelet's checkpoint cannot be read"), "{status}");
    foreign.kill();
    expect(&kubelet, "offered again", |state| health(state, H100, OTHER) == Some(true)).await;
}

#[tokio::test]
async fn device_unbound_a_moment_ago_is_refused() {
    let node = Node::with_eight_gpus().unwrap();
    // A probe still finds the group free, because the other function of the group is still bound.
    for function in ["0000:e1:00.0", "0000:e1:00.1"] {
        node.add(vfio_sim_node::Function::gpu(function, 70, 1)).unwrap();
    }
    let kubelet = kubelet(&node).await;
    // The interval is so long that the monitor has not seen the unbind.
    let _serve = Serve::start(&node, &["--interval", "1h"]);
    expect(&kubelet, "offered", |state| allocatable(state) == 10).await;
    node.unbind("0000:e1:00.0").unwrap();
    let refused = kubelet.admit_with("vm-1", H100, vec!["0000:e1:00.0".to_owned()]).await;
    let Err(AdmitError::Refused(status)) = refused else { panic!("{refused:?}") };
    assert!(status.message().contains("0000:e1:00.0: is no longer bound to a driver"), "{status}");
    kubelet.admit_with("vm-2", H100, vec![GPU.to_owned()]).await.unwrap();
}

#[tokio::test]
async fn without_probes_allocate_peeks_again() {
    let (node, kubelet, _serve) = offered(&["--no-probe", "--interval", "1h"]).await;
    let vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    let refused = kubelet.admit_with("vm-1", H100, vec![GPU.to_owned()]).await;
    let Err(AdmitError::Refused(status)) = refused else { panic!("{refused:?}") };
    assert!(status.message().contains("is held by"), "{status}");
    vm.kill();
    kubelet.admit_with("vm-2", H100, vec![GPU.to_owned()]).await.unwrap();
    kubelet.admit_with("vm-3", H100, vec![OTHER.to_owned()]).await.unwrap();
    assert_eq!((node.opens(51), node.opens(52)), (0, 0));
}

#[tokio::test]
async fn remembered_assignment_prevents_a_probe_after_a_restart() {
    let (node, kubelet, serve, vm) = with_a_pod(&[]).await;
    drop((serve, vm));
    let opens = node.opens(51);
    kubelet.set_pod_resources_mode(PodResourcesMode::Hang);
    let checkpoint = node.kubelet_dir().join(kubelet_api::CHECKPOINT);
    std::fs::remove_file(&checkpoint).unwrap();
    std::fs::create_dir_all(checkpoint.join("not a file")).unwrap();
    let _serve = Serve::start(&node, &[]);
    expect(&kubelet, "registered again", |state| state.registrations_of(H100) == 2).await;
    // Probes are paused for at most a second after the start.
    tokio::time::sleep(SETTLED).await;
    assert_eq!(node.opens(51), opens, "the VM of its pod may be about to start");
    assert!(node.opens(52) > 0, "the other groups are probed");
    assert_eq!(assigned_pod(&device(&node, GPU)).as_deref(), Some("default/vm-1"));
}
