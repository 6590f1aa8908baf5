//! A node changes its mode while pods run: from the device plugin to claims, and back.

use super::common::{H100, Serve, device, expect, health, wait_for_problem};
use super::{GPU, GPU_NAME, World};
use vfio_sim_node::VmSpec;

/// Ends `serve` with SIGTERM.
fn end(serve: Serve) {
    let (code, _, log) = serve.terminate();
    assert_eq!(code, 0, "{log}");
}

#[tokio::test]
async fn pods_of_the_device_plugin_keep_their_devices_from_claims() {
    let world = World::new().await;
    let serve = world.serve(&[]);
    expect(&world.kubelet, "offered", |state| state.capacity(H100).allocatable == 8).await;
    let pod = world.kubelet.admit_with("vm-1", H100, vec![GPU.to_owned()]).await.unwrap().pod_uid;
    // An empty list of pods would show nothing.
    world.kubelet.admit_with("vm-9", H100, vec!["0000:df:00.0".to_owned()]).await.unwrap();
    let vm = world.node.start_vm(&VmSpec::of_pod(&pod, &[GPU.to_owned()])).unwrap();
    super::common::wait_for_pod(&world.node, GPU, "default/vm-1").await;
    end(serve);
    expect(&world.kubelet, "the resource falls to 0", |state| state.capacity(H100).allocatable == 0).await;

    let (_serve, mut driver) = world.offered().await;
    let devices = world.api.devices();
    assert_eq!(devices[GPU_NAME].as_deref(), Some("device-plugin"), "{devices:?}");
    assert_eq!(devices.values().filter(|taint| taint.is_none()).count(), 6, "{devices:?}");
    assert_eq!(device(&world.node, GPU)["taint"]["name"], "device-plugin");
    world.api.add_claim("gpu", GPU_NAME, ("vm-2", "p2"));
    let error = driver.prepare("gpu").await.unwrap_err();
    assert!(error.contains("default/vm-1"), "{error}");
    assert_eq!(world.kubelet.capacity(H100).allocatable, 0, "the device plugin offers none of them");
    // The pod ends. The kubelet writes its checkpoint again only after a list of a device plugin.
    let checkpoint = world.node.kubelet_dir().join("kubelet_internal_checkpoint");
    let stale = std::fs::read(&checkpoint).unwrap();
    vm.kill();
    world.kubelet.remove(&pod);
    std::fs::write(checkpoint.with_extension("new"), stale).unwrap();
    std::fs::rename(checkpoint.with_extension("new"), &checkpoint).unwrap();
    world.api.expect("the pod's device is free", |devices| devices[GPU_NAME].is_none()).await;
    driver.prepare("gpu").await.unwrap();
}

#[tokio::test]
async fn claims_stay_exclusive_when_the_device_plugin_is_back() {
    let world = World::new().await;
    let (serve, mut driver) = world.offered().await;
    world.api.add_claim("gpu", GPU_NAME, ("vm-1", "p1"));
    driver.prepare("gpu").await.unwrap();
    let vm = world.node.start_vm(&VmSpec::of_pod("p1", &[GPU.to_owned()])).unwrap();
    end(serve);

    let _serve = world.serve(&["--offer", "device-plugin"]);
    let mut driver = world.register().await;
    expect(&world.kubelet, "the others are offered", |state| state.capacity(H100).allocatable == 7).await;
    assert_eq!(health(&world.kubelet.state(), H100, GPU), None, "it is in no list");
    let error = world.kubelet.allocate(H100, &[&[GPU.to_owned()]]).await.unwrap_err();
    assert!(error.message().contains("claim default/gpu has it"), "{error}");
    let left = |devices: &std::collections::BTreeMap<String, Option<String>>| {
        devices.len() == 1 && devices[GPU_NAME].as_deref() == Some("device-plugin")
    };
    world.api.expect("only the claim's device is published, with a taint", left).await;
    let known = device(&world.node, GPU);
    assert_eq!((&known["offer"], &known["claim"]["name"]), (&"dra".into(), &"gpu".into()));
    // Another claim cannot get a device any more.
    world.api.add_claim("late", "pci-0000-3d-00-0", ("vm-2", "p2"));
    let error = driver.prepare("late").await.unwrap_err();
    assert!(error.contains("the device plugin offers it now"), "{error}");
    // The pod ends.
    vm.kill();
    driver.unprepare("gpu").await.unwrap();
    expect(&world.kubelet, "all are offered", |state| state.capacity(H100).allocatable == 8).await;
    world.api.expect("no device is published", std::collections::BTreeMap::is_empty).await;
    let (code, _, error) = world.run(&["ready"]);
    assert_eq!(code, 0, "{error}");
}

#[tokio::test]
async fn claims_without_a_driver_keep_their_devices() {
    let world = World::new().await;
    let (serve, mut driver) = world.offered().await;
    world.api.add_claim("gpu", GPU_NAME, ("vm-1", "p1"));
    driver.prepare("gpu").await.unwrap();
    end(serve);
    // Without the name of the node no driver can run.
    let root = super::root(&world.node).to_str().unwrap().to_owned();
    let _serve = Serve::start(&world.node, &["--kubelet-root", &root]);
    expect(&world.kubelet, "the others are offered", |state| state.capacity(H100).allocatable == 7).await;
    assert_eq!(health(&world.kubelet.state(), H100, GPU), None);
    let problem = wait_for_problem(&world.node, "claims_without_driver", true).remove(0);
    assert!(problem.text.contains("1 prepared claims"), "{problem:?}");
    assert!(world.kubelet.allocate(H100, &[&[GPU.to_owned()]]).await.is_err());
}
