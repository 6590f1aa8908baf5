//! Pools from a file: resources, selectors and backends, on a simulated node.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail loudly")]

mod common;

use common::{
    INTERVAL, Serve, assigned_pod, device, expect, health, kubelet, pools, run, wait_for_pod, with_cdev,
};
use std::fs;
use vfio_sim_node::kubelet::AdmitError;
use vfio_sim_node::mdev::Mdev;
use vfio_sim_node::{Function, Kubelet, Node, VmSpec};

const GPU: &str = "0000:1b:00.0";
const OTHER: &str = "0000:3d:00.0";

/// What Allocate answers for one device: its variables and its nodes.
async fn answer(kubelet: &Kubelet, resource: &str, id: &str) -> (Vec<(String, String)>, Vec<String>) {
    let answers = kubelet.allocate(resource, &[&[id.to_owned()]]).await.unwrap();
    let container = answers.into_iter().next().unwrap();
    let paths = container.devices.into_iter().map(|spec| {
        assert_eq!((&spec.container_path, spec.permissions.as_str()), (&spec.host_path, "mrw"));
        spec.host_path
    });
    (container.envs.into_iter().collect(), paths.collect())
}

#[tokio::test]
async fn devices_are_offered_by_the_first_pool_that_selects_them() {
    let node = Node::with_eight_gpus().unwrap();
    node.add(Function {
        driver: Some("mlx5_vfio_pci".into()),
        class: 0x02_0000,
        ..Function::new("0000:f1:00.0", 90)
    })
    .unwrap();
    let kubelet = kubelet(&node).await;
    let file = pools(
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
    expect(&kubelet, "all pools", |books| {
        let count = |resource: &str| books.capacity(resource).allocatable;
        let counts =
            ["example.com/first", "example.com/numa-1", "nvidia.com/H100", "example.com/nic"].map(count);
        counts == [1, 4, 3, 1]
    })
    .await;
    assert_eq!(health(&kubelet.state(), "example.com/first", GPU), Some(true));
    let (envs, paths) = answer(&kubelet, "example.com/first", GPU).await;
    assert_eq!(envs, [("PCI_RESOURCE_EXAMPLE_COM_FIRST".to_owned(), GPU.to_owned())]);
    assert_eq!(paths, ["/dev/vfio/vfio", "/dev/vfio/51"]);
    let (code, out, _) = run(&node, &["list", "--json", "--pools", &file]);
    assert_eq!(code, 0);
    assert!(out.contains("example.com/nic") && out.contains("nvidia.com/H100"), "{out}");
    let (_, _, log) = serve.terminate();
    let said = log.lines().filter(|line| line.contains("two pools select it")).collect::<Vec<_>>();
    assert!(said.iter().any(|line| line.contains("example.com/first and pool 3")), "{log}");
    assert!(!node.run_dir().join("types.json").exists(), "there is no vGPU");
}

#[tokio::test]
async fn a_virtual_function_is_selected_by_its_parent() {
    let node = Node::with_eight_gpus().unwrap();
    node.add(Function { sriov_numvfs: Some(1), ..Function::new("0000:f1:00.0", 90) }).unwrap();
    node.add(Function { physfn: Some("0000:f1:00.0".into()), ..Function::gpu("0000:f1:00.1", 91, 0) })
        .unwrap();
    let kubelet = kubelet(&node).await;
    let file = pools(&node, "pools: [{resource: a.b/vf, select: [{parent: \"0000:f1:00.0\"}]}]");
    let _serve = Serve::start(&node, &["--pools", &file]);
    expect(&kubelet, "the function", |books| health(books, "a.b/vf", "0000:f1:00.1") == Some(true)).await;
    assert_eq!(kubelet.state().capacity("a.b/vf").capacity, 1);
}

#[tokio::test]
async fn a_physical_function_with_virtual_ones_on_is_said_to_need_a_token() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let (physical, own) = ("0000:f1:00.0", "0000:f2:00.0");
    node.add(Function { sriov_numvfs: Some(0), ..Function::gpu(physical, 90, 0) }).unwrap();
    node.add(Function { sriov_numvfs: Some(1), ..Function::gpu(own, 92, 0) }.with_driver(Some("mlx5_core")))
        .unwrap();
    let file = pools(
        &node,
        &format!(
            "pools: [{{resource: a.b/vf, select: [{{parent: \"{physical}\"}}, {{parent: \"{own}\"}}]}}, {{select: [{{class: 0302}}]}}]"
        ),
    );
    let serve = Serve::start(&node, &["--pools", &file]);
    expect(&kubelet, "the physical function", |books| health(books, common::H100, physical) == Some(true))
        .await;
    // The kernel makes functions of what is bound already, and binds none that has some.
    node.write(&format!("sys/bus/pci/devices/{physical}/sriov_numvfs"), "2\n").unwrap();
    for (parent, address, group) in [(physical, "0000:f1:00.1", 91), (own, "0000:f2:00.1", 93)] {
        node.add(Function { physfn: Some(parent.into()), ..Function::gpu(address, group, 0) }).unwrap();
    }
    expect(&kubelet, "both functions", |books| books.capacity("a.b/vf").allocatable == 2).await;
    let note = "2 virtual functions of it are on";
    assert_eq!(device(&node, physical)["reason"], note);
    let (_, out, _) = run(&node, &["list", "--pools", &file]);
    assert!(out.lines().any(|line| line.starts_with(physical) && line.ends_with(note)), "{out}");
    // Also where the physical function itself is not offered.
    let alone = node.root().join("alone.yaml");
    fs::write(
        &alone,
        "pools: [{resource: a.b/vf, select: [{address: \"0000:f1:00.1\"}, {address: \"0000:f2:00.1\"}]}]",
    )
    .unwrap();
    for file in [&file, alone.to_str().unwrap()] {
        let (code, out, _) = run(&node, &["doctor", "--pools", file]);
        let said = out.lines().filter(|line| line.contains("with virtual functions on")).collect::<Vec<_>>();
        assert!(said.len() == 1 && said[0].contains(physical), "{out}");
        assert_eq!(code, 1, "{out}");
    }
    let (_, _, log) = serve.terminate();
    let said: Vec<_> = log.lines().filter(|line| line.contains("must give a VF token")).collect();
    assert!(said.len() == 1 && said[0].contains(physical), "{log}");
}

