//! What the API server, the kubelet and the kernel say about devices of claims, and whether they agree. A pure function.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde_json::Value;

use crate::Result;
use crate::sources::{NodeSources, Opened};

/// The name of the driver.
pub(super) const DRIVER: &str = "vfio-probe.github.io";

/// The devices in slices, by their names, with the taint that keeps the scheduler from each.
pub(super) type Published = BTreeMap<String, Option<String>>;

/// The API server's view.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Api {
    /// The devices in slices.
    pub(super) published: Published,
    /// The claims with devices.
    pub(super) claims: Vec<Claim>,
    /// The uids of all pods, by NAMESPACE/NAME.
    pods: BTreeMap<String, String>,
}

/// A claim to which the scheduler has allocated devices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    /// The devices' names.
    devices: BTreeSet<String>,
    /// The uids of the pods that it is reserved for.
    pods: BTreeSet<String>,
}

/// The figures of one step.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Figures {
    /// Devices in slices.
    pub(super) published: usize,
    /// Devices with a taint.
    pub(super) tainted: usize,
    /// Devices of claims.
    pub(super) allocated: usize,
    /// Devices that the kubelet shows for pods.
    pub(super) assigned: usize,
    /// Groups that a process holds.
    pub(super) held: usize,
    /// Groups that a new VM could open.
    pub(super) openable: usize,
}

impl fmt::Display for Figures {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { published, tainted, allocated, assigned, held, openable } = self;
        write!(f, "API server: {published} in slices, {tainted} tainted, {allocated} allocated; ")?;
        write!(f, "kubelet: {assigned} assigned; kernel: {held} held, {openable} can be opened")
    }
}

/// Returns the name in slices of a PCI address.
pub(super) fn device_name(address: &str) -> String {
    format!("pci-{}", address.replace([':', '.'], "-"))
}

/// Returns the devices in a slice.
pub(super) fn devices_of(slice: &Value) -> Published {
    let taint = |taint: &Value| {
        let keeps_away = taint["effect"] == "NoSchedule" || taint["effect"] == "NoExecute";
        let text = |key: &str| taint[key].as_str().unwrap_or_default().to_owned();
        keeps_away.then(|| format!("{}={}", text("key"), text("value")))
    };
    let device = |device: &Value| {
        let taints = device["taints"].as_array().into_iter().flatten();
        (device["name"].as_str().unwrap_or_default().to_owned(), taints.filter_map(taint).next())
    };
    slice["spec"]["devices"].as_array().into_iter().flatten().map(device).collect()
}

impl Api {
    /// Reads the answer of `kubectl get resourceslices,resourceclaims,pods --all-namespaces`.
    pub(super) fn read(list: &Value) -> Self {
        let of_kind = |kind: &'static str| {
            list["items"].as_array().into_iter().flatten().filter(move |item| item["kind"] == kind)
        };
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let claim = |claim: &Value| {
            let results = claim["status"]["allocation"]["devices"]["results"].as_array()?;
            let ours = results.iter().filter(|result| result["driver"] == DRIVER);
            let pods = claim["status"]["reservedFor"].as_array().into_iter().flatten();
            let devices: BTreeSet<String> = ours.map(|result| text(&result["device"])).collect();
            (!devices.is_empty())
                .then(|| Claim { devices, pods: pods.map(|pod| text(&pod["uid"])).collect() })
        };
        let pod = |pod: &Value| {
            let metadata = &pod["metadata"];
            let name = format!("{}/{}", text(&metadata["namespace"]), text(&metadata["name"]));
            (name, text(&metadata["uid"]))
        };
        Self {
            published: of_kind("ResourceSlice")
                .filter(|slice| slice["spec"]["driver"] == DRIVER)
                .flat_map(devices_of)
                .collect(),
            claims: of_kind("ResourceClaim").filter_map(claim).collect(),
            pods: of_kind("Pod").map(pod).collect(),
        }
    }

    /// The devices of all claims.
    pub(super) fn allocated(&self) -> BTreeSet<&str> {
        self.claims.iter().flat_map(|claim| &claim.devices).map(String::as_str).collect()
    }

    /// The devices that the scheduler may allocate.
    fn allocatable(&self) -> BTreeSet<&str> {
        let allocated = self.allocated();
        let untainted = self.published.iter().filter(|(_, taint)| taint.is_none());
        untainted.map(|(name, _)| name.as_str()).filter(|name| !allocated.contains(name)).collect()
    }

    /// The devices of the claims that are reserved for a pod, by NAMESPACE/NAME.
    fn devices_of_pods(&self) -> BTreeMap<&str, BTreeSet<&str>> {
        let mut found: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for claim in &self.claims {
            for (name, _) in self.pods.iter().filter(|(_, uid)| claim.pods.contains(*uid)) {
                found.entry(name).or_default().extend(claim.devices.iter().map(String::as_str));
            }
        }
        found
    }
}

