//! C: a process outside Kubernetes holds a device.

use std::time::Duration;

use super::step::Step;
use super::{plugin, pods};
use crate::{Cluster, Result};

/// Allocatable falls while the process holds the device. A pod that needs that device waits, and gets it after the release.
pub(super) fn run(cluster: &mut Cluster) -> Result {
    plugin::deploy_probing(cluster, &[])?;
    let state = Step::new("the plugin offers six devices", 6, 0, 0).settle(cluster)?;

    let group = state.free_group()?;
    let holder = hold(cluster, &group)?;
    cluster.step(&format!("process {holder} of the host holds group {group}"));
    Step::new("allocatable is one less", 5, 0, 1).settle(cluster)?;

    pods::create(cluster, &[pods::vm("five", 5)])?;
    let state = Step::new("a VM has the other five devices", 5, 5, 6).settle(cluster)?;
    let foreign: Vec<String> = state
        .node
        .groups
        .iter()
        .filter(|other| other.number == group)
        .flat_map(|group| group.devices.clone())
        .collect();
    pods::create(cluster, &[pods::vm("waits", 1)])?;
    let words = pods::wait_unschedulable(cluster, "waits", pods::RESOURCE)?;
    cluster.step(&format!("another VM waits, and the scheduler says: {words}"));

    release(cluster, &holder)?;
    cluster.step("the process ends");
    let state = Step::new("the waiting VM runs", 6, 6, 6).settle(cluster)?;
    if state.devices("waits") != foreign {
        return Err(format!("the VM has {:?} instead of {foreign:?}", state.devices("waits")).into());
    }
    Ok(())
}

/// Starts a process of the host that holds a group and opens no device in it, and returns its id once it does.
pub(super) fn hold(cluster: &Cluster, group: &str) -> Result<String> {
    start(cluster, "", &format!("group {group}"))
}

/// Starts a process of the host that holds a device as a VM does, and returns its id once it does.
pub(super) fn hold_device(cluster: &Cluster, address: &str) -> Result<String> {
    start(cluster, &format!("PCI_RESOURCE_HOST={address}"), "hold")
}

/// Starts the program holder in a role.
fn start(cluster: &Cluster, environment: &str, role: &str) -> Result<String> {
    const LOG: &str = "/run/holder";
    let script = format!("rm -f {LOG}; {environment} setsid holder {role} >{LOG} 2>&1 </dev/null & echo $!");
    let pid = cluster.node().run(&script)?.trim().to_owned();
    cluster.wait("the process holds the group", Duration::from_secs(60), |cluster| {
        let said = cluster.node().run(&format!("cat {LOG}"))?;
        if said.contains("held") { Ok(Some(())) } else { Err(format!("it says {said:?}").into()) }
    })?;
    Ok(pid)
}

/// Ends a process of the host.
pub(super) fn release(cluster: &Cluster, pid: &str) -> Result {
    cluster.node().run(&format!("kill {pid}")).map(drop)
}
