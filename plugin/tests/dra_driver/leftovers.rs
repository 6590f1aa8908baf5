//! What others leave behind: slices that another program has made, claims that the kubelet has forgotten, and VMs of ended claims.

use super::common::{device, wait_for_problem};
use super::root as kubelet_root;
use super::{GPU, GPU_NAME, World};
use serde_json::{Value, json};
use std::time::Duration;
use vfio_sim_node::VmSpec;
use vfio_sim_node::dra::uid;

#[tokio::test]
async fn slice_that_cannot_be_removed_stops_no_taint() {
    let world = World::new().await;
    let (_serve, _driver) = world.offered().await;
    world.api.add_slice("vfio-probe.github.io", "by-hand", &json!({"name": "by-hand"}));
    let problem = wait_for_problem(&world.node, "slices_not_written", true).remove(0);
    assert!(problem.text.contains("only the pool of its node"), "{problem:?}");
    let _vm = world.node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    world.api.expect("the taint is stored", |devices| devices[GPU_NAME].as_deref() == Some("held")).await;
}

/// The driver waits a second of this time for an earlier claim.
const SHORT: Duration = Duration::from_secs(8);

/// Writes the kubelet's record of claims.
fn write_kubelet_record(world: &World, claims: &Value) {
    let data = json!({"ClaimInfoStateList": claims}).to_string();
    let file = kubelet_root(&world.node).join("dra_manager_state");
    std::fs::write(file, json!({"Data": data, "Checksum": 0}).to_string()).unwrap();
}

#[tokio::test]
async fn claim_that_the_kubelet_forgot_does_not_keep_its_device() {
    let world = World::new().await;
    let (_serve, mut driver) = world.offered_with(&["--release", "1s"]).await;
    world.api.add_claim("gpu", GPU_NAME, ("vm-1", "p1"));
    driver.prepare("gpu").await.unwrap();
    let vm = world.node.start_vm(&VmSpec::of_pod("p1", &[GPU.to_owned()])).unwrap();
    world.api.add_claim("next", GPU_NAME, ("vm-2", "p2"));
    let error = driver.prepare("next").await.unwrap_err();
    assert!(error.contains("claim default/gpu has it"), "it is allocated: {error}");
    assert_eq!(world.api.devices()[GPU_NAME], None);
    // The pod is deleted by force, and the kubelet still ends its containers.
    world.api.remove_claim("gpu");
    let ending = "claim default/gpu has it or a device of its group; its pod was deleted by force, and the kubelet is still \
                  ending its containers";
    let record = json!([{"ClaimUID": uid("gpu"), "ClaimName": "gpu", "Namespace": "default"}]);
    for (record, expected) in [
        (None, format!("{ending} or has lost its record of the claim; the kubelet tries again")),
        (Some(record), format!("{ending}; the kubelet tries again")),
    ] {
        record.into_iter().for_each(|claims| write_kubelet_record(&world, &claims));
        let error = driver.prepare_within("next", SHORT).await.unwrap_err();
        assert_eq!(error, format!("{GPU}: {expected}"), "the kubelet has not forgotten it");
        assert_eq!(device(&world.node, GPU)["claim"]["name"], "gpu");
    }
    // The kubelet has lost its record, and the VM still runs.
    write_kubelet_record(&world, &json!([]));
    let error = driver.prepare("next").await.unwrap_err();
    assert_eq!(world.api.devices()[GPU_NAME].as_deref(), Some("held"), "refused after the taint is stored");
    assert!(error.contains(&format!("is held by pid {}", vm.pid())), "{error}");
    vm.kill();
    world.api.expect("the device is free", |devices| devices[GPU_NAME].is_none()).await;
    driver.prepare("next").await.unwrap();
    assert_eq!(device(&world.node, GPU)["claim"]["name"], "next");
    // A late call for the claim that is gone.
    driver.unprepare("gpu").await.unwrap();
    assert_eq!(device(&world.node, GPU)["claim"]["name"], "next");
}

#[tokio::test]
async fn vm_of_an_ended_claim_keeps_its_device_with_busy_advertise() {
    let world = World::new().await;
    let (_serve, mut driver) = world.offered_with(&["--release", "1s", "--busy", "advertise"]).await;
    world.api.add_claim("gpu", GPU_NAME, ("vm-1", "p1"));
    driver.prepare("gpu").await.unwrap();
    let vm = world.node.start_vm(&VmSpec::of_pod("p1", &[GPU.to_owned()])).unwrap();
    driver.unprepare("gpu").await.unwrap();
    assert_eq!(world.api.devices()[GPU_NAME].as_deref(), Some("held"), "ended after the taint is stored");
    vm.kill();
    world.api.expect("the device is free", |devices| devices[GPU_NAME].is_none()).await;
}
