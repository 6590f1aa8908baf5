//! A Deployment whose pod is refused once, because a process of the host holds the device, and which recovers by itself.

use std::time::Duration;

use serde_json::{Value, json};

use super::foreign::{hold, release};
use super::step::Step;
use super::{plugin, pods};
use crate::{Cluster, Result};

/// The time for the Deployment's controller and the scheduler.
const LIMIT: Duration = Duration::from_secs(600);

/// The refused pod's message names the holder. The next pod of the Deployment waits and runs after the release.
pub(super) fn run(cluster: &mut Cluster) -> Result {
    // With such a time, the plugin learns of the holder in Allocate only.
    plugin::deploy_probing(cluster, &["--settling=10m"])?;
    pods::create(cluster, &[pods::vm("five", 5)])?;
    let state = Step::new("a VM has five devices", 6, 5, 5).settle(cluster)?;
    let group = state.free_group()?;
    let holder = hold(cluster, &group)?;
    cluster.step(&format!("process {holder} of the host holds group {group}"));

    pods::create(cluster, &[deployment()])?;
    let refused = cluster.wait("a pod of the Deployment is refused", LIMIT, refusals)?;
    cluster.step(&format!("refused: {refused}"));
    if !refused.contains(&format!("pid {holder}")) || !refused.contains("(holder)") {
        return Err(format!("the refusal does not name process {holder}").into());
    }
    Step::new("allocatable is one less, and the second pod waits", 5, 5, 6).settle(cluster)?;

    release(cluster, &holder)?;
    cluster.step("the process ends");
    Step::new("the Deployment's pod runs", 6, 6, 6).settle(cluster)?;
    let available = cluster.kubectl(&["get", "deployment", "vm"])?;
    if available["status"]["availableReplicas"] != 1 {
        return Err(format!("the Deployment is {}", available["status"]).into());
    }
    cluster.kubectl_text(&["delete", "deployment", "vm", "--cascade=foreground", "--timeout=60s"]).map(drop)
}

/// A Deployment of one VM with one device.
pub(super) fn deployment() -> Value {
    let mut template = pods::vm("vm", 1);
    template["spec"]["restartPolicy"] = "Always".into();
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "vm", "namespace": "default"},
        "spec": {
            "selector": {"matchLabels": {"app": "vm"}},
            "template": {"metadata": {"labels": {"app": "vm"}}, "spec": template["spec"]},
        },
    })
}

/// The messages of the Deployment's pods that failed. The kubelet may have refused a second one by now, because the scheduler placed it
/// before it knew that the device is not offered any more.
fn refusals(cluster: &Cluster) -> Result<Option<String>> {
    let pods = cluster.kubectl(&["get", "pods", "--selector=app=vm"])?;
    let all = pods["items"].as_array().into_iter().flatten();
    let failed = all.filter(|pod| pod["status"]["phase"] == "Failed");
    let messages: Vec<&str> = failed.filter_map(|pod| pod["status"]["message"].as_str()).collect();
    if messages.is_empty() { Err("no pod has failed".into()) } else { Ok(Some(messages.join("; "))) }
}
