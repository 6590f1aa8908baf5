//! A: the DaemonSet as shipped, and four VMs that the scheduler places.

use super::plugin;
use super::pods;
use super::step::Step;
use crate::{Cluster, Result};

const VMS: [&str; 4] = ["vm-1", "vm-2", "vm-3", "vm-4"];

/// Each VM opens a group of its own, the figures fit, and the plugin names pods and holders.
pub(super) fn run(cluster: &mut Cluster) -> Result {
    plugin::deploy_probing(cluster, &[])?;
    Step::new("the plugin offers six devices", 6, 0, 0).settle(cluster)?;

    pods::create(cluster, &VMS.map(|name| pods::vm(name, 1)))?;
    let state = Step::new("four VMs run", 6, 4, 4).settle(cluster)?;
    for name in VMS {
        // What the VM opened by its variable is what the kubelet assigned to it.
        let log = cluster.kubectl_text(&["logs", name])?;
        for device in state.devices(name) {
            if !log.contains(&format!("held {device} ")) {
                return Err(format!("{name} is assigned {device} and says: {log}").into());
            }
        }
    }
    plugin::check_list(cluster, &state, true)?;
    cluster.step("the plugin's list names the pod and the process of each device");

    pods::delete(cluster, &VMS)?;
    Step::new("the VMs are gone", 6, 0, 0).settle(cluster)?;
    Ok(())
}
