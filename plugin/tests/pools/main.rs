//! Pools from a file, on a simulated node.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail loudly")]

#[path = "../common/mod.rs"]
mod common;
mod names;
mod nodes;
mod reload;
mod selection;
mod settings;

use vfio_sim_node::Kubelet;

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
