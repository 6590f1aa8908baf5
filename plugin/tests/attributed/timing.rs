//! When the plugin names a pod, and how old it takes the kubelet for.

use crate::common::{H100, INTERVAL, Serve, assigned_pod, device, expect, kubelet, offered, wait_for_pod};
use crate::{GPU, OTHER, SETTLED, allocatable};
use std::time::{Duration, Instant};
use vfio_sim_node::kubelet::PodResourcesMode;
use vfio_sim_node::{Kubelet, Node};

/// Waits until `serve` names the pod of [`GPU`]. Returns how long it took.
async fn time_to_name(node: &Node, pod: &str) -> Duration {
    let began = Instant::now();
    wait_for_pod(node, GPU, pod).await;
    began.elapsed()
}

#[tokio::test]
async fn pod_is_named_soon_after_the_kubelet_lists_it() {
    let (node, kubelet, _serve) = offered(&["--assignments-interval", "1h"]).await;
    // The kubelet allocates, and lists the pod only later.
    kubelet.set_pod_resources_mode(PodResourcesMode::Empty);
    kubelet.admit_with("vm-1", H100, vec![GPU.to_owned()]).await.unwrap();
    tokio::time::sleep(Duration::from_millis(700)).await;
    kubelet.set_pod_resources_mode(PodResourcesMode::Normal);
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

/// Admits a pod with [`GPU`] and one with [`OTHER`].
async fn with_two_pods(node: &Node, kubelet: &Kubelet) {
    expect(kubelet, "offered", |state| allocatable(state) == 8).await;
    for (pod, device) in [("vm-1", GPU), ("vm-2", OTHER)] {
        kubelet.admit_with(pod, H100, vec![device.to_owned()]).await.unwrap();
        wait_for_pod(node, device, &format!("default/{pod}")).await;
    }
}

/// Removes the pod with [`GPU`].
fn remove_first_pod(kubelet: &Kubelet) {
    let uid = kubelet.state().pods.iter().find(|pod| pod.name == "vm-1").unwrap().uid.clone();
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
    expect(&kubelet, "registered again", |state| state.registrations_of(H100) == 2).await;
    while assigned_pod(&device(&node, GPU)).is_some() {
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
    expect(&kubelet, "registered again", |state| state.registrations_of(H100) == 2).await;
    tokio::time::sleep(SETTLED).await;
    assert_eq!(assigned_pod(&device(&node, GPU)).as_deref(), Some("default/vm-1"));
}
