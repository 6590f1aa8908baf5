//! Pools from a file.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail loudly")]

mod common;

use common::{
    INTERVAL, Serve, add_cdev, assigned_pod, device, expect, health, kubelet, run, wait_for_pod, write_pools,
};
use std::fs;
use vfio_sim_node::kubelet::AdmitError;
use vfio_sim_node::mdev::Mdev;
use vfio_sim_node::{Function, Kubelet, Node, VmSpec};

const GPU: &str = "0000:1b:00.0";
const OTHER: &str = "0000:3d:00.0";

/// Allocates one device and returns the variables and the device nodes of the response.
async fn allocate(kubelet: &Kubelet, resource: &str, id: &str) -> (Vec<(String, String)>, Vec<String>) {
    let responses = kubelet.allocate(resource, &[&[id.to_owned()]]).await.unwrap();
    let container = responses.into_iter().next().unwrap();
    let paths = container.devices.into_iter().map(|spec| {
        assert_eq!((&spec.container_path, spec.permissions.as_str()), (&spec.host_path, "mrw"));
        spec.host_path
    });
    (container.envs.into_iter().collect(), paths.collect())
}

#[tokio::test]
async fn first_pool_that_selects_a_device_offers_it() {
    let node = Node::with_eight_gpus().unwrap();
    node.add(Function {
        driver: Some("mlx5_vfio_pci".into()),
        class: 0x02_0000,
        ..Function::new("0000:f1:00.0", 90)
    })
    .unwrap();
    let kubelet = kubelet(&node).await;
    let file = write_pools(
        &node,
        "pools:\n\
         \x20 - resource: example.com/first\n\
         \x20   select: [{address: \"0000:1b:00.0\"}]\n\
         \x20 - resource: example.com/numa-1\n\
         \x20   select: [{vendor: 10de, numa_node: 1}]\n\
         \x20 - select: [{vendor: 10de}]\n\
         \x20   alias: {2330: H100}\n\
         \x20 - resource: example.com/nic\n\
         \x20   select: [{driver: mlx5-vfio-pci, class: 02}]\n",
    );
    let serve = Serve::start(&node, &["--pools", &file]);
    expect(&kubelet, "all pools", |state| {
        let count = |resource: &str| state.capacity(resource).allocatable;
        let counts =
            ["example.com/first", "example.com/numa-1", "nvidia.com/H100", "example.com/nic"].map(count);
        counts == [1, 4, 3, 1]
    })
    .await;
    assert_eq!(health(&kubelet.state(), "example.com/first", GPU), Some(true));
    let (envs, paths) = allocate(&kubelet, "example.com/first", GPU).await;
    assert_eq!(envs, [("PCI_RESOURCE_EXAMPLE_COM_FIRST".to_owned(), GPU.to_owned())]);
    assert_eq!(paths, ["/dev/vfio/vfio", "/dev/vfio/51"]);
    let (code, out, _) = run(&node, &["list", "--json", "--pools", &file]);
    assert_eq!(code, 0);
    assert!(out.contains("example.com/nic") && out.contains("nvidia.com/H100"), "{out}");
    let (_, _, log) = serve.terminate();
    let logged = log.lines().filter(|line| line.contains("is selected by two pools")).collect::<Vec<_>>();
    assert!(logged.iter().any(|line| line.contains("example.com/first") && line.contains("pool 3")), "{log}");
    assert!(!node.run_dir().join("types.json").exists(), "no names are stored without a vGPU");
}

#[tokio::test]
async fn virtual_function_is_selected_by_its_parent() {
    let node = Node::with_eight_gpus().unwrap();
    node.add(Function { sriov_numvfs: Some(1), ..Function::new("0000:f1:00.0", 90) }).unwrap();
    node.add(Function { physfn: Some("0000:f1:00.0".into()), ..Function::gpu("0000:f1:00.1", 91, 0) })
        .unwrap();
    let kubelet = kubelet(&node).await;
    let file = write_pools(&node, "pools: [{resource: a.b/vf, select: [{parent: \"0000:f1:00.0\"}]}]");
    let _serve = Serve::start(&node, &["--pools", &file]);
    expect(&kubelet, "the function", |state| health(state, "a.b/vf", "0000:f1:00.1") == Some(true)).await;
    assert_eq!(kubelet.state().capacity("a.b/vf").capacity, 1);
}