#[tokio::test]
async fn resources_of_one_variable_are_said_once() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let file = pools(
        &node,
        "pools:\n\
         \x20 - {resource: nvidia.com/big_gpu, select: [{numa_node: 0}]}\n\
         \x20 - {select: [{numa_node: 1}], alias: {2330: BIG.GPU}}\n",
    );
    let serve = Serve::start(&node, &["--pools", &file]);
    expect(&kubelet, "both", |books| {
        ["nvidia.com/big_gpu", "nvidia.com/BIG.GPU"].map(|name| books.capacity(name).allocatable) == [4, 4]
    })
    .await;
    node.unbind(GPU).unwrap();
    expect(&kubelet, "one less", |books| books.capacity("nvidia.com/big_gpu").capacity == 3).await;
    let (code, out, _) = run(&node, &["doctor", "--pools", &file]);
    let expected =
        "nvidia.com/big_gpu: and nvidia.com/BIG.GPU have one variable, PCI_RESOURCE_NVIDIA_COM_BIG_GPU";
    assert!(code == 1 && out.contains(expected), "{out}");
    let (_, _, log) = serve.terminate();
    let said = log.lines().filter(|line| line.contains("is told the addresses of one"));
    assert_eq!(said.filter(|line| line.contains("PCI_RESOURCE_NVIDIA_COM_BIG_GPU")).count(), 1, "{log}");
}

#[tokio::test]
async fn functions_of_a_group_go_along_and_only_what_was_asked_for_is_named() {
    let node = Node::with_eight_gpus().unwrap();
    let (gpu, audio, usb) = ("0000:f1:00.0", "0000:f1:00.1", "0000:f1:00.2");
    for (address, class) in [(gpu, 0x03_0000), (audio, 0x04_0300), (usb, 0x0c_0330)] {
        node.add(Function { class, ..Function::gpu(address, 90, 0) }.with_device(0x2684)).unwrap();
    }
    let kubelet = kubelet(&node).await;
    let file = pools(&node, "pools: [{backend: iommufd, select: [{vendor: 10de, class: 03}]}]");
    let _serve = Serve::start(&node, &["--pools", &file]);
    let resource = "nvidia.com/2684";
    expect(&kubelet, "the GPU alone", |books| {
        (books.capacity(resource).allocatable, books.capacity(resource).capacity) == (1, 1)
    })
    .await;
    let cdevs = [gpu, audio, usb].map(|address| format!("/dev/vfio/devices/{}", with_cdev(&node, address)));
    let (envs, paths) = answer(&kubelet, resource, gpu).await;
    assert_eq!(envs, [("PCI_RESOURCE_NVIDIA_COM_2684".to_owned(), gpu.to_owned())]);
    assert_eq!(paths[0], "/dev/iommu");
    assert_eq!(paths[1..], cdevs);
}

