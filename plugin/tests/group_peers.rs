//! A function that shares the group of a GPU gets a driver of the host. The simulated node sends no uevents.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail loudly")]

mod common;

use common::{H100, Serve, expect, health, kubelet};
use vfio_sim_node::kubelet::AdmitError;
use vfio_sim_node::{Function, Kubelet, Node};

const GPU: &str = "0000:1b:00.0";
const PEER: &str = "0000:1b:00.1";

/// Starts a GPU with a peer that has no driver.
async fn with_a_peer(words: &[&str]) -> (Node, Kubelet, Serve) {
    let node = Node::new().unwrap();
    node.add(Function::gpu(GPU, 51, 0)).unwrap();
    node.add(Function::new(PEER, 51)).unwrap();
    let kubelet = kubelet(&node).await;
    let serve = Serve::start(&node, words);
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 1).await;
    (node, kubelet, serve)
}

#[tokio::test]
async fn group_that_is_no_longer_viable_is_refused_and_reported() {
    for substitute in [false, true] {
        // No pass of the monitor notices the peer before Allocate does.
        let words = ["--interval", "1h", "--busy-allocate", if substitute { "substitute" } else { "reject" }];
        let (node, kubelet, _serve) = with_a_peer(&words).await;
        node.bind(PEER, "snd_hda_intel").unwrap();
        let error = kubelet.admit_with("vm-1", H100, vec![GPU.to_owned()]).await.unwrap_err();
        let AdmitError::Refused(status) = error else { panic!("{error:?}") };
        let expected = "group 51 is not viable: 0000:1b:00.1 is bound to snd_hda_intel";
        assert!(status.message().contains(expected), "{status:?}");
        assert_eq!(health(&kubelet.state(), H100, GPU), Some(false), "the refusal waits for the list");
    }
}

#[tokio::test]
async fn peer_is_noticed_without_an_allocate() {
    let (node, kubelet, _serve) = with_a_peer(&[]).await;
    node.bind(PEER, "snd_hda_intel").unwrap();
    expect(&kubelet, "Unhealthy", |state| health(state, H100, GPU) == Some(false)).await;
    node.unbind(PEER).unwrap();
    expect(&kubelet, "Healthy", |state| health(state, H100, GPU) == Some(true)).await;
}
