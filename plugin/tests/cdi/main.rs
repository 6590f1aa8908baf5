//! CDI specs on disk and CDI names in responses, on a simulated node.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail loudly")]

#[path = "../common/mod.rs"]
mod common;
mod library;
mod specs;

use common::{PATIENCE, cdi_dir};
use serde_json::Value;
use std::fs;
use std::time::{Duration, Instant};
use vfio_sim_node::{Kubelet, Node};

const RESOURCE: &str = "example.com/GPU";
const FILE: &str = "vfio-device-plugin_example.com_GPU.json";
const GPU: &str = "0000:1b:00.0";
const OTHER: &str = "0000:3d:00.0";

/// Returns a pools file with one pool of these devices and `more` keys.
fn pool(devices: &[&str], more: &str) -> String {
    let select: Vec<String> = devices.iter().map(|id| format!("{{address: \"{id}\"}}")).collect();
    format!("pools: [{{resource: {RESOURCE}, select: [{}], {more}}}]", select.join(", "))
}

/// Returns the spec on disk, or none if there is no file. A partial file fails the test.
fn spec(node: &Node) -> Option<Value> {
    let text = fs::read_to_string(cdi_dir(node).join(FILE)).ok()?;
    Some(serde_json::from_str(&text).unwrap_or_else(|error| panic!("{error}: {text:?}")))
}

/// Returns the names of a spec's devices.
fn names(spec: &Value) -> Vec<String> {
    let devices = spec["devices"].as_array().unwrap().iter();
    devices.map(|device| device["name"].as_str().unwrap().to_owned()).collect()
}

/// Returns the names of the files in the directory of CDI specs.
fn files(node: &Node) -> Vec<String> {
    let entries = fs::read_dir(cdi_dir(node)).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

/// Waits until the spec is as wanted.
async fn wait_for_spec(node: &Node, what: &str, wanted: impl Fn(Option<&Value>) -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !wanted(spec(node).as_ref()) {
        assert!(Instant::now() < deadline, "{what}: {:?}", spec(node));
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// What Allocate returns for one container.
struct Allocated {
    nodes: Vec<String>,
    names: Vec<String>,
    annotations: Vec<(String, String)>,
}

/// Allocates devices to one container.
async fn allocate(kubelet: &Kubelet, ids: &[&str]) -> Allocated {
    let ids: Vec<String> = ids.iter().map(|&id| id.to_owned()).collect();
    let container = kubelet.allocate(RESOURCE, &[&ids]).await.unwrap().remove(0);
    assert_eq!(container.envs["PCI_RESOURCE_EXAMPLE_COM_GPU"], ids.join(","));
    Allocated {
        nodes: container.devices.into_iter().map(|spec| spec.host_path).collect(),
        names: container.cdi_devices.into_iter().map(|device| device.name).collect(),
        annotations: container.annotations.into_iter().collect(),
    }
}