#[tokio::test]
async fn a_mediated_device_is_offered_by_its_type() {
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
    expect(&kubelet, "both types", |books| {
        health(books, "nvidia.com/GRID_T4-1Q", uuid) == Some(true)
            && books.capacity("nvidia.com/nvidia-223").allocatable == 1
    })
    .await;
    let (envs, paths) = answer(&kubelet, "nvidia.com/GRID_T4-1Q", uuid).await;
    assert_eq!(envs, [("MDEV_PCI_RESOURCE_NVIDIA_COM_GRID_T4-1Q".to_owned(), uuid.to_owned())]);
    assert_eq!(paths, ["/dev/vfio/vfio", "/dev/vfio/70"]);
}

#[tokio::test]
async fn a_virtual_function_with_a_vgpu_is_offered_by_its_type_and_one_without_is_not() {
    let node = Node::with_eight_gpus().unwrap();
    for (function, kind) in [(4, "1414"), (5, "1428"), (6, "0")] {
        let address = format!("0000:f1:00.{function}");
        node.add(Function {
            physfn: Some(GPU.into()),
            driver: Some("nvidia".into()),
            ..Function::gpu(&address, 90 + function, 1)
        })
        .unwrap();
        let folder = format!("sys/devices/pci0000:00/{address}/nvidia");
        fs::create_dir(node.root().join(&folder)).unwrap();
        node.write(&format!("{folder}/current_vgpu_type"), format!("{kind}\n")).unwrap();
        node.write(&format!("{folder}/creatable_vgpu_types"), "1414 : NVIDIA H200X-1-18C\n").unwrap();
    }
    let kubelet = kubelet(&node).await;
    let _serve = Serve::start(&node, &[]);
    expect(&kubelet, "two types", |books| {
        health(books, "nvidia.com/NVIDIA_H200X-1-18C", "0000:f1:00.4") == Some(true)
            && health(books, "nvidia.com/1428", "0000:f1:00.5") == Some(true)
            && books.capacity("nvidia.com/2330").capacity == 8
    })
    .await;
    let (envs, paths) = answer(&kubelet, "nvidia.com/NVIDIA_H200X-1-18C", "0000:f1:00.4").await;
    assert_eq!(envs, [("PCI_RESOURCE_NVIDIA_COM_NVIDIA_H200X-1-18C".to_owned(), "0000:f1:00.4".to_owned())]);
    assert_eq!(paths, ["/dev/vfio/vfio", "/dev/vfio/94"]);
}

#[tokio::test]
async fn an_alias_by_id_is_of_whole_devices_and_one_that_names_nothing_is_said() {
    let node = Node::with_eight_gpus().unwrap();
    let (uuid, other) = ("83b8f4f2-509f-382f-3c1e-e6bfe0fa1001", "83b8f4f2-509f-382f-3c1e-e6bfe0fa1002");
    for (uuid, kind, group) in [(uuid, "nvidia-222", 70), (other, "nvidia-223", 71)] {
        let (uuid, kind, parent) = (uuid.to_owned(), kind.to_owned(), GPU.to_owned());
        node.add_mdev(&Mdev { uuid, parent, kind, group, cdev: Some(group) }).unwrap();
    }
    let kubelet = kubelet(&node).await;
    let text = "pools: [{select: [{vendor: 10de}], alias: {0x2330: H100, nvidia-222: slice, 20B0: A100}}]";
    let file = pools(&node, text);
    let serve = Serve::start(&node, &["--pools", &file]);
    expect(&kubelet, "whole ones and slices", |books| {
        let count = |resource: &str| books.capacity(resource).allocatable;
        ["nvidia.com/H100", "nvidia.com/slice", "nvidia.com/nvidia-223"].map(count) == [8, 1, 1]
    })
    .await;
    node.unbind(OTHER).unwrap();
    expect(&kubelet, "one less", |books| books.capacity("nvidia.com/H100").capacity == 7).await;
    let (_, _, log) = serve.terminate();
    let said: Vec<_> = log.lines().filter(|line| line.contains("has this name or id")).collect();
    assert!(said.len() == 1 && said[0].contains("20B0") && said[0].contains("pool 1"), "{log}");
    // To a selector by ids they are one; the driver tells them apart.
    for (driver, whole) in [("", 9), (", driver: vfio-pci", 7), (", vgpu_type: nvidia-222", 1)] {
        let text =
            format!("pools: [{{resource: a.b/whole, select: [{{vendor: 10de, device: 2330{driver}}}]}}]");
        let (_, listed, _) = run(&node, &["list", "--pools", &pools(&node, &text)]);
        assert_eq!(listed.matches("a.b/whole").count(), whole, "{listed}");
    }
}

