//! What the driver waits for: a group that is held, and further deletions of slices.

use super::{GPU, GPU_NAME, World};
use std::time::Duration;
use tokio::time::{sleep, timeout};
use vfio_sim_node::{Function, VmSpec};

/// Shorter than the 40 s for which a claim waits for a held group.
const AT_ONCE: Duration = Duration::from_secs(20);
/// Longer than the shortest time between two rounds of writes.
const SINCE_THE_LATEST: Duration = Duration::from_millis(1500);
/// Two slices have that many devices.
const DEVICES: u8 = 70;

#[tokio::test]
async fn call_that_ends_does_not_wait_for_a_held_group() {
    let world = World::new().await;
    // The device has no taint before a call has found it held.
    let (_serve, mut driver) = world.offered_with(&["--busy", "advertise"]).await;
    world.api.add_claim("gpu", GPU_NAME, ("vm-1", "p1"));
    let vm = world.node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    driver.begin_to_prepare("gpu", Duration::from_secs(1)).await;
    timeout(AT_ONCE, driver.unprepare("gpu")).await.expect("the claim is still locked").unwrap();
    assert_eq!(
        world.api.devices()[GPU_NAME].as_deref(),
        Some("held"),
        "the claim ended before the taint was stored"
    );
    vm.kill();
    world.api.expect("the device is free", |devices| devices[GPU_NAME].is_none()).await;
    driver.prepare("gpu").await.unwrap();
    driver.unprepare("gpu").await.unwrap();
}

#[tokio::test]
async fn slices_that_are_deleted_together_are_created_together() {
    let world = World::new().await;
    for number in 0..DEVICES - 8 {
        let function = Function::gpu(&format!("0000:{:02x}:00.1", number + 1), 100 + u32::from(number), 0);
        world.node.add(function).unwrap();
    }
    let _serve = world.serve(&["--offer", "dra"]);
    let _driver = world.register().await;
    let post = |generation| ("POST".to_owned(), generation, 201);
    assert_eq!(world.api.writes(2).await, [post(1), post(1)]);
    // A write within the last second would delay the next one anyway.
    sleep(SINCE_THE_LATEST).await;
    world.api.delete_slices();
    assert_eq!(world.api.writes(4).await.split_off(2), [post(2), post(2)]);
}
