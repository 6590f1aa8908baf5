//! NUMA: functions near the second node, and functions for which the firmware names no node.

use super::expect_listed;
use crate::host::{ALONE, EIGHT, bind, near, unbind};
use crate::plugin::{Served, listed};
use anyhow::{Result, ensure};
use serde_json::json;

/// The functions near the second node, bound. They are unbound when dropped.
struct Near(Vec<String>);

impl Drop for Near {
    fn drop(&mut self) {
        for address in &self.0 {
            if let Err(error) = unbind(address) {
                println!("cannot unbind {address}: {error:#}");
            }
        }
    }
}

pub(crate) fn second_node() -> Result<String> {
    let near = Near(near(1)?);
    let [first, second] = near.0.as_slice() else { anyhow::bail!("functions near node 1: {:?}", near.0) };
    let far = EIGHT;
    for address in far.into_iter().chain([first.as_str(), second]) {
        bind(address)?;
    }
    let served = Served::of_pools("  - {resource: a.b/all, select: [{vendor: 1234, device: 11e8}]}\n")?;
    for address in [first, second] {
        served.wait_for(address, Some("Healthy"))?;
        expect_listed(&listed(address)?, &json!({"numa_node": 1, "state": "free"}))?;
        ensure!(
            served.topology(address) == [1],
            "{address}: the kubelet's topology is {:?}",
            served.topology(address)
        );
    }
    for address in far.into_iter().chain([ALONE]) {
        served.wait_for(address, Some("Healthy"))?;
        let node = std::fs::read_to_string(format!("/sys/bus/pci/devices/{address}/numa_node"))?;
        ensure!(node.trim() == "-1", "{address} is near node {node}");
        expect_listed(&listed(address)?, &json!({"numa_node": null}))?;
        ensure!(served.topology(address).is_empty(), "{address}: {:?}", served.topology(address));
    }
    // Two devices that are near each other, in whichever order the kubelet lists them.
    let available = [far[0], second, far[1], first, far[2]];
    let mut preferred = served.preferred("a.b/all", &available, &[], 2)?;
    preferred.sort();
    ensure!(preferred == [first.as_str(), second], "two of {available:?}: {preferred:?}");
    let beside = served.preferred("a.b/all", &[far[0], second, first], &[first], 2)?;
    ensure!(beside.contains(first) && beside.contains(second), "one beside {first}: {beside:?}");
    Ok(format!(": {first} and {second} are near node 1"))
}
