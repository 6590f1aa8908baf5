//! The node reboots with running VMs: the plugin as a DaemonSet, as a service of the host that starts before the kubelet, and
//! with groups in another order.

use std::time::Duration;

use serde_json::Value;

use super::refused::deployment;
use super::step::Step;
use super::{plugin, pods};
use crate::{Cluster, Function, Result};

/// The time from a boot to the refusal of a pod.
const REFUSED: Duration = Duration::from_secs(600);

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

/// With the service, the plugin registers as soon as the kubelet listens, and the pods start again with their devices.
pub(super) fn with_service(cluster: &mut Cluster) -> Result {
    cluster.node().run("echo containerd plugin kubelet >/etc/node-services; service start plugin")?;
    let outcome = service_story(cluster);
    cluster.node().run("echo containerd kubelet >/etc/node-services; service stop plugin")?;
    outcome
}

fn service_story(cluster: &mut Cluster) -> Result {
    Step::new("the service offers six devices", 6, 0, 0).settle(cluster)?;
    pods::create(cluster, &[lasting("vm-1"), lasting("vm-2")])?;
    let before = Step::new("two VMs run", 6, 2, 2).settle(cluster)?;
    reboot(cluster, Function::six_gpus())?;
    let after = Step::new("the same pods run again", 6, 2, 2).settle(cluster)?;
    if before.node.kubelet != after.node.kubelet {
        return Err(format!("{:?} became {:?}", before.node.kubelet, after.node.kubelet).into());
    }
    for name in ["vm-1", "vm-2"] {
        if pods::restarts(cluster, name)? == 0 {
            return Err(format!("{name} was not started again").into());
        }
    }
    Ok(())
}

/// With a further function in the first slot, each device has another group after the reboot. The kubelet keeps the plugin's
/// answers and would start the pods with the nodes of other devices.
pub(super) fn with_other_groups(cluster: &mut Cluster) -> Result {
    cluster.node().run("echo containerd plugin kubelet >/etc/node-services; service start plugin")?;
    let outcome = other_groups_story(cluster);
    cluster.node().run("echo containerd kubelet >/etc/node-services; service stop plugin")?;
    reboot(cluster, Function::six_gpus())?;
    outcome
}

fn other_groups_story(cluster: &mut Cluster) -> Result {
    Step::new("the service offers six devices", 6, 0, 0).settle(cluster)?;
    pods::create(cluster, &[lasting("vm-1"), deployment()])?;
    let before = Step::new("two VMs run", 6, 2, 2).settle(cluster)?;

    let first = Function { slot: 1, ids: None };
    reboot(cluster, [vec![first], Function::six_gpus()].concat())?;
    let vm = before.devices("vm-1").concat();
    let words = cluster.wait("the start of vm-1 with a stale answer is refused", REFUSED, |cluster| {
        let pod = cluster.pod("vm-1")?.ok_or("there is no pod vm-1")?;
        let events = cluster.kubectl(&["get", "events", "--field-selector", "involvedObject.name=vm-1"])?;
        let messages =
            events["items"].as_array().into_iter().flatten().filter_map(|event| event["message"].as_str());
        let mut refusals = messages.filter(|message| message.contains(&vm) && message.contains("group"));
        refusals
            .next()
            .map(|words| Some(words.to_owned()))
            .ok_or_else(|| format!("vm-1 is {}", pod["status"]).into())
    })?;
    cluster.step(&format!("the pod keeps waiting: {words}"));
    pods::delete(cluster, &["vm-1"])?;
    cluster.kubectl_text(&["delete", "pod", "--selector=app=vm", "--wait=false"])?;
    Step::new("the Deployment's new pod has the right node", 6, 1, 1).settle(cluster)?;
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
