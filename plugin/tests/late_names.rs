//! Names of models and vGPU types that cannot be read when the plugin starts, on a simulated node.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail loudly")]

mod common;

use common::{H100, Serve, expect, health, kubelet, wait_for_pod};
use std::fs;
use std::process::Command;
use vfio_sim_node::mdev::Mdev;
use vfio_sim_node::{Function, Node};

const GPU: &str = "0000:1b:00.0";

#[test]
fn names_are_built_in_and_a_file_overrides_them() {
    let node = Node::with_eight_gpus().unwrap();
    let listed = |words: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vfio-device-plugin"));
        command.args(["list", "--json", "--root"]).arg(node.root()).arg("--run-dir").arg(node.run_dir());
        let output = command.args(words).output().unwrap();
        let list: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        list["devices"][0]["resource"].as_str().unwrap().to_owned()
    };
    assert_eq!(listed(&[]), "nvidia.com/GH100_H100_SXM5_80GB");
    let file = node.root().join("pci.ids");
    fs::write(&file, "10de  NVIDIA Corporation\n\t2330  GH100[H100 SXM5 80GB]\n").unwrap();
    assert_eq!(listed(&["--pci-ids", file.to_str().unwrap()]), "nvidia.com/GH100H100_SXM5_80GB");
    fs::write(&file, "").unwrap();
    assert_eq!(listed(&["--pci-ids", file.to_str().unwrap()]), H100, "the file lacks the model");
}

#[test]
fn doctor_names_a_model_that_other_nodes_may_name_otherwise() {
    let node = Node::with_eight_gpus().unwrap();
    node.add(Function::gpu("0000:ef:00.0", 59, 1).with_device(0xffff)).unwrap();
    let pools = node.root().join("pools.yaml");
    let findings = |pool: &str| {
        fs::write(&pools, format!("pools:\n- select: [{{vendor: 10de}}]\n{pool}")).unwrap();
        let mut command = Command::new(env!("CARGO_BIN_EXE_vfio-device-plugin"));
        command.args(["doctor", "--json", "--root"]).arg(node.root()).arg("--run-dir").arg(node.run_dir());
        let output = command.arg("--pools").arg(&pools).output().unwrap();
        let found: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        let about = found["findings"].as_array().unwrap().iter().map(|finding| finding["about"].clone());
        about.filter(|about| about == "10de:ffff").count()
    };
    assert_eq!(findings(""), 1);
    assert_eq!(findings("  alias: {ffff: NEWEST}\n"), 0, "an alias is the same on every node");
    assert_eq!(findings("  resource: nvidia.com/GPU\n"), 0);
}

#[tokio::test]
async fn late_pci_ids_names_the_unassigned_devices() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let file = node.root().join("mount/pci.ids");
    let serve = Serve::start(&node, &["--pci-ids", file.to_str().unwrap()]);
    expect(&kubelet, "hex ids", |state| state.capacity(H100).allocatable == 8).await;
    let _pod = kubelet.admit_with("vm", H100, vec![GPU.to_owned()]).await.unwrap();
    wait_for_pod(&node, GPU, "default/vm").await;

    fs::create_dir(file.parent().unwrap()).unwrap();
    fs::write(&file, "10de  NVIDIA Corporation\n\t2330  GH100 [H100 SXM5 80GB]\n").unwrap();
    let named = "nvidia.com/GH100_H100_SXM5_80GB";
    expect(&kubelet, "names", |state| state.capacity(named).allocatable == 7).await;
    expect(&kubelet, "the pod's device stays", |state| {
        state.capacity(H100).capacity == 1 && health(state, H100, GPU) == Some(true)
    })
    .await;
    let (_, _, log) = serve.terminate();
    let failures = log.lines().filter(|line| line.contains("pci.ids could not be read"));
    assert_eq!(failures.count(), 1, "{log}");
}

#[tokio::test]
async fn unreadable_vgpu_type_gets_its_name_later() {
    let node = Node::with_eight_gpus().unwrap();
    let uuid = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
    let (kind, parent) = ("nvidia-222".to_owned(), GPU.to_owned());
    node.add_mdev(&Mdev { uuid: uuid.to_owned(), parent, kind, group: 70, cdev: Some(70) }).unwrap();
    // A directory in the file's place cannot be read.
    let name = node.root().join("sys/devices/pci0000:00/0000:1b:00.0/mdev_supported_types/nvidia-222/name");
    let _ = fs::remove_file(&name);
    fs::create_dir(&name).unwrap();
    let kubelet = kubelet(&node).await;
    let _serve = Serve::start(&node, &[]);
    expect(&kubelet, "the number", |state| health(state, "nvidia.com/nvidia-222", uuid) == Some(true)).await;
    // No device changes.
    fs::remove_dir(&name).unwrap();
    fs::write(&name, "GRID T4-1Q\n").unwrap();
    expect(&kubelet, "the name", |state| health(state, "nvidia.com/GRID_T4-1Q", uuid) == Some(true)).await;
}
