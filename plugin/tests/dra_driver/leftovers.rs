//! What other programs leave behind: slices that they have made.

use super::common::wait_for_problem;
use super::{GPU, GPU_NAME, World};
use serde_json::json;
use vfio_sim_node::VmSpec;

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
