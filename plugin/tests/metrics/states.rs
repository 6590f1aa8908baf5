//! What the gauges say in each state of a device.

use crate::common::{H100, expect, kubelet};
use crate::scrape::{Served, get};
use vfio_sim_node::{Node, VmSpec};

const GPU: &str = "0000:1b:00.0";

#[tokio::test]
async fn foreign_hold_is_visible_in_every_gauge() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let served = Served::start(&node, &[]);
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 8).await;
    let _vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    served.wait_for("held", |series| series.get("vfio_device_healthy", &[("device", GPU)]) == Some(0.0));
    println!("{}", get(served.address, "/metrics").body);
}
