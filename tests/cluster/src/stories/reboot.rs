//! The node reboots with running VMs: the plugin as a DaemonSet, as a service of the host that starts before the kubelet, and
//! with groups in another order.

use std::time::Duration;

use serde_json::Value;

use super::refused::deployment;
use super::step::Step;
use super::{plugin, pods};
use crate::sources::Disagreement;
use crate::{Cluster, Function, Result};

/// The time from a boot to the refusal of a pod.
const REFUSED: Duration = Duration::from_secs(600);
/// How often the node reboots with the service: the kubelet admits pods as soon as it runs, and the plugin must be faster each time.
const REBOOTS: u32 = 3;
const VMS: [&str; 2] = ["vm-1", "vm-2"];

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
    as_service(cluster, |cluster| {
        Step::new("the service offers six devices", 6, 0, 0).settle(cluster)?;
        pods::create(cluster, &VMS.map(lasting))?;
        let before = Step::new("two VMs run", 6, 2, 2).settle(cluster)?;
        for round in 1..=REBOOTS {
            let started: Vec<u64> =
                VMS.iter().map(|name| pods::restarts(cluster, name)).collect::<Result<_>>()?;
            let same = cluster.node().functions().to_vec();
            reboot(cluster, same)?;
            let after =
                Step::new(&format!("the same pods run after reboot {round}"), 6, 2, 2).settle(cluster)?;
            if before.node.kubelet != after.node.kubelet {
                return Err(format!("{:?} became {:?}", before.node.kubelet, after.node.kubelet).into());
            }
            for (name, started) in VMS.iter().zip(started) {
                if pods::restarts(cluster, name)? <= started {
                    return Err(format!("{name} was not started again").into());
                }
            }
        }
        Ok(())
    })
}

/// With a further function in the first slot, each device has another group after the reboot. The kubelet keeps the plugin's
/// answers and would start the pods with the nodes of other devices.
pub(super) fn with_other_groups(cluster: &mut Cluster) -> Result {
    let outcome = as_service(cluster, other_groups);
    reboot(cluster, Function::six_gpus())?;
    outcome
}

fn other_groups(cluster: &mut Cluster) -> Result {
    Step::new("the service offers six devices", 6, 0, 0).settle(cluster)?;
    pods::create(cluster, &[lasting("vm-1"), deployment()])?;
    let before = Step::new("two VMs run", 6, 2, 2).settle(cluster)?;
    let listed = cluster.kubectl(&["get", "pods", "--selector=app=vm"])?;
    let replica = listed["items"][0]["metadata"]["name"].as_str().unwrap_or_default().to_owned();

    let first = Function { slot: 1, ids: None };
    reboot(cluster, [vec![first], Function::six_gpus()].concat())?;
    for name in ["vm-1", &replica] {
        let words = wait_refused_start(cluster, name, &before.devices(name).concat())?;
        cluster.step(&format!("{name} does not start: {words}"));
    }
    // The stale answers name the nodes of the devices in the slots before. One that no pod has is offered to none, and could be
    // opened.
    let assigned = [before.devices("vm-1"), before.devices(&replica)].concat();
    let gpus: Vec<String> = Function::six_gpus().iter().map(Function::address).collect();
    let is_kept = |pair: &&[String]| matches!(pair, [before, own] if assigned.contains(own) && !assigned.contains(before));
    let kept = gpus.windows(2).filter(is_kept).count();
    let allocatable = 6 - i64::try_from(kept)?;
    let mut waiting = Step::new("no container has started", allocatable, 2, 0).idle(&["vm-1", &replica]);
    if kept > 0 {
        waiting = waiting.disagrees(vec![Disagreement::Free { free: allocatable - 2, openable: 4 }]);
    }
    waiting.settle(cluster)?;
    pods::delete(cluster, &["vm-1"])?;
    cluster.kubectl_text(&["delete", "pod", "--selector=app=vm", "--wait=false"])?;
    Step::new("the Deployment's new pod has the right node", 6, 1, 1).settle(cluster)?;
    Ok(())
}

/// Waits until an event of a pod says that the plugin refuses to start its container, because its stored answer has another device's
/// node, and returns the event's words.
fn wait_refused_start(cluster: &Cluster, pod: &str, device: &str) -> Result<String> {
    let selector = format!("involvedObject.name={pod}");
    cluster.wait(&format!("the start of {pod} is refused"), REFUSED, |cluster| {
        let events = cluster.kubectl(&["get", "events", "--field-selector", &selector])?;
        let mut messages =
            events["items"].as_array().into_iter().flatten().filter_map(|event| event["message"].as_str());
        Ok(messages
            .find(|words| {
                words.contains("PreStartContainer") && words.contains(&format!("{device}: stale answer"))
            })
            .map(str::to_owned))
    })
}

/// Runs a story with the plugin as a service of the node that starts with it, and removes the service.
fn as_service(cluster: &mut Cluster, story: impl FnOnce(&mut Cluster) -> Result) -> Result {
    // All three start at once, as units without an order between them do.
    cluster
        .node()
        .run("printf 'containerd\\nplugin\\nkubelet\\n' >/etc/node-services; service start plugin")?;
    let outcome = story(cluster);
    let removed =
        cluster.node().run("printf 'containerd\\nkubelet\\n' >/etc/node-services; service stop plugin");
    outcome.and(removed.map(drop))
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
