//! Whole functions in KubeVirt's VMs.

use crate::common::{H100, Serve, expect, kubelet, offered, write_pools};
use crate::kubevirt::{host_devices, pci, variables};
use crate::{GPU, OTHER};
use vfio_sim_node::{Function, Node};

#[tokio::test]
async fn one_gpu_is_the_vms_only_host_device() {
    let (_node, kubelet, _serve) = offered(&[]).await;
    let envs = variables(&kubelet, &[(H100, &[GPU])]).await;
    assert_eq!(envs.len(), 1, "{envs:?}");
    assert_eq!(host_devices(&[H100], &envs), Ok(vec![pci(GPU)]));
}

#[tokio::test]
async fn gpus_of_one_resource_keep_the_order_of_the_request() {
    let (_node, kubelet, _serve) = offered(&[]).await;
    let requested = ["0000:5f:00.0", GPU, OTHER];
    let envs = variables(&kubelet, &[(H100, &requested)]).await;
    assert_eq!(host_devices(&[H100; 3], &envs), Ok(requested.map(pci).to_vec()));
}

#[tokio::test]
async fn each_entry_gets_a_device_of_its_own_resource() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    // The name of one resource begins as the other's, and both keep hyphens and dots after the slash.
    let (first, second) = ("example.com/big-gpu", "example.com/big-gpu.v2");
    let pool =
        |resource: &str, id: &str| format!("{{resource: {resource}, select: [{{address: \"{id}\"}}]}}");
    let file = write_pools(&node, &format!("pools: [{}, {}]", pool(first, GPU), pool(second, OTHER)));
    let _serve = Serve::start(&node, &["--pools", &file]);
    expect(&kubelet, "both", |state| [first, second].map(|name| state.capacity(name).allocatable) == [1, 1])
        .await;
    let envs = variables(&kubelet, &[(first, &[GPU]), (second, &[OTHER])]).await;
    assert!(envs.contains_key("PCI_RESOURCE_EXAMPLE_COM_BIG-GPU"), "{envs:?}");
    assert_eq!(host_devices(&[second, first], &envs), Ok(vec![pci(OTHER), pci(GPU)]));
}

#[tokio::test]
async fn group_peer_of_a_requested_gpu_is_no_host_device() {
    let node = Node::with_eight_gpus().unwrap();
    // The audio function of the first GPU, in its group.
    node.add(Function { class: 0x04_03_00, ..Function::gpu("0000:1b:00.1", 51, 0) }).unwrap();
    let kubelet = kubelet(&node).await;
    let _serve = Serve::start(&node, &[]);
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 8).await;
    let envs = variables(&kubelet, &[(H100, &[GPU])]).await;
    assert_eq!(host_devices(&[H100], &envs), Ok(vec![pci(GPU)]));
}