#[tokio::test]
async fn physical_function_with_vfs_on_warns_of_the_vf_token() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let (physical, own) = ("0000:f1:00.0", "0000:f2:00.0");
    node.add(Function { sriov_numvfs: Some(0), ..Function::gpu(physical, 90, 0) }).unwrap();
    node.add(Function { sriov_numvfs: Some(1), ..Function::gpu(own, 92, 0) }.with_driver(Some("mlx5_core")))
        .unwrap();
    let file = write_pools(
        &node,
        &format!(
            "pools: [{{resource: a.b/vf, select: [{{parent: \"{physical}\"}}, {{parent: \"{own}\"}}]}}, {{select: [{{class: 0302}}]}}]"
        ),
    );
    let serve = Serve::start(&node, &["--pools", &file]);
    expect(&kubelet, "the physical function", |state| health(state, common::H100, physical) == Some(true))
        .await;
    // The kernel enables virtual functions of a bound function, and binds no function that has virtual ones
    // enabled.
    node.write(&format!("sys/bus/pci/devices/{physical}/sriov_numvfs"), "2\n").unwrap();
    for (parent, address, group) in [(physical, "0000:f1:00.1", 91), (own, "0000:f2:00.1", 93)] {
        node.add(Function { physfn: Some(parent.into()), ..Function::gpu(address, group, 0) }).unwrap();
    }
    expect(&kubelet, "both functions", |state| state.capacity("a.b/vf").allocatable == 2).await;
    let note = "2 virtual functions of it are on";
    assert_eq!(device(&node, physical)["reason"], note);
    let (_, out, _) = run(&node, &["list", "--pools", &file]);
    assert!(out.lines().any(|line| line.starts_with(physical) && line.ends_with(note)), "{out}");
    // The same holds if the physical function itself is not offered.
    let alone = node.root().join("alone.yaml");
    fs::write(
        &alone,
        "pools: [{resource: a.b/vf, select: [{address: \"0000:f1:00.1\"}, {address: \"0000:f2:00.1\"}]}]",
    )
    .unwrap();
    for file in [&file, alone.to_str().unwrap()] {
        let (code, out, _) = run(&node, &["doctor", "--pools", file]);
        let found: Vec<_> =
            out.lines().filter(|line| line.contains("while its virtual functions are enabled")).collect();
        assert!(found.len() == 1 && found[0].contains(physical), "{out}");
        assert_eq!(code, 1, "{out}");
    }
    let (_, _, log) = serve.terminate();
    let logged: Vec<_> = log.lines().filter(|line| line.contains("must pass a VF token")).collect();
    assert!(logged.len() == 1 && logged[0].contains(physical), "{log}");
}

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

#[tokio::test]
async fn each_pool_has_its_own_policy_for_held_devices() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let text = |busy: &str| {
        format!(
            "pools:\n\
             \x20 - {{resource: a.b/plain, busy: {busy}, select: [{{address: \"{GPU}\"}}]}}\n\
             \x20 - {{resource: a.b/own, select: [{{address: \"{OTHER}\"}}]}}\n\
             \x20 - {{resource: a.b/all, busy: advertise, busy_allocate: substitute, select: [{{numa_node: 1}}]}}\n"
        )
    };
    let file = write_pools(&node, &text("unhealthy"));
    // A key that a pool does not set comes from the command line.
    let _serve = Serve::start(&node, &["--pools", &file, "--busy", "attributed"]);
    expect(&kubelet, "all pools", |state| {
        ["a.b/plain", "a.b/own", "a.b/all"].map(|resource| state.capacity(resource).allocatable) == [1, 1, 4]
    })
    .await;
    // A VM of a pod in each of the first two pools. The policy of the first does not look at assignments.
    let mut vms = Vec::new();
    for (resource, address) in [("a.b/plain", GPU), ("a.b/own", OTHER)] {
        let pod = kubelet.admit_with(resource, resource, vec![address.to_owned()]).await.unwrap();
        vms.push(node.start_vm(&VmSpec::of_pod(&pod.pod_uid, &pod.devices)).unwrap());
    }
    expect(&kubelet, "held", |state| health(state, "a.b/plain", GPU) == Some(false)).await;
    let third = "0000:9b:00.0";
    vms.push(node.start_vm(&VmSpec::foreign(&[third])).unwrap());
    let deadline = std::time::Instant::now() + common::PATIENCE;
    while device(&node, third)["state"] != "held"
        || assigned_pod(&device(&node, OTHER)).as_deref() != Some("default/a.b/own")
    {
        assert!(std::time::Instant::now() < deadline, "{}", device(&node, third));
    }
    // Longer than `--settling`.
    tokio::time::sleep(INTERVAL * 5).await;
    assert_eq!(health(&kubelet.state(), "a.b/own", OTHER), Some(true), "assigned");
    assert_eq!(health(&kubelet.state(), "a.b/all", third), Some(true), "advertised");
    let (envs, _) = allocate(&kubelet, "a.b/all", third).await;
    assert_ne!(envs[0].1, third, "a substitute from the same pool");

    // An assigned device stays in its resource, and the new policy applies to it.
    write_pools(&node, &text("attributed"));
    expect(&kubelet, "the new policy", |state| health(state, "a.b/plain", GPU) == Some(true)).await;
    // Without substitution, a held device is refused.
    vms.drain(..1);
    write_pools(&node, &text("attributed").replace(", busy_allocate: substitute", ""));
    let deadline = std::time::Instant::now() + common::PATIENCE;
    loop {
        match kubelet.admit_with("again", "a.b/all", vec![third.to_owned()]).await {
            Err(AdmitError::Refused(status)) if status.message().contains("is held by pid") => break,
            other => assert!(std::time::Instant::now() < deadline, "{other:?}"),
        }
    }
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

