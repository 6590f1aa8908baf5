//! Pools choose how their devices are offered: both front ends in one process.

use super::common::{device, expect, health, list, wait_for_problem, write_pools};
use super::{GPU, GPU_NAME, SECOND, World};
use vfio_sim_node::dra::uid;
use vfio_sim_node::kubelet::PodResourcesMode;

const POOLS: &str = "pools:\n  - {resource: a.io/claims, select: [{address: \"0000:1b:00.0\"}], offer: dra}\n  - {resource: a.io/plugin, select: [{vendor: 10de}]}\n";
const PLUGIN: &str = "a.io/plugin";

#[tokio::test]
async fn each_device_is_offered_in_one_way() {
    let world = World::new().await;
    let pools = write_pools(&world.node, POOLS);
    let _serve = world.serve(&["--pools", &pools]);
    let mut driver = world.register().await;
    expect(&world.kubelet, "seven devices", |state| state.capacity(PLUGIN).allocatable == 7).await;
    world.api.expect("one device", |devices| devices.len() == 1 && devices[GPU_NAME].is_none()).await;
    assert_eq!(health(&world.kubelet.state(), "a.io/claims", GPU), None);
    let offers: Vec<_> = list(&world.node).iter().map(|device| device["offer"].clone()).collect();
    assert_eq!(offers.iter().filter(|offer| **offer == "dra").count(), 1, "{offers:?}");
    // Both sides allocate.
    let pod = world.kubelet.admit_with("vm-1", PLUGIN, vec![SECOND.to_owned()]).await.unwrap();
    assert_eq!(pod.devices, [SECOND]);
    world.api.add_claim("gpu", GPU_NAME, ("vm-2", "p2"));
    driver.prepare("gpu").await.unwrap();
    assert_eq!(device(&world.node, GPU)["claim"]["uid"], uid("gpu"));
    // Neither allocates a device of the other.
    world.api.add_claim("other", "pci-0000-3d-00-0", ("vm-3", "p3"));
    assert!(driver.prepare("other").await.unwrap_err().contains("the device plugin offers it"));
}

/// The kubelet does not show the pod of an Allocate yet, and is not polled meanwhile.
#[tokio::test]
async fn preparing_a_claim_forgets_no_allocate() {
    let world = World::new().await;
    let pools = write_pools(&world.node, POOLS);
    let _serve = world.serve(&["--pools", &pools]);
    let mut driver = world.register().await;
    expect(&world.kubelet, "seven devices", |state| state.capacity(PLUGIN).allocatable == 7).await;
    world.api.add_claim("gpu", GPU_NAME, ("vm-2", "p2"));
    world.kubelet.set_pod_resources_mode(PodResourcesMode::Hang);
    world.kubelet.allocate(PLUGIN, &[&[SECOND.to_owned()]]).await.unwrap();
    driver.prepare("gpu").await.unwrap();
    let assignment = device(&world.node, SECOND)["assignment"].clone();
    assert_eq!(assignment["state"], "being_admitted", "{assignment}");
}

#[tokio::test]
async fn device_moves_when_its_pool_changes() {
    let world = World::new().await;
    let pools = write_pools(&world.node, POOLS);
    let _serve = world.serve(&["--pools", &pools]);
    let mut driver = world.register().await;
    expect(&world.kubelet, "seven devices", |state| state.capacity(PLUGIN).allocatable == 7).await;
    let pod = world.kubelet.admit_with("vm-1", PLUGIN, vec![SECOND.to_owned()]).await.unwrap().pod_uid;
    // An empty list of pods would show nothing.
    world.kubelet.admit_with("vm-9", PLUGIN, vec!["0000:df:00.0".to_owned()]).await.unwrap();
    // All devices go to claims. The pod's device cannot be allocated until the pod has ended.
    write_pools(&world.node, "pools:\n  - {resource: a.io/claims, select: [{vendor: 10de}], offer: dra}\n");
    world.api.expect("eight devices", |devices| devices.len() == 8).await;
    assert_eq!(world.api.devices()["pci-0000-3d-00-0"].as_deref(), Some("device-plugin"));
    expect(&world.kubelet, "no device", |state| state.capacity(PLUGIN).allocatable == 0).await;
    world.kubelet.remove(&pod);
    world.api.expect("the pod has ended", |devices| devices["pci-0000-3d-00-0"].is_none()).await;
    // A claimed device stays with the driver until the claim has ended.
    world.api.add_claim("gpu", GPU_NAME, ("vm-2", "p2"));
    driver.prepare("gpu").await.unwrap();
    write_pools(&world.node, "pools:\n  - {resource: a.io/plugin, select: [{vendor: 10de}]}\n");
    expect(&world.kubelet, "seven devices", |state| state.capacity(PLUGIN).allocatable == 7).await;
    assert_eq!(health(&world.kubelet.state(), PLUGIN, GPU), None);
    driver.unprepare("gpu").await.unwrap();
    expect(&world.kubelet, "all devices", |state| state.capacity(PLUGIN).allocatable == 8).await;
}

#[tokio::test]
async fn pool_for_claims_needs_a_restart_and_the_node() {
    let world = World::new().await;
    let pools = write_pools(&world.node, "pools:\n  - {resource: a.io/plugin, select: [{vendor: 10de}]}\n");
    let _serve = world.serve(&["--pools", &pools]);
    expect(&world.kubelet, "offered", |state| state.capacity(PLUGIN).allocatable == 8).await;
    write_pools(&world.node, POOLS);
    let problem = wait_for_problem(&world.node, "pools_rejected", true).remove(0);
    assert!(problem.text.contains("restart serve"), "{problem:?}");
    assert_eq!(world.kubelet.capacity(PLUGIN).allocatable, 8);
    let (code, _, error) = super::common::run(&world.node, &["serve", "--pools", &pools]);
    assert!(code == 64 && error.contains("needs --node"), "{code}: {error}");
}

#[tokio::test]
async fn resource_that_is_offered_in_both_ways_is_a_problem() {
    let world = World::new().await;
    let pools =
        "pools:\n  - {select: [{address: \"0000:1b:00.0\"}], offer: dra}\n  - {select: [{vendor: 10de}]}\n";
    let pools = write_pools(&world.node, pools);
    let _serve = world.serve(&["--pools", &pools]);
    expect(&world.kubelet, "seven devices", |state| state.capacity(super::common::H100).allocatable == 7)
        .await;
    let problem = wait_for_problem(&world.node, "resource_offered_twice", true).remove(0);
    assert_eq!(problem.about, super::common::H100);
}
