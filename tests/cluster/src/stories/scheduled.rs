//! The DaemonSet as it is shipped, and four pods that the scheduler places.

use std::time::Duration;

use serde_json::Value;
use xtask::log::ensure;
use xtask::process;

use crate::{Cluster, Result};

/// Deploys the plugin, waits for six devices and starts four pods.
///
/// # Errors
///
/// Fails if a step does not come out as it should.
pub(super) fn run(cluster: &mut Cluster) -> Result {
    let manifest = process::read(&cluster.context().top.join("deploy/daemonset-probing.yaml"))?;
    cluster.deploy_plugin(&manifest)?;
    cluster.step("the plugin's pod is ready");
    let limit = Duration::from_secs(120);
    let resource = cluster.wait("the node offers 6 devices", limit, |cluster| {
        let node = cluster.kubectl(&["get", "node", "node1"])?;
        let allocatable = node["status"]["allocatable"].as_object().ok_or("the node has no status")?;
        let found = allocatable.iter().find(|(name, _)| name.starts_with("nvidia.com/"));
        Ok(found.filter(|(_, count)| *count == "6").map(|(name, _)| name.clone()))
    })?;
    cluster.step(&format!("6 allocatable {resource}"));
    let names = ["vm1", "vm2", "vm3", "vm4"];
    for name in names {
        cluster.apply(&pod(name, &resource))?;
    }
    for name in names {
        cluster.wait_running(name)?;
        let log = cluster.kubectl_text(&["logs", name])?;
        cluster.step(&format!("{name} runs: {}", log.replace('\n', ", ")));
    }
    let open = cluster.node_run("fuser /dev/vfio/[0-9]* 2>/dev/null | wc -w")?;
    ensure(open == "4", &format!("{open} groups are open, not 4"))
}

/// A pod that holds one device as a VM does.
fn pod(name: &str, resource: &str) -> String {
    let pod: Value = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {
            "terminationGracePeriodSeconds": 5,
            "containers": [{
                "name": "vm",
                "image": "cluster/holder:1",
                "imagePullPolicy": "Never",
                "securityContext": {"capabilities": {"drop": ["ALL"]}},
                "resources": {"limits": {resource: "1"}},
            }],
        },
    });
    pod.to_string()
}
