//! A kernel without group nodes (CONFIG_VFIO_GROUP=n): which devices are offered, which holders are found,
//! and what is allocated.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail loudly")]

mod common;

use common::{H100, PATIENCE, Serve, device, expect, health, kubelet, run, wait_for_pod};
use serde_json::Value;
use std::time::{Duration, Instant};
use tonic::Code;
use vfio_sim_node::kubelet::KubeletState;
use vfio_sim_node::{Hold, Kubelet, Node, VmSpec};

const GPU: &str = "0000:1b:00.0";
const OTHER: &str = "0000:3d:00.0";

/// Starts eight offered GPUs on such a kernel.
async fn offered() -> (Node, Kubelet, Serve) {
    offered_with(&[]).await
}

async fn offered_with(words: &[&str]) -> (Node, Kubelet, Serve) {
    let node = Node::new().unwrap().without_group_nodes().unwrap();
    node.add_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let serve = Serve::start(&node, words);
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 8).await;
    (node, kubelet, serve)
}

fn allocatable(state: &KubeletState) -> usize {
    state.capacity(H100).allocatable
}

#[tokio::test]
async fn pod_gets_the_cdev_and_its_vm_stays_healthy() {
    let (node, kubelet, serve) = offered().await;
    let pod = kubelet.admit_with("vm", H100, vec![GPU.to_owned()]).await.unwrap();
    let paths: Vec<_> = pod.response.devices.iter().map(|spec| spec.host_path.as_str()).collect();
    assert_eq!(paths, ["/dev/iommu", "/dev/vfio/devices/vfio0"]);
    let _vm = node.start_vm(&VmSpec::of_pod(&pod.pod_uid, &pod.devices)).unwrap();
    wait_for_pod(&node, GPU, "default/vm").await;
    let listed = device(&node, GPU);
    assert_eq!((&listed["state"], &listed["evidence"]), (&"held".into(), &"enable".into()), "{listed}");
    assert_eq!(allocatable(&kubelet.state()), 8);
    let (_, _, log) = serve.terminate();
    assert!(!log.contains("Unhealthy") && !log.contains("allocated others"), "{log}");
}

#[tokio::test]
async fn holder_is_found_by_a_peek_and_named_by_its_descriptor() {
    let (node, kubelet, _serve) = offered().await;
    let vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    expect(&kubelet, "Unhealthy", |state| health(state, H100, GPU) == Some(false)).await;
    let listed = device(&node, GPU);
    assert!(listed["reason"].as_str().unwrap().contains(&format!("held by pid {}", vm.pid())), "{listed}");
    let refused = kubelet.allocate(H100, &[&[GPU.to_owned()]]).await.unwrap_err();
    assert!(refused.message().contains(&format!("is held by pid {}", vm.pid())), "{refused}");
    vm.kill();
    expect(&kubelet, "Healthy again", |state| allocatable(state) == 8).await;

    node.delete("dev/vfio/devices/vfio1").unwrap();
    expect(&kubelet, "no node", |state| health(state, H100, OTHER) == Some(false)).await;
    assert_eq!(device(&node, OTHER)["reason"], "no device node /dev/vfio/devices/vfio1");
}

#[tokio::test]
async fn opener_of_an_unbound_cdev_is_named_by_each_command() {
    let (node, kubelet, _serve) = offered().await;
    let vm = node.start_vm(&VmSpec { hold: Hold::CdevUnbound, ..VmSpec::foreign(&[GPU]) }).unwrap();
    let (code, out, _) = run(&node, &["who", GPU, "--json"]);
    let found: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &found["holders"][0]["via"]), (0, &"cdev".into()), "{found}");
    assert_eq!(found["holders"][0]["pid"], vm.pid());
    let listed = device(&node, GPU);
    assert_eq!((&listed["state"], &listed["holders"][0]["pid"]), (&"free".into(), &vm.pid().into()));
    let (code, out, _) = run(&node, &["doctor"]);
    assert!(code == 1 && out.contains(&format!("is free, but pid {}", vm.pid())), "{out}");
    assert!(!out.contains("does not exist"), "{out}");
    // A container with /dev/vfio need not have /dev/iommu: sysfs shows that the host has it.
    node.delete("dev/iommu").unwrap();
    assert!(!run(&node, &["doctor"]).1.contains("does not exist"));
    node.delete("sys/class/misc/iommu").unwrap();
    assert!(run(&node, &["doctor"]).1.contains("/dev/iommu: does not exist"));
    // Another process can bind the device nevertheless (`vfio_df_ioctl_bind_iommufd`).
    assert_eq!(health(&kubelet.state(), H100, GPU), Some(true));
    assert!(kubelet.allocate(H100, &[&[GPU.to_owned()]]).await.is_ok());
}