/// Replaces the pools file as the kubelet replaces a ConfigMap: a link to a new directory is renamed over the
/// old link. Returns the path of the file.
fn replace_config_map(node: &Node, version: &str, text: &str) -> String {
    let directory = node.root().join("config");
    fs::create_dir_all(directory.join(version)).unwrap();
    fs::write(directory.join(version).join("pools.yaml"), text).unwrap();
    std::os::unix::fs::symlink(version, directory.join("..data_tmp")).unwrap();
    fs::rename(directory.join("..data_tmp"), directory.join("..data")).unwrap();
    directory.join("..data/pools.yaml").to_str().unwrap().to_owned()
}

#[tokio::test]
async fn changed_file_applies_except_to_assigned_devices() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let file = replace_config_map(&node, "1", "pools: [{resource: a.b/old, select: [{vendor: 10de}]}]");
    let serve = Serve::start(&node, &["--pools", &file]);
    expect(&kubelet, "the old pool", |state| state.capacity("a.b/old").allocatable == 8).await;
    let pod = kubelet.admit_with("vm", "a.b/old", vec![GPU.to_owned()]).await.unwrap();
    wait_for_pod(&node, GPU, "default/vm").await;

    replace_config_map(&node, "2", "pools: [{resource: a.b/new, select: [{vendor: 10de}]}]");
    expect(&kubelet, "the new pool", |state| state.capacity("a.b/new").allocatable == 7).await;
    expect(&kubelet, "the pod's device", |state| state.capacity("a.b/old").capacity == 1).await;
    assert_eq!(health(&kubelet.state(), "a.b/old", GPU), Some(true));
    assert_eq!(kubelet.state().capacity("a.b/old").left(), 0, "allocatable - requested");

    replace_config_map(&node, "3", "pools:\n  - resource: a.b/broken\n");
    tokio::time::sleep(INTERVAL * 3).await;
    assert_eq!(kubelet.state().capacity("a.b/new").allocatable, 7, "an invalid file changes nothing");

    // This pod stays: an empty list of pods is not evidence that a pod ended.
    let _other = kubelet.admit_with("other", "a.b/new", vec![OTHER.to_owned()]).await.unwrap();
    kubelet.remove(&pod.pod_uid);
    expect(&kubelet, "the pod has ended", |state| {
        state.capacity("a.b/new").allocatable == 8 && state.capacity("a.b/old").capacity == 0
    })
    .await;
    let (_, _, log) = serve.terminate();
    let warned = log
        .lines()
        .filter(|line| line.contains("the former pools stay in use") && line.contains("line 2: missing field"));
    assert_eq!(warned.count(), 1, "{log}");
}

#[tokio::test]
async fn assigned_devices_keep_their_resource_over_a_restart() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let all = write_pools(&node, "pools: [{resource: a.b/old, select: [{vendor: 10de}]}]");
    let serve = Serve::start(&node, &["--pools", &all]);
    expect(&kubelet, "the old pool", |state| state.capacity("a.b/old").allocatable == 8).await;
    let mut pods = Vec::new();
    for (name, id) in [("one", GPU), ("two", OTHER)] {
        pods.push(kubelet.admit_with(name, "a.b/old", vec![id.to_owned()]).await.unwrap());
        wait_for_pod(&node, id, &format!("default/{name}")).await;
    }
    drop(serve);
    // The second device is in no pool any more.
    let some =
        "pools: [{resource: a.b/new, select: [{vendor: 10de, numa_node: 1}, {address: \"0000:1b:00.0\"}]}]";
    write_pools(&node, some);
    let _serve = Serve::start(&node, &["--pools", &all]);
    expect(&kubelet, "the new pool", |state| state.capacity("a.b/new").allocatable == 4).await;
    expect(&kubelet, "the pods' devices", |state| {
        [GPU, OTHER].map(|id| health(state, "a.b/old", id)) == [Some(true); 2]
    })
    .await;
    assert_eq!(kubelet.state().capacity("a.b/old").left(), 0, "allocatable - requested");
    let _third = kubelet.admit_with("three", "a.b/new", vec!["0000:9b:00.0".to_owned()]).await.unwrap();
    for pod in &pods {
        kubelet.remove(&pod.pod_uid);
    }
    expect(&kubelet, "the pods have ended", |state| {
        state.capacity("a.b/new").allocatable == 5 && state.capacity("a.b/old").capacity == 0
    })
    .await;
}

