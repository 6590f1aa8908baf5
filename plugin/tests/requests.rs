//! Requests that no kubelet sends, and large ones, on a simulated node.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail loudly")]

mod common;

use common::{H100, Serve, expect, kubelet};
use tonic::Code;
use vfio_sim_node::{Function, Node};

const GPU: &str = "0000:1b:00.0";
const OTHER: &str = "0000:3d:00.0";

#[tokio::test]
async fn request_that_no_kubelet_sends_is_an_invalid_argument() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let _serve = Serve::start(&node, &[]);
    expect(&kubelet, "eight devices", |state| state.capacity(H100).allocatable == 8).await;
    let many = vec![GPU.to_owned(); 65_537];
    for (id, expected) in [
        ("gpu0", "gpu0: nvidia.com/2330 has no such device"),
        ("", ": nvidia.com/2330 has no such device"),
        ("51", "51: nvidia.com/2330 has no such device"),
        ("0000:1B:00.0", "0000:1B:00.0: nvidia.com/2330 has no such device"),
        ("0000:1b:00.0,0000:3d:00.0", "0000:1b:00.0,0000:3d:00.0: nvidia.com/2330 has no such device"),
        ("0000:09:00.0", "0000:09:00.0: nvidia.com/2330 has no such device"),
    ] {
        let status = kubelet.allocate(H100, &[&[OTHER.to_owned(), id.to_owned()]]).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, expected));
    }
    let containers = |count| vec![&[][..]; count];
    for (request, expected) in [
        (containers(5000), "the request has 5000 containers; at most 1024 are supported"),
        (vec![&many[..]], "the request has 65537 device ids; at most 65536 are supported"),
        (vec![&many[..2]], "0000:1b:00.0: the request names it twice"),
    ] {
        let status = kubelet.allocate(H100, &request).await.unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, expected));
    }
    let status = kubelet.preferred(H100, &many, &[], 1).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    // The largest number of containers, and none of them has a device.
    assert_eq!(kubelet.allocate(H100, &containers(1024)).await.unwrap().len(), 1024);
    assert_eq!(kubelet.allocate(H100, &[&[GPU.to_owned()]]).await.unwrap().len(), 1);
}

#[tokio::test]
async fn preferred_devices_leave_out_what_is_no_id() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let _serve = Serve::start(&node, &[]);
    expect(&kubelet, "eight devices", |state| state.capacity(H100).allocatable == 8).await;
    let ids = |ids: &[&str]| ids.iter().map(|&id| id.to_owned()).collect::<Vec<_>>();
    let available = ids(&["gpu0", "51", OTHER, "0000:1B:00.0", "0000:09:00.0", GPU, ""]);
    for (must_include, size, expected) in [
        (&[][..], 2, &[GPU, OTHER][..]),
        (&["gpu0"], 1, &[GPU]),
        (&["51"], 2, &["51", GPU]),
        (&["0000:09:00.0", OTHER], 3, &["0000:09:00.0", OTHER, GPU]),
        (&[], 7, &[GPU, OTHER, "0000:09:00.0", "51"]),
    ] {
        let chosen = kubelet.preferred(H100, &available, &ids(must_include), size).await.unwrap();
        assert_eq!(chosen, ids(expected), "{must_include:?} {size}");
    }
}

#[tokio::test]
async fn all_devices_of_a_large_node_are_allocated_in_one_call() {
    let node = Node::new().unwrap();
    let address = |index: u32| format!("0000:{:02x}:{:02x}.0", index >> 5, index & 31);
    for index in 0..256 {
        node.add(Function::gpu(&address(index), index, 0)).unwrap();
    }
    let kubelet = kubelet(&node).await;
    let _serve = Serve::start(&node, &[]);
    expect(&kubelet, "all devices", |state| state.capacity(H100).allocatable == 256).await;
    let ids: Vec<String> = (0..256).map(address).collect();
    let admission = kubelet.admit_with("vm", H100, ids.clone()).await.unwrap();
    assert_eq!(admission.response.envs["PCI_RESOURCE_NVIDIA_COM_2330"], ids.join(","));
    assert_eq!(admission.response.devices.len(), 257, "/dev/vfio/vfio and all groups");
    let capacity = kubelet.capacity(H100);
    assert_eq!((capacity.allocatable, capacity.requested), (256, 256));
}