/// Returns the figures, and every point on which the sources disagree.
pub(super) fn compare(api: &Api, node: &NodeSources) -> (Figures, Vec<String>) {
    let none = BTreeMap::new();
    let mut found = Vec::new();
    if let Err(error) = &node.kubelet {
        found.push(format!("the kubelet does not answer: {error}"));
    }
    if node.unread > 0 {
        found.push(format!("{} processes could not be searched for holders", node.unread));
    }
    let assigned = node.kubelet.as_ref().unwrap_or(&none);
    let shown: BTreeMap<&str, BTreeSet<&str>> = assigned
        .iter()
        .map(|(pod, devices)| (pod.as_str(), devices.iter().map(String::as_str).collect()))
        .collect();
    if shown != api.devices_of_pods() {
        found.push(format!("the kubelet shows {shown:?}, and claims allocate {:?}", api.devices_of_pods()));
    }
    let mut openable = BTreeSet::new();
    let mut held = 0;
    for group in &node.groups {
        held += usize::from(!group.holders.is_empty());
        let expected = if group.holders.is_empty() { Opened::Free } else { Opened::Busy };
        if group.opened.as_ref().is_some_and(|opened| *opened != expected) {
            found.push(format!(
                "group {} has holders {:?}, opened {:?}",
                group.number, group.holders, group.opened
            ));
        }
        for name in group.devices.iter().map(|address| device_name(address)) {
            let pod = shown.iter().find(|(_, devices)| devices.contains(name.as_str())).map(|(pod, _)| *pod);
            let Some(pod) = pod else {
                if group.holders.is_empty() {
                    openable.insert(name);
                }
                continue;
            };
            let uid = api.pods.get(pod);
            if group.holders.is_empty() || group.holders.iter().any(|holder| Some(&holder.pod) != uid) {
                found.push(format!("pod {pod} has {name}, which is held by {:?}", group.holders));
            }
        }
    }
    if api.allocatable() != openable.iter().map(String::as_str).collect() {
        found.push(format!(
            "the scheduler can allocate {:?}, and {openable:?} can be opened",
            api.allocatable()
        ));
    }
    let figures = Figures {
        published: api.published.len(),
        tainted: api.published.values().filter(|taint| taint.is_some()).count(),
        allocated: api.allocated().len(),
        assigned: assigned.values().map(Vec::len).sum(),
        held,
        openable: openable.len(),
    };
    (figures, found)
}

