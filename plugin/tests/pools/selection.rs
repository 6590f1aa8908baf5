//! Which pool offers a device.

use crate::common::{H100, Serve, device, expect, health, kubelet, run, write_pools};
use crate::{GPU, allocate};
use std::fs;
use vfio_sim_node::{Function, Node};

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
    expect(&kubelet, "the physical function", |state| health(state, H100, physical) == Some(true)).await;
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
