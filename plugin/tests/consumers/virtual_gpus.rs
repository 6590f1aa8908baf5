//! vGPUs in KubeVirt's VMs: mediated devices, and virtual functions of a vendor's VFIO driver.

use crate::GPU;
use crate::common::{H100, Serve, expect, health, kubelet};
use crate::kubevirt::{HostDevice, host_devices, pci, variables};
use vfio_sim_node::mdev::Mdev;
use vfio_sim_node::{Node, trees};

#[tokio::test]
async fn mediated_devices_are_found_by_their_uuids() {
    let node = Node::with_eight_gpus().unwrap();
    let uuids = ["83b8f4f2-509f-382f-3c1e-e6bfe0fa1001", "83b8f4f2-509f-382f-3c1e-e6bfe0fa1002"];
    for (group, uuid) in (70..).zip(uuids) {
        let (uuid, kind, parent) = (uuid.to_owned(), "nvidia-222".to_owned(), GPU.to_owned());
        node.add_mdev(&Mdev { uuid, parent, kind, group, cdev: Some(group) }).unwrap();
    }
    let types = "sys/devices/pci0000:00/0000:1b:00.0/mdev_supported_types";
    node.write(&format!("{types}/nvidia-222/name"), "GRID T4-1Q\n").unwrap();
    let resource = "nvidia.com/GRID_T4-1Q";
    let kubelet = kubelet(&node).await;
    let _serve = Serve::start(&node, &[]);
    expect(&kubelet, "both", |state| state.capacity(resource).allocatable == 2).await;
    // A VM with two vGPUs and a whole GPU beside them.
    let other = crate::OTHER;
    let envs = variables(&kubelet, &[(resource, &uuids), (H100, &[other])]).await;
    let found = host_devices(&[resource, H100, resource], &envs);
    let mdev = |uuid: &str| HostDevice::Mdev(uuid.to_owned());
    assert_eq!(found, Ok(vec![pci(other), mdev(uuids[0]), mdev(uuids[1])]), "{envs:?}");
}

#[tokio::test]
async fn virtual_function_with_a_vgpu_is_a_pci_device() {
    let tree = trees::by_name("virtual functions with a vGPU and without").unwrap();
    let (resource, function) = ("nvidia.com/NVIDIA_H200X-1-18C", "0000:1b:00.1");
    let kubelet = kubelet(&tree.node).await;
    let _serve = Serve::start(&tree.node, &[]);
    expect(&kubelet, "offered", |state| health(state, resource, function) == Some(true)).await;
    let envs = variables(&kubelet, &[(resource, &[function])]).await;
    assert_eq!(envs.keys().next().unwrap(), "PCI_RESOURCE_NVIDIA_COM_NVIDIA_H200X-1-18C");
    assert_eq!(host_devices(&[resource], &envs), Ok(vec![pci(function)]));
}