/// Reads the sources. With `open`, each group is opened and closed.
///
/// # Errors
///
/// Fails if the API server or the node does not answer.
pub(super) fn read(cluster: &crate::Cluster, open: bool) -> Result<(Api, NodeSources)> {
    let list = cluster.kubectl(&["get", "resourceslices,resourceclaims,pods", "--all-namespaces"])?;
    let printed = cluster.node().run(if open { "sources --open" } else { "sources" })?;
    Ok((Api::read(&list), NodeSources::read(&printed, DRIVER)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sources::{Group, Holder};
    use serde_json::json;

    /// Three devices: a pod has the first, a process of the host holds the second.
    fn agreed() -> (Value, NodeSources) {
        let device =
            |number: u8, taints: Value| json!({"name": format!("pci-0000-00-0{number}-0"), "taints": taints});
        let held = json!([{"key": "vfio-probe.github.io/held", "value": "holder.7", "effect": "NoSchedule"}]);
        let devices = json!([device(2, json!([])), device(3, held), device(4, json!([]))]);
        let result = json!({"driver": DRIVER, "device": "pci-0000-00-02-0"});
        let list = json!({"items": [
            {"kind": "ResourceSlice", "spec": {"driver": DRIVER, "devices": devices}},
            {"kind": "ResourceSlice", "spec": {"driver": "other", "devices": [{"name": "x"}]}},
            {"kind": "ResourceClaim", "status": {
                "allocation": {"devices": {"results": [result]}}, "reservedFor": [{"uid": "uid-a"}]}},
            {"kind": "ResourceClaim", "status": {}},
            {"kind": "Pod", "metadata": {"namespace": "default", "name": "a", "uid": "uid-a"}},
        ]});
        let group = |number: u8, pod: Option<&str>| Group {
            number: number.to_string(),
            devices: vec![format!("0000:00:0{number}.0")],
            opened: Some(if pod.is_some() { Opened::Busy } else { Opened::Free }),
            holders: pod
                .map(|pod| Holder { pid: 7, command: "holder".into(), pod: pod.into() })
                .into_iter()
                .collect(),
        };
        let node = NodeSources {
            kubelet: Ok(BTreeMap::from([("default/a".into(), vec!["pci-0000-00-02-0".into()])])),
            groups: vec![group(2, Some("uid-a")), group(3, Some("")), group(4, None)],
            unread: 0,
        };
        (list, node)
    }

    fn found(list: &Value, node: &NodeSources) -> Vec<String> {
        compare(&Api::read(list), node).1
    }

    #[test]
    fn agreement_has_the_figures_of_all_sources() {
        let (list, node) = agreed();
        let (figures, found) = compare(&Api::read(&list), &node);
        assert_eq!(found, [""; 0]);
        let expected = Figures { published: 3, tainted: 1, allocated: 1, assigned: 1, held: 2, openable: 1 };
        assert_eq!(figures, expected);
    }

    #[test]
    fn held_device_without_a_taint_is_found() {
        let (mut list, node) = agreed();
        list["items"][0]["spec"]["devices"][1]["taints"] = json!([]);
        assert!(found(&list, &node)[0].starts_with("the scheduler can allocate"));
    }

    #[test]
    fn free_device_with_a_taint_or_in_no_slice_is_found() {
        let (mut list, node) = agreed();
        list["items"][0]["spec"]["devices"][2]["taints"] =
            list["items"][0]["spec"]["devices"][1]["taints"].clone();
        assert_eq!(found(&list, &node).len(), 1);
        list["items"][0]["spec"]["devices"] = json!([]);
        assert_eq!(found(&list, &node).len(), 1);
    }

    #[test]
    fn device_held_by_another_than_its_pod_is_found() {
        let (list, mut node) = agreed();
        node.groups[0].holders[0].pod = "uid-b".into();
        assert!(found(&list, &node)[0].starts_with("pod default/a has"));
        node.groups[0].holders.clear();
        node.groups[0].opened = Some(Opened::Free);
        assert!(found(&list, &node)[0].starts_with("pod default/a has"));
    }

    #[test]
    fn claim_that_the_kubelet_does_not_show_is_found() {
        let (list, mut node) = agreed();
        node.kubelet = Ok(BTreeMap::new());
        assert!(found(&list, &node)[0].starts_with("the kubelet shows"));
        node.kubelet = Err("refused".into());
        assert_eq!(found(&list, &node)[0], "the kubelet does not answer: refused");
    }
}
