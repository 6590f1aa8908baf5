//! The API server's view: the node's capacity and allocatable devices, and the requests of the pods on it.

use serde_json::Value;
use xtask::Result;

/// The node as the scheduler sees it, for all extended resources with one prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Api {
    /// Devices that the kubelet knows, healthy or not.
    pub capacity: i64,
    /// Healthy devices.
    pub allocatable: i64,
    /// The pods on the node that request devices and have not ended.
    pub pods: Vec<ApiPod>,
}

/// A pod on the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiPod {
    /// NAMESPACE/NAME.
    pub name: String,
    /// The UID in the kubelet and in cgroups. A static pod has another one in the API server.
    pub uid: String,
    /// Devices that the scheduler counts for it.
    pub requested: i64,
}

impl Api {
    /// Reads the answer of `kubectl get nodes,pods --all-namespaces`: a list of both kinds. `prefix` selects resources, such as
    /// `nvidia.com/`.
    ///
    /// # Errors
    ///
    /// Fails if the node is not in the list or a quantity is no integer.
    pub fn read(list: &Value, node: &str, prefix: &str) -> Result<Self> {
        let items = || list["items"].as_array().into_iter().flatten();
        let status = items()
            .find(|item| item["kind"] == "Node" && item["metadata"]["name"] == node)
            .map(|item| &item["status"])
            .ok_or_else(|| format!("the API server lists no node {node}"))?;
        let mut pods = Vec::new();
        for pod in items().filter(|item| item["kind"] == "Pod" && item["spec"]["nodeName"] == node) {
            let requested = requested(&pod["spec"], prefix)?;
            // The scheduler does not count pods that have ended (podutil.IsPodTerminal in pkg/scheduler/eventhandlers.go).
            let has_ended = pod["status"]["phase"] == "Succeeded" || pod["status"]["phase"] == "Failed";
            if requested > 0 && !has_ended {
                pods.push(ApiPod { name: name(&pod["metadata"]), uid: uid(&pod["metadata"]), requested });
            }
        }
        Ok(Self {
            capacity: sum(&status["capacity"], prefix)?,
            allocatable: allocatable(status, prefix)?,
            pods,
        })
    }

    /// Devices that all pods request.
    #[must_use]
    pub fn requested(&self) -> i64 {
        self.pods.iter().map(|pod| pod.requested).sum()
    }

    /// Devices that the scheduler counts as free. Below zero in the incident that this project began with.
    #[must_use]
    pub fn free(&self) -> i64 {
        self.allocatable - self.requested()
    }
}

/// Returns the allocatable devices in a node's status.
///
/// # Errors
///
/// Fails if a quantity is no integer.
pub fn allocatable(status: &Value, prefix: &str) -> Result<i64> {
    sum(&status["allocatable"], prefix)
}

fn name(metadata: &Value) -> String {
    format!(
        "{}/{}",
        metadata["namespace"].as_str().unwrap_or_default(),
        metadata["name"].as_str().unwrap_or_default()
    )
}

/// Returns the UID that the kubelet uses. For a static pod it is the hash of its file, which its mirror has as an annotation
/// (`ConfigHashAnnotationKey` in pkg/kubelet/types/pod_update.go).
fn uid(metadata: &Value) -> String {
    let hash = &metadata["annotations"]["kubernetes.io/config.hash"];
    hash.as_str().or(metadata["uid"].as_str()).unwrap_or_default().into()
}

/// Returns the scheduler's count for a pod (`PodRequests` in k8s.io/component-helpers/resource): the containers together, or
/// the largest init container if it needs more. An init container that goes on running counts with the containers, and with the
/// init containers after it.
fn requested(spec: &Value, prefix: &str) -> Result<i64> {
    let containers = |kind: &str| spec[kind].as_array().cloned().unwrap_or_default();
    let mut running = 0;
    for container in containers("containers") {
        running += sum(&container["resources"]["requests"], prefix)?;
    }
    let (mut largest, mut sidecars) = (0, 0);
    for container in containers("initContainers") {
        let needs = sum(&container["resources"]["requests"], prefix)?;
        if container["restartPolicy"] == "Always" {
            sidecars += needs;
            largest = largest.max(sidecars);
        } else {
            largest = largest.max(sidecars + needs);
        }
    }
    Ok(largest.max(running + sidecars))
}

/// Returns the sum of the quantities whose names have the prefix.
fn sum(quantities: &Value, prefix: &str) -> Result<i64> {
    let mut total = 0;
    for (name, quantity) in quantities.as_object().into_iter().flatten() {
        if name.starts_with(prefix) {
            let text = quantity.as_str().unwrap_or_default();
            total += text.parse::<i64>().map_err(|_| format!("{name} has the quantity {quantity}"))?;
        }
    }
    Ok(total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn node() -> Value {
        json!({
            "kind": "Node", "metadata": {"name": "node1"},
            "status": {
                "capacity": {"cpu": "1", "nvidia.com/A": "4", "nvidia.com/B": "2"},
                "allocatable": {"cpu": "1", "nvidia.com/A": "3", "nvidia.com/B": "2"},
            },
        })
    }

    fn pod(name: &str, phase: &str, spec: &Value) -> Value {
        json!({
            "kind": "Pod", "metadata": {"namespace": "default", "name": name, "uid": "1-2"},
            "spec": spec, "status": {"phase": phase},
        })
    }

    fn container(devices: &str) -> Value {
        json!({"resources": {"requests": {"cpu": "10m", "nvidia.com/A": devices}}})
    }

    #[test]
    fn only_pods_that_the_scheduler_counts_are_requested() {
        let spec = |node: &str| json!({"nodeName": node, "containers": [container("1"), container("1")]});
        let list = json!({"items": [
            pod("running", "Running", &spec("node1")), pod("ended", "Succeeded", &spec("node1")),
            pod("refused", "Failed", &spec("node1")), pod("elsewhere", "Running", &spec("node2")),
            pod("waiting", "Pending", &json!({"containers": [container("1")]})),
            pod("no-devices", "Running", &json!({"nodeName": "node1", "containers": [{}]})),
            node(),
        ]});
        let api = Api::read(&list, "node1", "nvidia.com/").unwrap();
        assert_eq!((api.capacity, api.allocatable, api.requested(), api.free()), (6, 5, 2, 3));
        assert_eq!(api.pods[0].name, "default/running");
        assert!(Api::read(&list, "node3", "nvidia.com/").is_err());
    }

    #[test]
    fn init_containers_share_devices_with_containers() {
        let count = |init: Value| {
            requested(&json!({"initContainers": init, "containers": [container("2")]}), "nvidia.com/")
                .unwrap()
        };
        assert_eq!(count(json!([container("1")])), 2);
        assert_eq!(count(json!([container("3"), container("1")])), 3);
        let mut sidecar = container("1");
        sidecar["restartPolicy"] = "Always".into();
        assert_eq!(count(json!([sidecar.clone(), container("3")])), 4);
        assert_eq!(count(json!([container("1"), sidecar])), 3);
    }

    #[test]
    fn static_pod_has_the_uid_of_its_file() {
        let metadata = json!({"uid": "1", "annotations": {"kubernetes.io/config.hash": "2"}});
        assert_eq!(uid(&metadata), "2");
    }
}