#[tokio::test]
async fn reused_cdev_numbers_are_allocated_as_they_are_now() {
    let (node, kubelet, _serve) = offered().await;
    for address in [GPU, OTHER] {
        node.unbind(address).unwrap();
    }
    for address in [OTHER, GPU] {
        node.bind(address, "vfio-pci").unwrap();
    }
    let cdevs = [OTHER, GPU].map(|address| {
        let directory = node.sysfs_dir(address).join("vfio-dev");
        std::fs::read_dir(directory).unwrap().next().unwrap().unwrap().file_name().into_string().unwrap()
    });
    assert_eq!(cdevs, ["vfio0", "vfio1"]);
    // This holds whether or not the monitor has seen the change. If a pass came between unbind and bind, the device is not
    // offered until the next pass, and Allocate refuses it.
    for (address, number) in [(OTHER, 0), (GPU, 1)] {
        let ids = [address.to_owned()];
        let deadline = Instant::now() + PATIENCE;
        let response = loop {
            match kubelet.allocate(H100, &[&ids]).await {
                Ok(response) => break response,
                Err(status) => {
                    assert!(
                        status.code() == Code::InvalidArgument && Instant::now() < deadline,
                        "{status:?}"
                    );
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            }
        };
        let nodes: Vec<_> = response[0].devices.iter().map(|spec| spec.host_path.clone()).collect();
        assert_eq!(nodes, ["/dev/iommu".to_owned(), format!("/dev/vfio/devices/vfio{number}")], "{address}");
    }
}

#[tokio::test]
async fn reused_cdev_numbers_have_their_new_holder() {
    let (node, kubelet, _serve) = offered().await;
    for address in [GPU, OTHER] {
        node.unbind(address).unwrap();
    }
    for address in [OTHER, GPU] {
        node.bind(address, "vfio-pci").unwrap();
    }
    let vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    expect(&kubelet, "Unhealthy", |state| {
        health(state, H100, GPU) == Some(false) && health(state, H100, OTHER) == Some(true)
    })
    .await;
    let (code, out, _) = run(&node, &["who", GPU, "--json"]);
    assert!(code == 0 && out.contains(&vm.pid().to_string()), "{out}");
    assert_eq!(run(&node, &["who", OTHER]).0, 1);
    node.delete("dev/vfio/devices/vfio0").unwrap();
    expect(&kubelet, "no node", |state| health(state, H100, OTHER) == Some(false)).await;
    assert_eq!(device(&node, OTHER)["reason"], "no device node /dev/vfio/devices/vfio0");
}

/// Allocate peeks before the monitor's next peek and refuses because of its own.
#[tokio::test]
async fn refused_device_is_unhealthy_before_the_response() {
    let (node, kubelet, _serve) = offered_with(&["--interval", "1h"]).await;
    let vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    let refused = kubelet.allocate(H100, &[&[GPU.to_owned()]]).await.unwrap_err();
    assert!(refused.message().contains(&format!("is held by pid {}", vm.pid())), "{refused}");
    assert_eq!(health(&kubelet.state(), H100, GPU), Some(false), "sent before the response");
}

#[tokio::test]
async fn substitute_is_found_by_a_peek() {
    let (node, kubelet, _serve) =
        offered_with(&["--busy", "advertise", "--busy-allocate", "substitute"]).await;
    let _vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    // The kubelet writes its checkpoint at the first admission. Without it no device is substituted.
    let _pod = kubelet.admit_with("vm", H100, vec![OTHER.to_owned()]).await.unwrap();
    let response = kubelet.allocate(H100, &[&[GPU.to_owned()]]).await.unwrap();
    let allocated = &response[0].envs["PCI_RESOURCE_NVIDIA_COM_2330"];
    assert!(allocated != GPU && allocated != OTHER, "{allocated}");
}
