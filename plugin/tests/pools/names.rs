//! The names of resources: aliases, types of vGPUs, and the environment variables made of them.

use crate::common::{Serve, expect, health, kubelet, run, write_pools};
use crate::{GPU, OTHER, allocate};
use std::fs;
use vfio_sim_node::mdev::Mdev;
use vfio_sim_node::{Function, Node};

#[tokio::test]
async fn resources_that_share_a_variable_are_reported_once() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let file = write_pools(
        &node,
        "pools:\n\
         \x20 - {resource: nvidia.com/big_gpu, select: [{numa_node: 0}]}\n\
         \x20 - {select: [{numa_node: 1}], alias: {2330: BIG.GPU}}\n",
    );
    let serve = Serve::start(&node, &["--pools", &file]);
    expect(&kubelet, "both", |state| {
        ["nvidia.com/big_gpu", "nvidia.com/BIG.GPU"].map(|name| state.capacity(name).allocatable) == [4, 4]
    })
    .await;
    node.unbind(GPU).unwrap();
    expect(&kubelet, "one less", |state| state.capacity("nvidia.com/big_gpu").capacity == 3).await;
    let (code, out, _) = run(&node, &["doctor", "--pools", &file]);
    let expected = "nvidia.com/big_gpu: and nvidia.com/BIG.GPU share the environment variable PCI_RESOURCE_NVIDIA_COM_BIG_GPU";
    assert!(code == 1 && out.contains(expected), "{out}");
    let (_, _, log) = serve.terminate();
    let logged = log.lines().filter(|line| line.contains("two resources share one variable"));
    assert_eq!(logged.filter(|line| line.contains("PCI_RESOURCE_NVIDIA_COM_BIG_GPU")).count(), 1, "{log}");
}

#[tokio::test]
async fn mediated_device_is_offered_by_its_type() {
    let node = Node::with_eight_gpus().unwrap();
    let types = "sys/devices/pci0000:00/0000:1b:00.0/mdev_supported_types";
    for (uuid, kind, group) in [
        ("83b8f4f2-509f-382f-3c1e-e6bfe0fa1001", "nvidia-222", 70),
        ("83b8f4f2-509f-382f-3c1e-e6bfe0fa1002", "nvidia-223", 71),
    ] {
        let (uuid, kind, parent) = (uuid.to_owned(), kind.to_owned(), GPU.to_owned());
        node.add_mdev(&Mdev { uuid, parent, kind, group, cdev: Some(group) }).unwrap();
    }
    node.write(&format!("{types}/nvidia-222/name"), "GRID T4-1Q\n").unwrap();
    let kubelet = kubelet(&node).await;
    let _serve = Serve::start(&node, &[]);
    let uuid = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
    expect(&kubelet, "both types", |state| {
        health(state, "nvidia.com/GRID_T4-1Q", uuid) == Some(true)
            && state.capacity("nvidia.com/nvidia-223").allocatable == 1
    })
    .await;
    let (envs, paths) = allocate(&kubelet, "nvidia.com/GRID_T4-1Q", uuid).await;
    assert_eq!(envs, [("MDEV_PCI_RESOURCE_NVIDIA_COM_GRID_T4-1Q".to_owned(), uuid.to_owned())]);
    assert_eq!(paths, ["/dev/vfio/vfio", "/dev/vfio/70"]);
}

#[tokio::test]
async fn virtual_function_is_offered_by_its_vgpu_type_only() {
    let node = Node::with_eight_gpus().unwrap();
    for (function, kind) in [(4, "1414"), (5, "1428"), (6, "0")] {
        let address = format!("0000:f1:00.{function}");
        node.add(Function {
            physfn: Some(GPU.into()),
            driver: Some("nvidia".into()),
            ..Function::gpu(&address, 90 + function, 1)
        })
        .unwrap();
        let directory = format!("sys/devices/pci0000:00/{address}/nvidia");
        fs::create_dir(node.root().join(&directory)).unwrap();
        node.write(&format!("{directory}/current_vgpu_type"), format!("{kind}\n")).unwrap();
        node.write(&format!("{directory}/creatable_vgpu_types"), "1414 : NVIDIA H200X-1-18C\n").unwrap();
    }
    let kubelet = kubelet(&node).await;
    let _serve = Serve::start(&node, &[]);
    expect(&kubelet, "two types", |state| {
        health(state, "nvidia.com/NVIDIA_H200X-1-18C", "0000:f1:00.4") == Some(true)
            && health(state, "nvidia.com/1428", "0000:f1:00.5") == Some(true)
            && state.capacity("nvidia.com/2330").capacity == 8
    })
    .await;
    let (envs, paths) = allocate(&kubelet, "nvidia.com/NVIDIA_H200X-1-18C", "0000:f1:00.4").await;
    assert_eq!(envs, [("PCI_RESOURCE_NVIDIA_COM_NVIDIA_H200X-1-18C".to_owned(), "0000:f1:00.4".to_owned())]);
    assert_eq!(paths, ["/dev/vfio/vfio", "/dev/vfio/94"]);
}

