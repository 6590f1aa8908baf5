//! The device nodes that Allocate returns.

use crate::common::{Serve, add_cdev, expect, kubelet, write_pools};
use crate::{GPU, OTHER, allocate};
use std::fs;
use vfio_sim_node::{Function, Kubelet, Node};

#[tokio::test]
async fn group_peers_get_nodes_and_only_the_request_is_named() {
    let node = Node::with_eight_gpus().unwrap();
    let (gpu, audio, usb) = ("0000:f1:00.0", "0000:f1:00.1", "0000:f1:00.2");
    for (address, class) in [(gpu, 0x03_0000), (audio, 0x04_0300), (usb, 0x0c_0330)] {
        node.add(Function { class, ..Function::gpu(address, 90, 0) }.with_device(0x2684)).unwrap();
    }
    let kubelet = kubelet(&node).await;
    let file = write_pools(&node, "pools: [{backend: iommufd, select: [{vendor: 10de, class: 03}]}]");
    let _serve = Serve::start(&node, &["--pools", &file]);
    let resource = "nvidia.com/2684";
    expect(&kubelet, "the GPU alone", |state| {
        (state.capacity(resource).allocatable, state.capacity(resource).capacity) == (1, 1)
    })
    .await;
    let cdevs = [gpu, audio, usb].map(|address| format!("/dev/vfio/devices/{}", add_cdev(&node, address)));
    let (envs, paths) = allocate(&kubelet, resource, gpu).await;
    assert_eq!(envs, [("PCI_RESOURCE_NVIDIA_COM_2684".to_owned(), gpu.to_owned())]);
    assert_eq!(paths[0], "/dev/iommu");
    assert_eq!(paths[1..], cdevs);
}

#[tokio::test]
async fn backend_selects_nodes_among_those_that_exist() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let file = write_pools(
        &node,
        "pools:\n\
         \x20 - {resource: a.b/cdev, backend: iommufd, select: [{address: \"0000:1b:00.0\"}, {address: \"0000:3d:00.0\"}]}\n\
         \x20 - {resource: a.b/both, backend: both, select: [{address: \"0000:4e:00.0\"}]}\n\
         \x20 - {resource: a.b/auto, select: [{address: \"0000:5f:00.0\"}]}\n",
    );
    let serve = Serve::start(&node, &["--pools", &file]);
    expect(&kubelet, "all pools", |state| {
        ["a.b/cdev", "a.b/both", "a.b/auto"].map(|resource| state.capacity(resource).allocatable) == [2, 1, 1]
    })
    .await;
    // A kernel without CONFIG_VFIO_DEVICE_CDEV: sysfs has the entry of the class, and there is no device
    // node.
    assert_eq!(allocate(&kubelet, "a.b/cdev", OTHER).await.1, ["/dev/vfio/vfio", "/dev/vfio/52"]);
    let cdev = format!("/dev/vfio/devices/{}", add_cdev(&node, GPU));
    assert_eq!(allocate(&kubelet, "a.b/cdev", GPU).await.1, ["/dev/iommu", &cdev]);
    let cdev = format!("/dev/vfio/devices/{}", add_cdev(&node, "0000:4e:00.0"));
    let all = ["/dev/vfio/vfio", "/dev/vfio/53", "/dev/iommu", &cdev];
    assert_eq!(allocate(&kubelet, "a.b/both", "0000:4e:00.0").await.1, all);
    add_cdev(&node, "0000:5f:00.0");
    assert_eq!(allocate(&kubelet, "a.b/auto", "0000:5f:00.0").await.1, ["/dev/vfio/vfio", "/dev/vfio/54"]);
    let (_, _, log) = serve.terminate();
    let warned: Vec<_> = log.lines().filter(|line| line.contains("allocated others")).collect();
    assert!(warned.len() == 1 && warned[0].contains(OTHER) && warned[0].contains("Iommufd"), "{log}");
}

/// Allocates several devices to one container and returns the device nodes of the response.
async fn nodes_of(kubelet: &Kubelet, resource: &str, ids: &[&str]) -> Vec<String> {
    let ids: Vec<String> = ids.iter().map(|&id| id.to_owned()).collect();
    let responses = kubelet.allocate(resource, &[&ids]).await.unwrap();
    responses[0].devices.iter().map(|spec| spec.host_path.clone()).collect()
}

#[tokio::test]
async fn extended_memory_needs_all_of_its_gpus() {
    let node = Node::new().unwrap();
    let superchips = ["0008:01:00.0", "0009:01:00.0", "0018:01:00.0"];
    for (index, address) in superchips.into_iter().enumerate() {
        let gpu = Function::gpu(address, 60 + u32::try_from(index).unwrap(), 0);
        node.add(gpu.with_device(0x2342).with_driver(Some("nvgrace_gpu_vfio_pci"))).unwrap();
    }
    let [first, second, third] = superchips;
    let memory = |name: &str, gpus: &[&str]| {
        let directory = node.root().join("sys/class/egm").join(name);
        fs::create_dir_all(&directory).unwrap();
        fs::write(directory.join("gpu_devices"), gpus.join("\n") + "\n").unwrap();
        fs::write(directory.join("dev"), "510:0\n").unwrap();
    };
    let kubelet = kubelet(&node).await;
    let serve = Serve::start(&node, &[]);
    let gh200 = "nvidia.com/2342";
    expect(&kubelet, "all", |state| state.capacity(gh200).allocatable == 3).await;
    // The module is loaded after the GPUs were bound.
    assert_eq!(nodes_of(&kubelet, gh200, &[third]).await, ["/dev/vfio/vfio", "/dev/vfio/62"]);
    memory("egm4", &[first, second]);
    memory("egm5", &[third]);
    memory("egm6", &["nonsense"]);
    assert_eq!(nodes_of(&kubelet, gh200, &[third]).await, ["/dev/vfio/vfio", "/dev/vfio/62", "/dev/egm5"]);
    let group = |number: u32| format!("/dev/vfio/{number}");
    assert_eq!(nodes_of(&kubelet, gh200, &[second]).await, ["/dev/vfio/vfio", &group(61)]);
    let both = ["/dev/vfio/vfio", &group(61), &group(60), "/dev/egm4"];
    assert_eq!(nodes_of(&kubelet, gh200, &[second, first]).await, both);
    // Each of two containers gets one of its GPUs, so neither gets the memory.
    let apart = kubelet.allocate(gh200, &[&[first.to_owned()], &[second.to_owned()]]).await.unwrap();
    assert!(apart.iter().all(|container| container.devices.len() == 2), "{apart:?}");
    let (_, _, log) = serve.terminate();
    assert!(log.contains("extended memory is left out") && log.contains("egm6"), "{log}");
}

/// A kernel with group nodes and without a container to attach them to (neither
/// CONFIG_VFIO_CONTAINER nor CONFIG_IOMMUFD_VFIO_CONTAINER).
#[tokio::test]
async fn without_a_vfio_container_cdevs_are_allocated() {
    let node = Node::new().unwrap().with_cdevs().unwrap();
    node.add_eight_gpus().unwrap();
    node.delete("dev/vfio/vfio").unwrap();
    let kubelet = kubelet(&node).await;
    let _serve = Serve::start(&node, &[]);
    expect(&kubelet, "all", |state| state.capacity("nvidia.com/2330").allocatable == 8).await;
    let paths = allocate(&kubelet, "nvidia.com/2330", GPU).await.1;
    assert_eq!(paths, ["/dev/iommu", "/dev/vfio/devices/vfio0"]);
}
