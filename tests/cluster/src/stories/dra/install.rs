//! The driver in the cluster: its manifests as shipped, classes, and pods with claims.

use std::time::Duration;

use serde_json::{Value, json};

use super::super::{plugin, pods};
use super::view::{Api, Figures, compare, read};
use crate::sources::NodeSources;
use crate::{Cluster, Result};

/// deploy/dra/rbac.yaml.
const RBAC: &str = include_str!("../../../../../deploy/dra/rbac.yaml");
/// deploy/dra/policy.yaml.
const POLICY: &str = include_str!("../../../../../deploy/dra/policy.yaml");
/// deploy/dra/daemonset-probing.yaml.
pub(super) const PROBING: &str = include_str!("../../../../../deploy/dra/daemonset-probing.yaml");
/// deploy/dra/daemonset.yaml.
pub(super) const UNPRIVILEGED: &str = include_str!("../../../../../deploy/dra/daemonset.yaml");
/// deploy/dra/examples/deviceclass.yaml.
const CLASS: &str = include_str!("../../../../../deploy/dra/examples/deviceclass.yaml");
/// deploy/dra/examples/pod.yaml.
const EXAMPLE: &str = include_str!("../../../../../deploy/dra/examples/pod.yaml");
/// The name of its class.
const CLASS_NAME: &str = "gh100-h100-sxm5-80gb.nvidia.com";
/// The time for the sources to agree.
const LIMIT: Duration = Duration::from_secs(600);
/// What the stories leave in the cluster beside pods.
const LEFT: [&[&str]; 4] = [
    &["resourceclaims,resourceclaimtemplates", "--all"],
    &["deviceclasses", "--all"],
    &["clusterrole,clusterrolebinding", "kube-system-vfio-device-plugin", "--ignore-not-found"],
    &[
        "validatingadmissionpolicy,validatingadmissionpolicybinding",
        "kube-system-vfio-device-plugin",
        "--ignore-not-found",
    ],
];

/// Installs the driver as docs/dra.md says, and waits until it is ready and its classes are in the cluster.
///
/// # Errors
///
/// Fails if the API server refuses an object, the driver is not ready at the deadline, or the class is not that of the example.
pub(super) fn install(cluster: &Cluster) -> Result {
    cluster.apply(RBAC)?;
    cluster.apply(POLICY)?;
    cluster.deploy_plugin(PROBING)?;
    expect(cluster, "the driver publishes six devices", (6, 0, 0, 0))?;
    let printed = plugin::execute(cluster, &["dra", "classes", "--extended"])?;
    cluster.apply(&printed)?;
    let class = cluster.kubectl(&["get", "deviceclass", CLASS_NAME])?;
    cluster.apply(CLASS)?;
    let example = cluster.kubectl(&["get", "deviceclass", CLASS_NAME])?;
    if class["spec"] != example["spec"] {
        return Err(
            format!("dra classes prints {}, and the example is {}", class["spec"], example["spec"]).into()
        );
    }
    cluster.step("dra classes prints the class of deploy/dra/examples/deviceclass.yaml");
    Ok(())
}

/// Creates the template and the pod of deploy/dra/examples/pod.yaml, with the program holder.
///
/// # Errors
///
/// Fails if the API server refuses one.
pub(super) fn create_example(cluster: &Cluster) -> Result {
    const IMAGE: &str = "      image: registry.example.com/vm:1\n";
    let ours = "      image: cluster/holder:1\n      imagePullPolicy: Never\n      args: [hold]\n";
    if !EXAMPLE.contains(IMAGE) {
        return Err("the example has no such image".into());
    }
    cluster.apply(&EXAMPLE.replace(IMAGE, ours))
}

