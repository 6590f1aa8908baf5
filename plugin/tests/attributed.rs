//! The policy `attributed` on a simulated node: what pods own, who tells it, and the guard of Allocate.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail loudly")]

mod common;

use common::{H100, INTERVAL, Serve, assigned_pod, device, expect, health, kubelet, offered, wait_for_pod};
use std::os::unix::net::UnixListener;
use std::time::{Duration, Instant};
use vfio_sim_node::kubelet::{AdmitError, KubeletState, PodResourcesMode};
use vfio_sim_node::{Kubelet, Node, VmSpec};

const GPU: &str = "0000:1b:00.0";
const OTHER: &str = "0000:3d:00.0";
const THIRD: &str = "0000:4e:00.0";
/// `--settling` of these tests, and time for everything after it.
const SETTLED: Duration = Duration::from_millis(300 + 1200);

fn allocatable(books: &KubeletState) -> usize {
    books.capacity(H100).allocatable
}

/// Eight devices offered by a plugin that runs, and a pod that has [`GPU`] with its machine.
async fn with_a_pod(words: &[&str]) -> (Node, Kubelet, Serve, vfio_sim_node::Vm) {
    let (node, kubelet, serve) = offered(words).await;
    let pod = kubelet.admit_with("vm-1", H100, vec![GPU.to_owned()]).await.unwrap();
    let vm = node.start_vm(&VmSpec::of_pod(&pod.pod_uid, &pod.devices)).unwrap();
    wait_for_pod(&node, GPU, "default/vm-1").await;
    (node, kubelet, serve, vm)
}

#[tokio::test]
async fn a_pods_device_stays_healthy_whoever_restarts() {
    let (node, kubelet, serve, _vm) = with_a_pod(&[]).await;
    tokio::time::sleep(SETTLED).await;
    assert_eq!(allocatable(&kubelet.state()), 8);
    drop(serve);
    let serve = Serve::start(&node, &[]);
    expect(&kubelet, "registered again", |books| {
        books.registrations_of(H100) == 2 && allocatable(books) == 8
    })
    .await;
    tokio::time::sleep(SETTLED).await;
    assert_eq!(allocatable(&kubelet.state()), 8);
    for keep_checkpoint in [true, false] {
        let before = kubelet.state().registrations_of(H100);
        kubelet.restart(keep_checkpoint).await.unwrap();
        expect(&kubelet, "registered again", |books| {
            books.registrations_of(H100) > before && allocatable(books) == 8
        })
        .await;
        tokio::time::sleep(SETTLED).await;
        assert_eq!(allocatable(&kubelet.state()), 8, "checkpoint kept: {keep_checkpoint}");
        assert_eq!(assigned_pod(&device(&node, GPU)).as_deref(), Some("default/vm-1"));
    }
    assert_eq!(node.opens(51), 2, "at the start, and in Allocate; none after a restart: it is a pod's");
    let (_, _, log) = serve.terminate();
    assert!(!log.contains("Unhealthy"), "{log}");
}

#[tokio::test]
async fn when_nobody_tells_nothing_is_unhealthy_for_being_held_and_allocate_refuses_it() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    kubelet.set_pod_resources_mode(PodResourcesMode::Hang);
    let began = Instant::now();
    let serve = Serve::start(&node, &[]);
    expect(&kubelet, "the first list does not wait for ever", |books| allocatable(books) == 8).await;
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
    // And that is told, before the refusal, so that the pod that replaces the failed one is given another.
    assert_eq!(health(&kubelet.state(), H100, GPU), Some(false));
    vm.kill();
    expect(&kubelet, "free again", |books| allocatable(books) == 8).await;
    let (_, _, log) = serve.terminate();
    let warning = "assignments are unknown: pod resources and the kubelet's checkpoint could not be read";
    assert_eq!(log.matches(warning).count(), 1, "{log}");
}

