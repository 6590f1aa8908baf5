//! Reads the devices of a pod as Kata's runtime does before it starts the VM, from the rules in docs/consumers.md.

use crate::common::{Serve, add_cdev, cdi_dir, expect, kubelet, write_pools};
use crate::{GPU, OTHER};
use kubelet_api::podresources::GetPodResourcesRequest;
use kubelet_api::podresources::pod_resources_lister_client::PodResourcesListerClient;
use serde_json::Value;
use std::fs;
use tonic::transport::Endpoint;
use vfio_sim_node::Node;

/// Returns the CDI names of a pod's devices: the resource and the device's id, each name once (`getDeviceSpec`).
async fn names(node: &Node, pod: &str) -> Vec<String> {
    let socket = format!("unix://{}", node.pod_resources_socket().display());
    let channel = Endpoint::from_shared(socket).unwrap().connect().await.unwrap();
    let request = GetPodResourcesRequest { pod_name: pod.to_owned(), pod_namespace: "default".to_owned() };
    let answer = PodResourcesListerClient::new(channel).get(request).await.unwrap().into_inner();
    let mut names = Vec::new();
    for devices in
        answer.pod_resources.unwrap().containers.into_iter().flat_map(|container| container.devices)
    {
        for id in devices.device_ids {
            let name = format!("{}={id}", devices.resource_name);
            if !names.contains(&name) {
                names.push(name);
            }
        }
    }
    names
}

/// Returns the device nodes that a CDI name stands for, in all specs (`InjectCDIDevices`). None for a name that no spec has:
/// the VM does not start.
fn nodes(node: &Node, name: &str) -> Option<Vec<String>> {
    let (kind, device) = name.split_once('=').unwrap();
    let specs = fs::read_dir(cdi_dir(node)).unwrap().flatten();
    let specs = specs.map(|file| serde_json::from_slice::<Value>(&fs::read(file.path()).unwrap()).unwrap());
    let spec = specs.into_iter().find(|spec| spec["kind"] == kind)?;
    let devices = spec["devices"].as_array().unwrap().clone();
    let device = devices.into_iter().find(|entry| entry["name"] == device)?;
    // The library applies the edits of the whole spec with those of the device.
    let edits = [&spec, &device].map(|part| part["containerEdits"]["deviceNodes"].as_array().cloned());
    let edits = edits.into_iter().flatten().flatten();
    Some(edits.map(|edit| edit["path"].as_str().unwrap().to_owned()).collect())
}

/// Starts a node whose pool with these keys has two GPUs, admits a pod with both, and returns the nodes that Kata finds for
/// each.
async fn found(pool: &str) -> (Node, Vec<Option<Vec<String>>>) {
    let node = Node::with_eight_gpus().unwrap();
    for device in [GPU, OTHER] {
        add_cdev(&node, device);
    }
    let select = [GPU, OTHER].map(|id| format!("{{address: \"{id}\"}}")).join(", ");
    let file = write_pools(&node, &format!("pools: [{{cdi: devices, select: [{select}], {pool}}}]"));
    let kubelet = kubelet(&node).await;
    let _serve = Serve::start(&node, &["--pools", &file]);
    let offered = |state: &vfio_sim_node::kubelet::KubeletState| {
        state.resources.values().any(|resource| resource.devices.len() == 2)
    };
    expect(&kubelet, "two", offered).await;
    let resource = kubelet.state().resources.keys().next().unwrap().clone();
    kubelet.admit("sandbox", &resource, 2).await.unwrap();
    let names = names(&node, "sandbox").await;
    assert_eq!(names.len(), 2, "{names:?}");
    let found = names.iter().map(|name| nodes(&node, name)).collect();
    (node, found)
}

#[tokio::test]
async fn pod_resources_name_a_device_of_the_spec() {
    let (_node, found) = found("resource: nvidia.com/pgpu, backend: legacy").await;
    let expected =
        [51, 52].map(|group| Some(vec!["/dev/vfio/vfio".to_owned(), format!("/dev/vfio/{group}")]));
    assert_eq!(found, expected);
}

#[tokio::test]
async fn iommufd_device_has_one_cdev_and_no_group() {
    let (node, found) = found("resource: nvidia.com/pgpu, backend: iommufd").await;
    for (device, nodes) in [GPU, OTHER].into_iter().zip(found) {
        let directory = node.root().join("sys/bus/pci/devices").join(device).join("vfio-dev");
        let cdev = fs::read_dir(directory).unwrap().flatten().next().unwrap().file_name();
        let cdev = format!("/dev/vfio/devices/{}", cdev.to_str().unwrap());
        assert_eq!(nodes, Some(vec!["/dev/iommu".to_owned(), cdev]));
    }
}

#[tokio::test]
async fn resource_that_is_no_cdi_kind_is_not_found() {
    // The limitation in docs/pools.md: a hex id begins with a digit, so the spec has another kind.
    let (_node, found) = found("backend: legacy").await;
    assert_eq!(found, [None, None]);
}