/// A pod whose container holds so many devices of one claim. Its template is created with it.
pub(super) fn vm(name: &str, devices: u32) -> [Value; 2] {
    let request = json!({"name": "gpus", "exactly": {"deviceClassName": CLASS_NAME, "count": devices}});
    let template = json!({
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceClaimTemplate",
        "metadata": {"name": name, "namespace": "default"},
        "spec": {"spec": {"devices": {"requests": [request]}}},
    });
    let mut pod = pods::vm(name, 0);
    pod["spec"]["resourceClaims"] = json!([{"name": "gpus", "resourceClaimTemplateName": name}]);
    pod["spec"]["containers"][0]["resources"] = json!({"claims": [{"name": "gpus"}]});
    [template, pod]
}

/// What the sources said when a step ended.
#[derive(Clone, Debug)]
pub(super) struct State {
    pub(super) api: Api,
    pub(super) node: NodeSources,
}

impl State {
    /// The devices that the kubelet shows for a pod of the default namespace.
    pub(super) fn devices(&self, pod: &str) -> Vec<String> {
        let pods = self.node.kubelet.as_ref().ok();
        pods.and_then(|pods| pods.get(&format!("default/{pod}"))).cloned().unwrap_or_default()
    }

    /// The processes of pods that hold groups, in the order of the groups.
    pub(super) fn holders_of_pods(&self) -> Vec<u64> {
        let holders = self.node.groups.iter().flat_map(|group| &group.holders);
        holders.filter(|holder| !holder.pod.is_empty()).map(|holder| holder.pid).collect()
    }

    /// The number and the device's address of the first group that no process holds.
    ///
    /// # Errors
    ///
    /// Fails if there is none.
    pub(super) fn free_group(&self) -> Result<(String, String)> {
        let free =
            self.node.groups.iter().find(|group| group.holders.is_empty()).ok_or("no group is free")?;
        Ok((free.number.clone(), free.devices.concat()))
    }
}

/// Waits until the sources agree, and have so many devices in slices, with a taint, of claims, and held groups.
///
/// # Errors
///
/// Fails at the deadline, with the figures and disagreements of the last attempt.
pub(super) fn expect(
    cluster: &Cluster,
    text: &str,
    (published, tainted, allocated, held): (usize, usize, usize, usize),
) -> Result<State> {
    let check = |cluster: &Cluster, open: bool| -> Result<(Figures, State)> {
        let (api, node) = read(cluster, open)?;
        let (figures, mut found) = compare(&api, &node);
        let is = (figures.published, figures.tainted, figures.allocated, figures.held);
        if is != (published, tainted, allocated, held) {
            found.insert(
                0,
                format!(
                    "expected {published} in slices, {tainted} tainted, {allocated} allocated, {held} held"
                ),
            );
        }
        if found.is_empty() {
            Ok((figures, State { api, node }))
        } else {
            Err(format!("{figures}; {}", found.join("; ")).into())
        }
    };
    let (figures, state) = cluster.wait(text, LIMIT, |cluster| {
        // Opens could make the open of a starting VM fail, so they come when everything else agrees.
        check(cluster, false)?;
        check(cluster, true).map(Some)
    })?;
    cluster.step(&format!("{text}: {figures}"));
    Ok(state)
}

/// Removes pods, the driver and all of its objects, and waits until its slices are gone. The kubelet removes them.
///
/// # Errors
///
/// Fails if something stays.
pub(super) fn uninstall(cluster: &mut Cluster) -> Result {
    // The kubelet ends a pod with a claim only with the driver.
    cluster.kubectl_text(&["delete", "pods", "--all", "--wait=false"])?;
    cluster.wait("the pods with claims are gone", LIMIT, |cluster| {
        let pods = cluster.kubectl(&["get", "pods"])?;
        Ok(pods["items"].as_array().is_some_and(Vec::is_empty).then_some(()))
    })?;
    cluster.reset()?;
    for left in LEFT {
        cluster.kubectl_text(&[&["delete", "--all-namespaces=false", "--wait=false"], left].concat())?;
    }
    cluster.wait("the kubelet has removed the slices", LIMIT, |cluster| {
        let slices = cluster.kubectl(&["get", "resourceslices"])?;
        Ok(slices["items"].as_array().is_some_and(Vec::is_empty).then_some(()))
    })?;
    cluster.step("the kubelet has removed the slices of the driver that is gone");
    Ok(())
}