#[tokio::test]
async fn a_type_keeps_its_name_while_no_more_of_it_can_be_made() {
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
        let folder = format!("sys/devices/pci0000:00/{}/nvidia", address(function));
        fs::create_dir(node.root().join(&folder)).unwrap();
        node.write(&format!("{folder}/current_vgpu_type"), format!("{kind}\n")).unwrap();
        types(function, "");
    }
    // Another function of the GPU knows it.
    types(6, "1414 : NVIDIA H200X-1-18C\n");
    let kubelet = kubelet(&node).await;
    let (small, large) = ("nvidia.com/NVIDIA_H200X-1-18C", "nvidia.com/NVIDIA_H200X-141C");
    let serve = Serve::start(&node, &[]);
    expect(&kubelet, "one by its name", |books| {
        health(books, small, &address(4)) == Some(true)
            && health(books, "nvidia.com/1428", &address(5)) == Some(true)
    })
    .await;
    types(5, "1428 : NVIDIA H200X-141C\n");
    node.unbind(OTHER).unwrap();
    expect(&kubelet, "the other by its name too", |books| {
        health(books, large, &address(5)) == Some(true) && books.capacity("nvidia.com/1428").capacity == 0
    })
    .await;
    let (_, _, log) = serve.terminate();
    assert_eq!(log.lines().filter(|line| line.contains("goes by its number")).count(), 1, "{log}");
    types(5, "");
    types(6, "");
    let (_, listed, _) = run(&node, &["list"]);
    assert!(listed.contains(small) && listed.contains(large), "{listed}");
    let _serve = Serve::start(&node, &[]);
    expect(&kubelet, "by name after a restart", |books| {
        health(books, small, &address(4)) == Some(true) && health(books, large, &address(5)) == Some(true)
    })
    .await;
}

