//! The DRA driver and the device plugin on a simulated node, with both sides of the kubelet and an API server.

#![cfg(feature = "dra")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail loudly")]
#![allow(unreachable_pub, missing_docs, reason = "helpers of one test program")]

#[path = "../common/mod.rs"]
mod common;
mod leftovers;
mod migration;
mod pools;
mod shown;
mod waits;

use common::{Serve, kubelet};
use std::path::PathBuf;
use vfio_sim_node::dra::{ApiServer, DraKubelet};
use vfio_sim_node::{Kubelet, Node};

const GPU: &str = "0000:1b:00.0";
/// The GPU's name in a slice.
const GPU_NAME: &str = "pci-0000-1b-00-0";
const SECOND: &str = "0000:3d:00.0";

/// Returns the kubelet's root directory.
fn root(node: &Node) -> PathBuf {
    node.root().join("kubelet-root")
}

/// A node with eight GPUs, its kubelet, and the API server.
struct World {
    node: Node,
    kubelet: Kubelet,
    api: ApiServer,
}

impl World {
    async fn new() -> Self {
        let node = Node::with_eight_gpus().unwrap();
        std::fs::create_dir_all(root(&node).join("plugins_registry")).unwrap();
        let kubelet = kubelet(&node).await;
        Self { node, kubelet, api: ApiServer::start() }
    }

    /// Returns the options of the driver.
    fn options(&self) -> Vec<String> {
        let root = root(&self.node).to_str().unwrap().to_owned();
        self.node.write("kubeconfig", self.api.kubeconfig()).unwrap();
        let kubeconfig = self.node.root().join("kubeconfig").to_str().unwrap().to_owned();
        ["--node", "node-1", "--kubeconfig", &kubeconfig, "--kubelet-root", &root].map(str::to_owned).into()
    }

    /// Starts `serve` with the options of the driver and more.
    fn serve(&self, words: &[&str]) -> Serve {
        let options = self.options();
        let all: Vec<&str> = options.iter().map(String::as_str).chain(words.iter().copied()).collect();
        Serve::start(&self.node, &all)
    }

    /// Waits for the driver, and registers it.
    async fn register(&self) -> DraKubelet {
        DraKubelet::register(&root(&self.node)).await
    }

    /// Starts `serve --offer dra`, and waits until all devices are published.
    async fn offered(&self) -> (Serve, DraKubelet) {
        self.offered_with(&[]).await
    }

    /// Does the same with more options.
    async fn offered_with(&self, words: &[&str]) -> (Serve, DraKubelet) {
        let serve = self.serve(&[&["--offer", "dra"], words].concat());
        let driver = self.register().await;
        self.api.expect("eight devices", |devices| devices.len() == 8).await;
        (serve, driver)
    }

    /// Runs a command to its end, with the options of the driver.
    fn run(&self, words: &[&str]) -> (i32, String, String) {
        let options = self.options();
        let all: Vec<&str> = words.iter().copied().chain(options.iter().map(String::as_str)).collect();
        common::run(&self.node, &all)
    }
}
