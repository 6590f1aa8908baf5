//! The API server is away while VMs run and a process of the host takes a device.

use std::time::Duration;

use serde_json::Value;

use super::foreign::{hold, release};
use super::replaced::expect_same_holders;
use super::step::Step;
use super::{plugin, pods};
use crate::control_plane::Component;
use crate::{Cluster, Result};

/// The plugin needs no API server: it detects the holder meanwhile, also with a kubelet that starts without one. The node's
/// status is right once the API server is back.
pub(super) fn run(cluster: &mut Cluster) -> Result {
    plugin::deploy_probing(cluster, &[])?;
    pods::create(cluster, &[pods::vm("vm", 4)])?;
    let before = Step::new("a VM with four devices runs", 6, 4, 4).settle(cluster)?;
    let group = before.free_group()?;

    cluster.stop_component(Component::ApiServer);
    cluster.step("the API server is away");
    let outcome = meanwhile(cluster, &group);
    cluster.start_component(Component::ApiServer)?;
    let holder = outcome?;
    let after = Step::new("the API server is back", 5, 4, 5).settle(cluster)?;
    release(cluster, &holder)?;
    Step::new("the process has ended", 6, 4, 4).settle(cluster)?;
    let vm = |state: &super::step::State| -> Vec<u64> {
        let holders = state.node.groups.iter().flat_map(|group| &group.holders);
        holders.filter(|holder| !holder.pod.is_empty()).map(|holder| holder.pid).collect()
    };
    if vm(&before) == vm(&after) { Ok(()) } else { expect_same_holders(&before, &after) }
}

/// Kills the kubelet and holds a group. Returns the holder when the plugin reports the device as held.
fn meanwhile(cluster: &Cluster, group: &str) -> Result<String> {
    cluster.node().run("service kill kubelet")?;
    let holder = hold(cluster, group)?;
    cluster.step(&format!("the kubelet was killed, and process {holder} of the host holds group {group}"));
    cluster
        .wait("the plugin reports the device", Duration::from_secs(120), |cluster| {
            // The program on the node asks the plugin in its pod, by the status socket in the host's run directory.
            let list: Value = serde_json::from_str(&cluster.node().run("vfio-device-plugin list --json")?)?;
            let devices = list["devices"].as_array().into_iter().flatten();
            let unhealthy: Vec<&Value> = devices.filter(|device| device["health"] == "Unhealthy").collect();
            match unhealthy.as_slice() {
                [device] if device["iommu_group"].as_u64() == group.parse().ok() => {
                    Ok(Some(device["reason"].to_string()))
                }
                others => Err(format!("Unhealthy are {others:?}").into()),
            }
        })
        .map(|reason| {
            cluster.step(&format!("the plugin reports it Unhealthy: {reason}"));
            holder
        })
}