#[tokio::test]
async fn the_backend_decides_over_the_nodes_and_only_those_that_exist_are_given() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let file = pools(
        &node,
        "pools:\n\
         \x20 - {resource: a.b/cdev, backend: iommufd, select: [{address: \"0000:1b:00.0\"}, {address: \"0000:3d:00.0\"}]}\n\
         \x20 - {resource: a.b/both, backend: both, select: [{address: \"0000:4e:00.0\"}]}\n\
         \x20 - {resource: a.b/auto, select: [{address: \"0000:5f:00.0\"}]}\n",
    );
    let serve = Serve::start(&node, &["--pools", &file]);
    expect(&kubelet, "all pools", |books| {
        ["a.b/cdev", "a.b/both", "a.b/auto"].map(|resource| books.capacity(resource).allocatable) == [2, 1, 1]
    })
    .await;
    // The class entry is there, its node is not: a kernel without CONFIG_VFIO_DEVICE_CDEV.
    assert_eq!(answer(&kubelet, "a.b/cdev", OTHER).await.1, ["/dev/vfio/vfio", "/dev/vfio/52"]);
    let cdev = format!("/dev/vfio/devices/{}", with_cdev(&node, GPU));
    assert_eq!(answer(&kubelet, "a.b/cdev", GPU).await.1, ["/dev/iommu", &cdev]);
    let cdev = format!("/dev/vfio/devices/{}", with_cdev(&node, "0000:4e:00.0"));
    let all = ["/dev/vfio/vfio", "/dev/vfio/53", "/dev/iommu", &cdev];
    assert_eq!(answer(&kubelet, "a.b/both", "0000:4e:00.0").await.1, all);
    with_cdev(&node, "0000:5f:00.0");
    assert_eq!(answer(&kubelet, "a.b/auto", "0000:5f:00.0").await.1, ["/dev/vfio/vfio", "/dev/vfio/54"]);
    let (_, _, log) = serve.terminate();
    let warned: Vec<_> = log.lines().filter(|line| line.contains("others are given")).collect();
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
    let file = pools(&node, &text("unhealthy"));
    // What the pools do not say is the command line's.
    let _serve = Serve::start(&node, &["--pools", &file, "--busy", "attributed"]);
    expect(&kubelet, "all pools", |books| {
        ["a.b/plain", "a.b/own", "a.b/all"].map(|resource| books.capacity(resource).allocatable) == [1, 1, 4]
    })
    .await;
    // A pod's machine in each of the first two, of which one does not ask whose it is.
    let mut machines = Vec::new();
    for (resource, address) in [("a.b/plain", GPU), ("a.b/own", OTHER)] {
        let pod = kubelet.admit_with(resource, resource, vec![address.to_owned()]).await.unwrap();
        machines.push(node.start_vm(&VmSpec::of_pod(&pod.pod_uid, &pod.devices)).unwrap());
    }
    expect(&kubelet, "held", |books| health(books, "a.b/plain", GPU) == Some(false)).await;
    let third = "0000:9b:00.0";
    machines.push(node.start_vm(&VmSpec::foreign(&[third])).unwrap());
    let deadline = std::time::Instant::now() + common::PATIENCE;
    while device(&node, third)["state"] != "held"
        || assigned_pod(&device(&node, OTHER)).as_deref() != Some("default/a.b/own")
    {
        assert!(std::time::Instant::now() < deadline, "{}", device(&node, third));
    }
    // Longer than it takes to settle.
    tokio::time::sleep(INTERVAL * 5).await;
    assert_eq!(health(&kubelet.state(), "a.b/own", OTHER), Some(true), "a pod's");
    assert_eq!(health(&kubelet.state(), "a.b/all", third), Some(true), "advertised");
    let (envs, _) = answer(&kubelet, "a.b/all", third).await;
    assert_ne!(envs[0].1, third, "another one of the pool in its place");

    // A pod's device stays in its resource, and the policy for it is the new one.
    pools(&node, &text("attributed"));
    expect(&kubelet, "the new policy", |books| health(books, "a.b/plain", GPU) == Some(true)).await;
    // Where nothing is substituted, what is held is refused.
    machines.drain(..1);
    pools(&node, &text("attributed").replace(", busy_allocate: substitute", ""));
    let deadline = std::time::Instant::now() + common::PATIENCE;
    loop {
        match kubelet.admit_with("again", "a.b/all", vec![third.to_owned()]).await {
            Err(AdmitError::Refused(status)) if status.message().contains("is held by pid") => break,
            other => assert!(std::time::Instant::now() < deadline, "{other:?}"),
        }
    }
}

/// What Allocate answers for several devices of one container: its nodes.
async fn nodes_of(kubelet: &Kubelet, resource: &str, ids: &[&str]) -> Vec<String> {
    let ids: Vec<String> = ids.iter().map(|&id| id.to_owned()).collect();
    let answers = kubelet.allocate(resource, &[&ids]).await.unwrap();
    answers[0].devices.iter().map(|spec| spec.host_path.clone()).collect()
}

#[tokio::test]
async fn extended_memory_goes_with_all_of_its_gpus() {
    let node = Node::new().unwrap();
    let superchips = ["0008:01:00.0", "0009:01:00.0", "0018:01:00.0"];
    for (index, address) in superchips.into_iter().enumerate() {
        let gpu = Function::gpu(address, 60 + u32::try_from(index).unwrap(), 0);
        node.add(gpu.with_device(0x2342).with_driver(Some("nvgrace_gpu_vfio_pci"))).unwrap();
    }
    let [first, second, third] = superchips;
    let memory = |name: &str, gpus: &[&str]| {
        let folder = node.root().join("sys/class/egm").join(name);
        fs::create_dir_all(&folder).unwrap();
        fs::write(folder.join("gpu_devices"), gpus.join("\n") + "\n").unwrap();
        fs::write(folder.join("dev"), "510:0\n").unwrap();
    };
    let kubelet = kubelet(&node).await;
    let serve = Serve::start(&node, &[]);
    let gh200 = "nvidia.com/2342";
    expect(&kubelet, "all", |books| books.capacity(gh200).allocatable == 3).await;
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
    // Two containers have each a part of it: neither has the memory.
    let apart = kubelet.allocate(gh200, &[&[first.to_owned()], &[second.to_owned()]]).await.unwrap();
    assert!(apart.iter().all(|container| container.devices.len() == 2), "{apart:?}");
    let (_, _, log) = serve.terminate();
    assert!(log.contains("extended memory is left out") && log.contains("egm6"), "{log}");
}