#[test]
fn bad_file_exits_64_with_the_line_and_what_was_expected() {
    let node = Node::new().unwrap();
    let file = write_pools(&node, "pools:\n  - resource: GPU\n    select: [{}]\n");
    for command in ["serve", "list", "doctor"] {
        let (code, out, error) = run(&node, &[command, "--pools", &file]);
        assert_eq!((code, out.as_str()), (64, ""), "{command}");
        let expected = format!(
            "vfio-device-plugin: {file}: line 2: \"GPU\": expected a resource name that the kubelet accepts"
        );
        assert!(error.starts_with(&expected), "{error}");
    }
    let (code, _, error) = run(&node, &["list", "--pools", "/nowhere/pools.yaml"]);
    assert_eq!(code, 64);
    assert!(error.contains("/nowhere/pools.yaml: cannot be read: No such file"), "{error}");
}

#[test]
fn flag_overrides_variable_and_empty_variable_is_unset() {
    let node = Node::with_eight_gpus().unwrap();
    let file = write_pools(&node, "pools: [{resource: a.b/c, select: [{}]}]");
    let (select, pools) = ("VFIO_DEVICE_PLUGIN_SELECT", "VFIO_DEVICE_PLUGIN_POOLS");
    let (of_pools, of_models) = ((0, "a.b/c"), (0, common::H100));
    let none = (0, "No selected device");
    for (words, variables, (code, expected)) in [
        (&["--pools", &*file][..], &[][..], of_pools),
        (&["--pools", &file], &[(select, "1002")], of_pools),
        (&["--select", "10de"], &[(pools, &*file)], of_models),
        (&[], &[(pools, &file)], of_pools),
        (&[], &[(select, "1002")], none),
        (&[], &[(pools, "")], of_models),
        (&[], &[(pools, ""), (select, "1002")], none),
        (&[], &[(pools, &file), (select, "")], of_pools),
        (&[], &[(pools, ""), (select, ""), ("VFIO_DEVICE_PLUGIN_INTERVAL", "")], of_models),
        (&["--pools", &file, "--select", "10de"], &[], (64, "--select and --pools exclude each other")),
        (&["--pools", &file, "--select", "10de"], &[(pools, &file)], (64, "--select and --pools exclude")),
        (
            &[],
            &[(pools, &file), (select, "10de")],
            (64, "VFIO_DEVICE_PLUGIN_SELECT and VFIO_DEVICE_PLUGIN_POOLS"),
        ),
        (&["--pools", ""], &[], (64, "--pools")),
    ] {
        // The flags may stand before the command and after it.
        for at in [0, 1] {
            let mut all = words.to_vec();
            all.insert(if at == 0 { 0 } else { all.len() }, "list");
            let output = common::program(&node, &all).envs(variables.iter().copied()).output().unwrap();
            let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
            assert_eq!(output.status.code(), Some(code), "{all:?} {variables:?}: {text}");
            assert!(text.contains(expected), "{all:?} {variables:?}: {text}");
        }
    }
}

#[tokio::test]
async fn file_broken_later_is_reported_and_serve_is_listed() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let file = write_pools(
        &node,
        "pools: [{resource: a.b/one, select: [{numa_node: 0}]}, {select: [{numa_node: 1}]}]",
    );
    let _serve = Serve::start(&node, &["--pools", &file]);
    expect(&kubelet, "both pools", |state| {
        ["a.b/one", common::H100].map(|resource| state.capacity(resource).allocatable) == [4, 4]
    })
    .await;
    // This function is in no pool, so the commands must not list it.
    node.add(Function { class: 0x02_0000, ..Function::gpu("0000:f1:00.0", 90, -1) }).unwrap();
    let (_, before, _) = run(&node, &["list", "--pools", &file]);
    assert_eq!(run(&node, &["doctor", "--pools", &file]).0, 0);
    write_pools(&node, "pools:\n  - resource: a.b/one\n    selekt: []\n");
    let (code, out, error) = run(&node, &["list", "--pools", &file]);
    assert_eq!((code, &out), (0, &before), "{error}");
    let expected = format!("{file}: line 3: unknown field `selekt`");
    assert!(error.contains(&expected) && error.contains("of the running serve"), "{error}");
    let (code, out, _) = run(&node, &["doctor", "--pools", &file]);
    assert!(code == 2 && out.contains(&format!("{file}: cannot be used: line 3: unknown field")), "{out}");
}
