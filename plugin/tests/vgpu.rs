//! vGPUs that are made and unmade while the plugin runs, on a simulated node.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail loudly")]

mod common;

use common::{Serve, expect, health, kubelet};
use vfio_sim_node::trees;

const MADE: &str = "0000:1b:00.1";
const EMPTY: &str = "0000:1b:00.3";
const RESOURCE: &str = "nvidia.com/NVIDIA_H200X-1-18C";

#[tokio::test]
async fn a_function_whose_vgpu_has_been_taken_away_is_not_given_and_one_that_was_made_is_offered() {
    let tree = trees::by_name("virtual functions with a vGPU and without").unwrap();
    let node = &tree.node;
    let kubelet = kubelet(node).await;
    let _serve = Serve::start(node, &[]);
    expect(&kubelet, "offered", |books| health(books, RESOURCE, MADE) == Some(true)).await;
    assert_eq!(health(&kubelet.state(), RESOURCE, EMPTY), None);
    let set = |address: &str, kind: &str| {
        node.write(&format!("sys/bus/pci/devices/{address}/nvidia/current_vgpu_type"), kind).unwrap();
    };
    set(MADE, "0\n");
    set(EMPTY, "1414\n");
    let refused = kubelet.allocate(RESOURCE, &[&[MADE.to_owned()]]).await.unwrap_err();
    assert_eq!(refused.message(), format!("{MADE}: its vGPU was removed"));
    expect(&kubelet, "read anew", |books| {
        health(books, RESOURCE, MADE).is_none() && health(books, RESOURCE, EMPTY) == Some(true)
    })
    .await;
    assert!(kubelet.allocate(RESOURCE, &[&[EMPTY.to_owned()]]).await.is_ok());
}
