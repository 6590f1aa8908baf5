//! vGPUs that are created and removed while the plugin runs.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail loudly")]

mod common;

use common::{Serve, expect, health, kubelet};
use vfio_sim_node::trees;

const WITH_VGPU: &str = "0000:1b:00.1";
const WITHOUT_VGPU: &str = "0000:1b:00.3";
const RESOURCE: &str = "nvidia.com/NVIDIA_H200X-1-18C";

#[tokio::test]
async fn removed_vgpu_is_refused_and_a_new_one_is_offered() {
    let tree = trees::by_name("virtual functions with a vGPU and without").unwrap();
    let node = &tree.node;
    let kubelet = kubelet(node).await;
    let _serve = Serve::start(node, &[]);
    expect(&kubelet, "offered", |state| health(state, RESOURCE, WITH_VGPU) == Some(true)).await;
    assert_eq!(health(&kubelet.state(), RESOURCE, WITHOUT_VGPU), None);
    let set = |address: &str, kind: &str| {
        node.write(&format!("sys/bus/pci/devices/{address}/nvidia/current_vgpu_type"), kind).unwrap();
    };
    set(WITH_VGPU, "0\n");
    set(WITHOUT_VGPU, "1414\n");
    let refused = kubelet.allocate(RESOURCE, &[&[WITH_VGPU.to_owned()]]).await.unwrap_err();
    assert_eq!(refused.message(), format!("{WITH_VGPU}: its vGPU was removed"));
    expect(&kubelet, "both functions read again", |state| {
        health(state, RESOURCE, WITH_VGPU).is_none() && health(state, RESOURCE, WITHOUT_VGPU) == Some(true)
    })
    .await;
    assert!(kubelet.allocate(RESOURCE, &[&[WITHOUT_VGPU.to_owned()]]).await.is_ok());
}
