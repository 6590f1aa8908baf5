//! The node reboots with running VMs, and the plugin is a DaemonSet.

use serde_json::Value;

use super::refused::deployment;
use super::step::Step;
use super::{plugin, pods};
use crate::{Cluster, Function, Result};

/// With the DaemonSet, the kubelet admits the pods again before the plugin is back, and fails them. A Deployment replaces its pod.
pub(super) fn with_daemonset(cluster: &mut Cluster) -> Result {
    plugin::deploy_probing(cluster, &[])?;
    pods::create(cluster, &[lasting("vm-1"), deployment()])?;
    Step::new("two VMs run", 6, 2, 2).settle(cluster)?;
    reboot(cluster, Function::six_gpus())?;
    let words = pods::wait_refused(cluster, "vm-1")?;
    cluster.step(&format!("the pod without a controller is refused: {words}"));
    Step::new("the Deployment's new pod runs", 6, 1, 1).settle(cluster)?;
    Ok(())
}

fn reboot(cluster: &mut Cluster, functions: Vec<Function>) -> Result {
    cluster.reboot_node(functions)?;
    cluster.step("the node was rebooted");
    Ok(())
}

/// A VM without a controller whose containers start again.
fn lasting(name: &str) -> Value {
    let mut pod = pods::vm(name, 1);
    pod["spec"]["restartPolicy"] = "Always".into();
    pod
}