#[tokio::test]
async fn the_checkpoint_alone_tells_owners_where_pod_resources_speak_garbage() {
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
    expect(&kubelet, "offered", |books| allocatable(books) == 8).await;
    let pod = kubelet.admit_with("vm-1", H100, vec![GPU.to_owned()]).await.unwrap();
    let _vm = node.start_vm(&VmSpec::of_pod(&pod.pod_uid, &pod.devices)).unwrap();
    let _foreign = node.start_vm(&VmSpec::foreign(&[OTHER])).unwrap();
    expect(&kubelet, "the foreign one alone", |books| allocatable(books) == 7).await;
    tokio::time::sleep(SETTLED).await;
    assert_eq!(health(&kubelet.state(), H100, GPU), Some(true));
    assert_eq!(assigned_pod(&device(&node, GPU)).as_deref(), Some(&*pod.pod_uid));
}

#[tokio::test]
async fn the_kubelet_is_asked_no_more_often_than_once_an_interval() {
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
async fn a_pod_that_is_gone_ends_its_ownership_and_its_hung_machine_is_foreign() {
    let (node, kubelet, _serve, vm) = with_a_pod(&[]).await;
    let pods = kubelet.state().pods;
    kubelet.admit_with("vm-2", H100, vec![OTHER.to_owned()]).await.unwrap();
    wait_for_pod(&node, OTHER, "default/vm-2").await;
    kubelet.remove(&pods[0].uid);
    expect(&kubelet, "held by nobody's machine", |books| health(books, H100, GPU) == Some(false)).await;
    let told = device(&node, GPU);
    assert!(told["assignment"].is_null(), "{told}");
    assert!(told["reason"].as_str().unwrap().contains(&format!("held by pid {}", vm.pid())), "{told}");
    vm.kill();
    expect(&kubelet, "free again", |books| allocatable(books) == 8).await;
}

#[tokio::test]
async fn an_owned_device_that_is_unbound_stays_listed_until_its_pod_ends() {
    let (node, kubelet, serve, vm) = with_a_pod(&[]).await;
    kubelet.admit_with("vm-2", H100, vec![OTHER.to_owned()]).await.unwrap();
    wait_for_pod(&node, OTHER, "default/vm-2").await;
    drop(vm);
    node.unbind(GPU).unwrap();
    tokio::time::sleep(SETTLED).await;
    assert_eq!(kubelet.capacity(H100).capacity, 8, "it is counted as requested");
    assert_eq!(health(&kubelet.state(), H100, GPU), Some(true));
    drop(serve);
    let _serve = Serve::start(&node, &[]);
    expect(&kubelet, "also after a restart", |books| {
        books.registrations_of(H100) == 2 && allocatable(books) == 8
    })
    .await;
    let uid = kubelet.state().pods.iter().find(|pod| pod.name == "vm-1").unwrap().uid.clone();
    kubelet.remove(&uid);
    expect(&kubelet, "dropped", |books| books.capacity(H100).capacity == 7).await;
}

#[tokio::test]
async fn substitution_gives_another_and_never_one_that_was_given() {
    let (node, kubelet, _serve, _vm) = with_a_pod(&["--busy-allocate", "substitute"]).await;
    let foreign = node.start_vm(&VmSpec::foreign(&[OTHER])).unwrap();
    let swapped = kubelet.admit_with("vm-2", H100, vec![OTHER.to_owned()]).await.unwrap();
    let given = swapped.response.envs["PCI_RESOURCE_NVIDIA_COM_2330"].clone();
    assert_eq!(given, THIRD, "{swapped:?}");
    assert_eq!(swapped.response.devices[1].host_path, "/dev/vfio/53");
    // The books say OTHER; what vm-2 has is THIRD, and OTHER is held by nobody's machine.
    wait_for_pod(&node, THIRD, "default/vm-2").await;
    expect(&kubelet, "the held one is not offered", |books| {
        health(books, H100, OTHER) == Some(false) && health(books, H100, THIRD) == Some(true)
    })
    .await;
    assert_eq!(kubelet.capacity(H100).left(), 5, "five can be opened");
    let _vm = node.start_vm(&VmSpec::of_pod(&swapped.pod_uid, &[given])).unwrap();
    // The kubelet's books have it as free: whoever is given it is swapped too.
    let again = kubelet.admit_with("vm-3", H100, vec![THIRD.to_owned()]).await.unwrap();
    assert_eq!(again.response.envs["PCI_RESOURCE_NVIDIA_COM_2330"], "0000:5f:00.0");
    // Without the checkpoint nobody knows what was given in place of what.
    // A folder in its place, which the kubelet does not overwrite with its next list.
    let checkpoint = node.kubelet_dir().join(kubelet_api::CHECKPOINT);
    std::fs::remove_file(&checkpoint).unwrap();
    std::fs::create_dir_all(checkpoint.join("not a file")).unwrap();
    let _second = node.start_vm(&VmSpec::foreign(&["0000:9b:00.0"])).unwrap();
    let refused = kubelet.admit_with("vm-4", H100, vec!["0000:9b:00.0".to_owned()]).await;
    let Err(AdmitError::Refused(status)) = refused else { panic!("{refused:?}") };
    assert!(status.message().contains("no substitute: the kubelet's checkpoint cannot be read"), "{status}");
    foreign.kill();
    expect(&kubelet, "offered again", |books| health(books, H100, OTHER) == Some(true)).await;
}

#[tokio::test]
async fn a_device_that_was_unbound_a_moment_ago_is_not_given() {
    let node = Node::with_eight_gpus().unwrap();
    // Its group can be opened all the same, as the other is still bound.
    for function in ["0000:e1:00.0", "0000:e1:00.1"] {
        node.add(vfio_sim_node::Function::gpu(function, 70, 1)).unwrap();
    }
    let kubelet = kubelet(&node).await;
    // So seldom that the plugin cannot have seen it.
    let _serve = Serve::start(&node, &["--interval", "1h"]);
    expect(&kubelet, "offered", |books| allocatable(books) == 10).await;
    node.unbind("0000:e1:00.0").unwrap();
    let refused = kubelet.admit_with("vm-1", H100, vec!["0000:e1:00.0".to_owned()]).await;
    let Err(AdmitError::Refused(status)) = refused else { panic!("{refused:?}") };
    assert!(status.message().contains("0000:e1:00.0: is no longer bound to a driver"), "{status}");
    kubelet.admit_with("vm-2", H100, vec![GPU.to_owned()]).await.unwrap();
}

#[tokio::test]
async fn where_groups_may_not_be_opened_allocate_looks_afresh() {
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
async fn what_is_remembered_is_not_opened_though_nobody_tells_any_more() {
    let (node, kubelet, serve, vm) = with_a_pod(&[]).await;
    drop((serve, vm));
    let opens = node.opens(51);
    kubelet.set_pod_resources_mode(PodResourcesMode::Hang);
    let checkpoint = node.kubelet_dir().join(kubelet_api::CHECKPOINT);
    std::fs::remove_file(&checkpoint).unwrap();
    std::fs::create_dir_all(checkpoint.join("not a file")).unwrap();
    let _serve = Serve::start(&node, &[]);
    expect(&kubelet, "registered again", |books| books.registrations_of(H100) == 2).await;
    // Opens are withheld for a second at most.
    tokio::time::sleep(SETTLED).await;
    assert_eq!(node.opens(51), opens, "its pod's machine may be about to start");
    assert!(node.opens(52) > 0, "the others are asked");
    assert_eq!(assigned_pod(&device(&node, GPU)).as_deref(), Some("default/vm-1"));
}

/// Waits until `serve` names the pod of [`GPU`]; how long that took.
async fn time_to_name(node: &Node, pod: &str) -> Duration {
    let began = Instant::now();
    wait_for_owner(node, GPU, pod).await;
    began.elapsed()
}

#[tokio::test]
async fn pod_is_named_soon_after_the_kubelet_lists_it() {
    let (node, kubelet, _serve) = offered(&["--assignments-interval", "1h"]).await;
    // The kubelet allocates, and lists the pod only later.
    kubelet.answer_pod_resources(Answer::Empty);
    kubelet.admit_with("vm-1", H100, vec![GPU.to_owned()]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(700)).await;
    kubelet.answer_pod_resources(Answer::Books);
    let took = time_to_name(&node, "default/vm-1").await;
    assert!(took < Duration::from_secs(1) + INTERVAL, "{took:?}");
}

#[tokio::test]
async fn pod_is_named_soon_at_a_long_interval() {
    let (node, kubelet, _serve) = offered(&["--interval", "1h"]).await;
    kubelet.admit_with("vm-1", H100, vec![GPU.to_owned()]).await.unwrap();
    let took = time_to_name(&node, "default/vm-1").await;
    assert!(took < Duration::from_secs(2), "{took:?}");
}

/// Sets the modification time of kubelet.sock, as if the wall clock was stepped since the kubelet's start.
fn set_socket_time(node: &Node, seconds_from_now: i64) {
    let now = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs();
    let time = rustix::fs::Timespec { tv_sec: i64::try_from(now).unwrap() + seconds_from_now, tv_nsec: 0 };
    let times = rustix::fs::Timestamps { last_access: time, last_modification: time };
    let socket = node.kubelet_dir().join(kubelet_api::KUBELET_SOCKET);
    rustix::fs::utimensat(rustix::fs::CWD, socket, &times, rustix::fs::AtFlags::empty()).unwrap();
}

/// A pod with [`GPU`] and one with [`OTHER`].
async fn with_two_pods(node: &Node, kubelet: &Kubelet) {
    expect(kubelet, "offered", |books| allocatable(books) == 8).await;
    for (pod, device) in [("vm-1", GPU), ("vm-2", OTHER)] {
        kubelet.admit_with(pod, H100, vec![device.to_owned()]).await.unwrap();
        wait_for_owner(node, device, &format!("default/{pod}")).await;
    }
}

/// Removes the pod with [`GPU`].
fn remove_first_pod(kubelet: &Kubelet) {
    let uid = kubelet.books().pods.iter().find(|pod| pod.name == "vm-1").unwrap().uid.clone();
    kubelet.remove(&uid);
}

#[tokio::test]
async fn clock_stepped_back_makes_no_old_kubelet_young() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    set_socket_time(&node, 3600);
    const YOUNG: Duration = Duration::from_secs(4);
    let (serve, began) = (Serve::start(&node, &["--kubelet-start", "4s"]), Instant::now());
    with_two_pods(&node, &kubelet).await;
    tokio::time::sleep((YOUNG + INTERVAL).saturating_sub(began.elapsed())).await;
    drop(serve);
    remove_first_pod(&kubelet);
    let (_serve, began) = (Serve::start(&node, &["--kubelet-start", "4s"]), Instant::now());
    expect(&kubelet, "registered again", |books| books.registrations_of(H100) == 2).await;
    while !device(&node, GPU)["owner"].is_null() {
        assert!(began.elapsed() < YOUNG, "the lists of an old kubelet show that the pod has ended");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn clock_stepped_forward_makes_no_young_kubelet_old() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let serve = Serve::start(&node, &["--kubelet-start", "1h"]);
    with_two_pods(&node, &kubelet).await;
    drop(serve);
    // A kubelet that has just started does not list all its pods.
    kubelet.restart(true).await.unwrap();
    set_socket_time(&node, -7200);
    remove_first_pod(&kubelet);
    let _serve = Serve::start(&node, &["--kubelet-start", "1h"]);
    expect(&kubelet, "registered again", |books| books.registrations_of(H100) == 2).await;
    tokio::time::sleep(SETTLED).await;
    assert_eq!(device(&node, GPU)["owner"], "default/vm-1");
}