/// A kernel with nodes for groups and nothing to use them by (neither CONFIG_VFIO_CONTAINER nor IOMMUFD in its place).
#[tokio::test]
async fn groups_without_a_container_are_given_by_their_devices_nodes() {
    let node = Node::new().unwrap().with_cdevs().unwrap();
    node.add_eight_gpus().unwrap();
    node.delete("dev/vfio/vfio").unwrap();
    let kubelet = kubelet(&node).await;
    let _serve = Serve::start(&node, &[]);
    expect(&kubelet, "all", |books| books.capacity("nvidia.com/2330").allocatable == 8).await;
    let paths = answer(&kubelet, "nvidia.com/2330", GPU).await.1;
    assert_eq!(paths, ["/dev/iommu", "/dev/vfio/devices/vfio0"]);
}

/// As a ConfigMap is replaced: another folder behind a link, which is renamed over the old one.
fn swap(node: &Node, version: &str, text: &str) -> String {
    let folder = node.root().join("config");
    fs::create_dir_all(folder.join(version)).unwrap();
    fs::write(folder.join(version).join("pools.yaml"), text).unwrap();
    std::os::unix::fs::symlink(version, folder.join("..data_tmp")).unwrap();
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).unwrap();
    folder.join("..data/pools.yaml").to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_changed_file_is_taken_in_and_what_pods_have_stays_where_it_was_given() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let file = swap(&node, "1", "pools: [{resource: a.b/old, select: [{vendor: 10de}]}]");
    let serve = Serve::start(&node, &["--pools", &file]);
    expect(&kubelet, "the old pool", |books| books.capacity("a.b/old").allocatable == 8).await;
    let pod = kubelet.admit_with("vm", "a.b/old", vec![GPU.to_owned()]).await.unwrap();
    wait_for_pod(&node, GPU, "default/vm").await;

    swap(&node, "2", "pools: [{resource: a.b/new, select: [{vendor: 10de}]}]");
    expect(&kubelet, "the new pool", |books| books.capacity("a.b/new").allocatable == 7).await;
    expect(&kubelet, "the pod's device", |books| books.capacity("a.b/old").capacity == 1).await;
    assert_eq!(health(&kubelet.state(), "a.b/old", GPU), Some(true));
    assert_eq!(kubelet.state().capacity("a.b/old").left(), 0, "allocatable - requested");

    swap(&node, "3", "pools:\n  - resource: a.b/broken\n");
    tokio::time::sleep(INTERVAL * 3).await;
    assert_eq!(kubelet.state().capacity("a.b/new").allocatable, 7, "a broken file changes nothing");

    // A list that names no pod is no answer, so that one stays.
    let _other = kubelet.admit_with("other", "a.b/new", vec![OTHER.to_owned()]).await.unwrap();
    kubelet.remove(&pod.pod_uid);
    expect(&kubelet, "the pod has ended", |books| {
        books.capacity("a.b/new").allocatable == 8 && books.capacity("a.b/old").capacity == 0
    })
    .await;
    let (_, _, log) = serve.terminate();
    let warned = log
        .lines()
        .filter(|line| line.contains("those from before stay") && line.contains("line 2: missing field"));
    assert_eq!(warned.count(), 1, "{log}");
}