#[tokio::test]
async fn alias_by_id_is_for_whole_devices_and_unused_ones_are_logged() {
    let node = Node::with_eight_gpus().unwrap();
    let (uuid, other) = ("83b8f4f2-509f-382f-3c1e-e6bfe0fa1001", "83b8f4f2-509f-382f-3c1e-e6bfe0fa1002");
    for (uuid, kind, group) in [(uuid, "nvidia-222", 70), (other, "nvidia-223", 71)] {
        let (uuid, kind, parent) = (uuid.to_owned(), kind.to_owned(), GPU.to_owned());
        node.add_mdev(&Mdev { uuid, parent, kind, group, cdev: Some(group) }).unwrap();
    }
    let kubelet = kubelet(&node).await;
    let text = "pools: [{select: [{vendor: 10de}], alias: {0x2330: H100, nvidia-222: slice, 20B0: A100}}]";
    let file = write_pools(&node, text);
    let serve = Serve::start(&node, &["--pools", &file]);
    expect(&kubelet, "whole devices and slices", |state| {
        let count = |resource: &str| state.capacity(resource).allocatable;
        ["nvidia.com/H100", "nvidia.com/slice", "nvidia.com/nvidia-223"].map(count) == [8, 1, 1]
    })
    .await;
    node.unbind(OTHER).unwrap();
    expect(&kubelet, "one less", |state| state.capacity("nvidia.com/H100").capacity == 7).await;
    let (_, _, log) = serve.terminate();
    let logged: Vec<_> = log.lines().filter(|line| line.contains("alias matches no device")).collect();
    assert!(logged.len() == 1 && logged[0].contains("20B0") && logged[0].contains("pool 1"), "{log}");
    // A selector by ids selects whole devices and slices alike; a driver or a type selects one of them.
    for (driver, whole) in [("", 9), (", driver: vfio-pci", 7), (", vgpu_type: nvidia-222", 1)] {
        let text =
            format!("pools: [{{resource: a.b/whole, select: [{{vendor: 10de, device: 2330{driver}}}]}}]");
        let (_, listed, _) = run(&node, &["list", "--pools", &write_pools(&node, &text)]);
        assert_eq!(listed.matches("a.b/whole").count(), whole, "{listed}");
    }
}

#[tokio::test]
async fn vgpu_type_keeps_its_name_while_none_can_be_created() {
    let node = Node::with_eight_gpus().unwrap();
    let address = |function: u32| format!("0000:f1:00.{function}");
    let types = |function: u32, text: &str| {
        let path = format!("sys/devices/pci0000:00/{}/nvidia/creatable_vgpu_types", address(function));
        node.write(&path, text).unwrap();
    };
    for (function, kind) in [(4, "1414"), (5, "1428"), (6, "0")] {
        let function_of =
            Function { physfn: Some(GPU.into()), ..Function::gpu(&address(function), 90 + function, 1) };
        node.add(function_of.with_driver(Some("nvidia"))).unwrap();
        let directory = format!("sys/devices/pci0000:00/{}/nvidia", address(function));
        fs::create_dir(node.root().join(&directory)).unwrap();
        node.write(&format!("{directory}/current_vgpu_type"), format!("{kind}\n")).unwrap();
        types(function, "");
    }
    // Another function of the same GPU reports the name.
    types(6, "1414 : NVIDIA H200X-1-18C\n");
    let kubelet = kubelet(&node).await;
    let (small, large) = ("nvidia.com/NVIDIA_H200X-1-18C", "nvidia.com/NVIDIA_H200X-141C");
    let serve = Serve::start(&node, &[]);
    expect(&kubelet, "one by its name", |state| {
        health(state, small, &address(4)) == Some(true)
            && health(state, "nvidia.com/1428", &address(5)) == Some(true)
    })
    .await;
    types(5, "1428 : NVIDIA H200X-141C\n");
    node.unbind(OTHER).unwrap();
    expect(&kubelet, "the other by its name too", |state| {
        health(state, large, &address(5)) == Some(true) && state.capacity("nvidia.com/1428").capacity == 0
    })
    .await;
    let (_, _, log) = serve.terminate();
    assert_eq!(log.lines().filter(|line| line.contains("advertised by its number")).count(), 1, "{log}");
    types(5, "");
    types(6, "");
    let (_, listed, _) = run(&node, &["list"]);
    assert!(listed.contains(small) && listed.contains(large), "{listed}");
    let _serve = Serve::start(&node, &[]);
    expect(&kubelet, "by name after a restart", |state| {
        health(state, small, &address(4)) == Some(true) && health(state, large, &address(5)) == Some(true)
    })
    .await;
}
