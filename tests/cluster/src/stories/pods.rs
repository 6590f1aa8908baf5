//! The pods of the stories, and what the API server says about them.

use std::time::Duration;

use serde_json::{Value, json};

use crate::{Cluster, Result};

/// The resource of the node's devices, 10de:2330.
pub(super) const RESOURCE: &str = "nvidia.com/GH100_H100_SXM5_80GB";
/// The time for a pod to start or end.
const LIMIT: Duration = Duration::from_secs(600);

/// A pod with one container, `vm`, which holds its devices as a VM does.
#[must_use]
pub(super) fn vm(name: &str, devices: u32) -> Value {
    pod(name, &[container("vm", devices, &["hold"])])
}

/// A pod with these containers. It does not start again, as virt-launcher does not.
#[must_use]
pub(super) fn pod(name: &str, containers: &[Value]) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": 5,
            "automountServiceAccountToken": false,
            "dnsPolicy": "Default",
            "containers": containers,
        },
    })
}

/// A container with a role of the program holder and so many devices.
#[must_use]
pub(super) fn container(name: &str, devices: u32, role: &[&str]) -> Value {
    let mut container = json!({
        "name": name, "image": "cluster/holder:1", "imagePullPolicy": "Never", "args": role,
    });
    if devices > 0 {
        container["resources"] = json!({"limits": {RESOURCE: devices.to_string()}});
    }
    container
}

/// Creates objects with one call of kubectl.
///
/// # Errors
///
/// Fails if the API server refuses one.
pub(super) fn create(cluster: &Cluster, objects: &[Value]) -> Result {
    cluster.apply(&json!({"apiVersion": "v1", "kind": "List", "items": objects}).to_string())
}

/// Deletes pods of the default namespace and waits until they are gone.
///
/// # Errors
///
/// Fails if one is still there at the deadline.
pub(super) fn delete(cluster: &Cluster, pods: &[&str]) -> Result {
    cluster.kubectl_text(&[&["delete", "pod", "--wait=false"], pods].concat())?;
    cluster.wait("pods are gone", LIMIT, |cluster| {
        for pod in pods {
            if cluster.pod(pod)?.is_some() {
                return Err(format!("{pod} is still there").into());
            }
        }
        Ok(Some(()))
    })
}

/// Waits until the scheduler has found no node for a pod, and returns its words about what was `requested`.
///
/// # Errors
///
/// Fails if the pod is scheduled, or has no such event at the deadline.
pub(super) fn wait_unschedulable(cluster: &Cluster, name: &str, requested: &str) -> Result<String> {
    let selector = format!("involvedObject.name={name},reason=FailedScheduling");
    cluster.wait(&format!("{name} waits for a device"), LIMIT, |cluster| {
        let pod = cluster.pod(name)?.ok_or_else(|| format!("there is no pod {name}"))?;
        if !pod["spec"]["nodeName"].is_null() {
            return Err(format!("{name} is on a node: {}", pod["status"]).into());
        }
        let events = cluster.kubectl(&["get", "events", "--field-selector", &selector])?;
        let mut messages =
            events["items"].as_array().into_iter().flatten().filter_map(|event| event["message"].as_str());
        Ok(messages.rfind(|message| message.contains(requested)).map(str::to_owned))
    })
}

/// Waits until the kubelet has refused a pod, and returns its words.
///
/// # Errors
///
/// Fails if the pod does not fail before the deadline.
pub(super) fn wait_refused(cluster: &Cluster, name: &str) -> Result<String> {
    cluster.wait(&format!("{name} is refused"), LIMIT, |cluster| {
        let pod = cluster.pod(name)?.ok_or_else(|| format!("there is no pod {name}"))?;
        let status = &pod["status"];
        if status["phase"] != "Failed" {
            return Err(format!("{name} is {}", status["phase"]).into());
        }
        Ok(Some(format!(
            "{}: {}",
            status["reason"].as_str().unwrap_or_default(),
            status["message"].as_str().unwrap_or_default()
        )))
    })
}

/// How often the containers of a pod were started again.
///
/// # Errors
///
/// Fails if there is no such pod.
pub(super) fn restarts(cluster: &Cluster, name: &str) -> Result<u64> {
    let pod = cluster.pod(name)?.ok_or_else(|| format!("there is no pod {name}"))?;
    let statuses = pod["status"]["containerStatuses"].as_array().into_iter().flatten();
    Ok(statuses.filter_map(|status| status["restartCount"].as_u64()).sum())
}