#[tokio::test]
async fn what_pods_have_stays_where_it_was_given_over_a_restart_with_another_file() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let all = pools(&node, "pools: [{resource: a.b/old, select: [{vendor: 10de}]}]");
    let serve = Serve::start(&node, &["--pools", &all]);
    expect(&kubelet, "the old pool", |books| books.capacity("a.b/old").allocatable == 8).await;
    let mut pods = Vec::new();
    for (name, id) in [("one", GPU), ("two", OTHER)] {
        pods.push(kubelet.admit_with(name, "a.b/old", vec![id.to_owned()]).await.unwrap());
        wait_for_pod(&node, id, &format!("default/{name}")).await;
    }
    drop(serve);
    // The second one is in no pool any more.
    let some =
        "pools: [{resource: a.b/new, select: [{vendor: 10de, numa_node: 1}, {address: \"0000:1b:00.0\"}]}]";
    pools(&node, some);
    let _serve = Serve::start(&node, &["--pools", &all]);
    expect(&kubelet, "the new pool", |books| books.capacity("a.b/new").allocatable == 4).await;
    expect(&kubelet, "the pods' devices", |books| {
        [GPU, OTHER].map(|id| health(books, "a.b/old", id)) == [Some(true); 2]
    })
    .await;
    assert_eq!(kubelet.state().capacity("a.b/old").left(), 0, "allocatable - requested");
    let _third = kubelet.admit_with("three", "a.b/new", vec!["0000:9b:00.0".to_owned()]).await.unwrap();
    for pod in &pods {
        kubelet.remove(&pod.pod_uid);
    }
    expect(&kubelet, "the pods have ended", |books| {
        books.capacity("a.b/new").allocatable == 5 && books.capacity("a.b/old").capacity == 0
    })
    .await;
}

#[test]
fn a_bad_file_ends_with_64_its_line_and_what_was_expected() {
    let node = Node::new().unwrap();
    let file = pools(&node, "pools:\n  - resource: GPU\n    select: [{}]\n");
    for command in ["serve", "list", "doctor"] {
        let (code, out, error) = run(&node, &[command, "--pools", &file]);
        assert_eq!((code, out.as_str()), (64, ""), "{command}");
        let expected = format!(
            "vfio-device-plugin: {file}: line 2: \"GPU\": expected a resource that the kubelet takes"
        );
        assert!(error.starts_with(&expected), "{error}");
    }
    let (code, _, error) = run(&node, &["list", "--pools", "/nowhere/pools.yaml"]);
    assert_eq!(code, 64);
    assert!(error.contains("/nowhere/pools.yaml: No such file"), "{error}");
}

#[test]
fn a_flag_goes_before_a_variable_and_an_empty_variable_is_none() {
    let node = Node::with_eight_gpus().unwrap();
    let file = pools(&node, "pools: [{resource: a.b/c, select: [{}]}]");
    let (select, pools) = ("VFIO_DEVICE_PLUGIN_SELECT", "VFIO_DEVICE_PLUGIN_POOLS");
    let (of_pools, of_models) = ((0, "a.b/c"), (0, common::H100));
    let none = (0, "No selected device");
    for (words, variables, (code, says)) in [
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
        // Before the command and after it.
        for at in [0, 1] {
            let mut all = words.to_vec();
            all.insert(if at == 0 { 0 } else { all.len() }, "list");
            let output = common::program(&node, &all).envs(variables.iter().copied()).output().unwrap();
            let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
            assert_eq!(output.status.code(), Some(code), "{all:?} {variables:?}: {text}");
            assert!(text.contains(says), "{all:?} {variables:?}: {text}");
        }
    }
}

#[tokio::test]
async fn a_file_that_is_broken_later_is_said_beside_what_serve_tells() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let file =
        pools(&node, "pools: [{resource: a.b/one, select: [{numa_node: 0}]}, {select: [{numa_node: 1}]}]");
    let _serve = Serve::start(&node, &["--pools", &file]);
    expect(&kubelet, "both pools", |books| {
        ["a.b/one", common::H100].map(|resource| books.capacity(resource).allocatable) == [4, 4]
    })
    .await;
    // Of one of another pool the listing must say nothing.
    node.add(Function { class: 0x02_0000, ..Function::gpu("0000:f1:00.0", 90, -1) }).unwrap();
    let (_, before, _) = run(&node, &["list", "--pools", &file]);
    assert_eq!(run(&node, &["doctor", "--pools", &file]).0, 0);
    pools(&node, "pools:\n  - resource: a.b/one\n    selekt: []\n");
    let (code, out, error) = run(&node, &["list", "--pools", &file]);
    assert_eq!((code, &out), (0, &before), "{error}");
    let expected = format!("{file}: line 3: unknown field `selekt`");
    assert!(error.contains(&expected) && error.contains("of the running serve"), "{error}");
    let (code, out, _) = run(&node, &["doctor", "--pools", &file]);
    assert!(code == 2 && out.contains(&format!("{file}: is not understood: line 3: unknown field")), "{out}");
}
