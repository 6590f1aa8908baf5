//! Reads what a ResourceClaim allocates of this driver's devices.

use crate::dra::names::{device_id, is_label};
use k8s_openapi::api::resource::v1::{ResourceClaim, ResourceClaimConsumerReference};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use vfio_probe::DeviceId;

/// The annotation with the name that a pod's spec gives a claim made from a template (`PodResourceClaimAnnotation` in
/// k8s.io/api/resource/v1).
const POD_CLAIM_NAME: &str = "resource.kubernetes.io/pod-claim-name";
/// Results of a claim (`AllocationResultsMaxSize`), and the pods that it can be reserved for (`ResourceClaimReservedForMaxSize`).
const MAX_RESULTS: usize = 32;
const MAX_PODS: usize = 256;
/// The longest name of an object, and more than the longest uid.
const MAX_NAME: usize = 253;

/// What a claim allocates of this driver.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Allocation {
    /// The devices, in the order of the claim's results.
    pub results: Vec<AllocatedDevice>,
    /// The uids of the pods that may use the claim.
    pub pods: Vec<String>,
    /// The names of these pods, by uid.
    pub pod_names: BTreeMap<String, String>,
    /// Whether the claim is reserved for something else than pods, such as a group of pods. Any pod may be one of it.
    pub is_for_any_pod: bool,
    /// The name by which the pod's spec refers to a claim made from a template.
    pub pod_claim_name: Option<String>,
}

/// One allocated device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct AllocatedDevice {
    /// The request, with the subrequest if the claim names one: `gpu` or `gpu/large`.
    pub request: String,
    /// The device.
    pub device: DeviceId,
    /// Whether it is allocated for an administrator, beside a claim that uses it.
    pub is_admin: bool,
}

impl AllocatedDevice {
    /// Returns the request without the subrequest, as the kubelet names it.
    pub fn base_request(&self) -> &str {
        self.request.split('/').next().unwrap_or_default()
    }
}

/// Why a claim cannot be prepared, whatever the state of its devices.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum ClaimError {
    /// Another claim has the name now.
    OtherUid(String),
    /// The claim is not allocated.
    NotAllocated,
    /// The claim has no device of this driver.
    NoneOfOurs,
    /// The claim has parameters for the driver, which takes none.
    Parameters {
        /// The claim or the DeviceClass that has them.
        source: String,
    },
    /// A device is in a pool that this node does not publish.
    OtherPool(String),
    /// The driver does not make such a name.
    UnknownDevice(String),
    /// The claim names the device twice.
    Twice(DeviceId),
    /// The claim has more results or pods than the API server accepts.
    TooLarge,
    /// A request has a name that the API server does not accept. Directories are named after requests.
    Request(String),
    /// A pod has a name or a uid that is longer than the API server makes them. The record of claims could not be read with it.
    Pod,
}

impl fmt::Display for ClaimError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::OtherUid(uid) => write!(f, "another claim has the name now, with the uid {uid}"),
            Self::NotAllocated => f.write_str("the claim is not allocated"),
            Self::NoneOfOurs => f.write_str("the claim has no device of this driver"),
            Self::Parameters { source } => {
                write!(
                    f,
                    "the driver takes no parameters; remove the opaque parameters for it from the {source}"
                )
            }
            Self::OtherPool(pool) => {
                write!(f, "a device is in pool {pool}, which this node does not publish")
            }
            Self::UnknownDevice(name) => write!(f, "this node publishes no device {name}"),
            Self::Twice(device) => write!(f, "{device}: the claim names it twice"),
            Self::Request(name) => {
                write!(f, "the request {name:?} has a name that is no DNS label")
            }
            Self::Pod => f.write_str("the claim is reserved for a pod with a name or uid that is too long"),
            Self::TooLarge => write!(f, "the claim has more than {MAX_RESULTS} devices or {MAX_PODS} pods"),
        }
    }
}

/// Reads a claim. `uid` is the one that the kubelet named, `pool` the node's.
///
/// # Errors
/// The claim cannot be prepared.
pub fn allocation(
    claim: &ResourceClaim,
    uid: &str,
    driver: &str,
    pool: &str,
) -> Result<Allocation, ClaimError> {
    let found = claim.metadata.uid.as_deref().unwrap_or_default();
    if found != uid {
        return Err(ClaimError::OtherUid(found.to_owned()));
    }
    let status = claim.status.as_ref();
    let allocation = status.and_then(|status| status.allocation.as_ref()).ok_or(ClaimError::NotAllocated)?;
    let devices = allocation.devices.as_ref().ok_or(ClaimError::NoneOfOurs)?;
    let is_for_us = |driver_of_config: &str| driver_of_config == driver;
    for config in devices.config.iter().flatten() {
        if config.opaque.as_ref().is_some_and(|opaque| is_for_us(&opaque.driver)) {
            let source = if config.source == "FromClass" { "DeviceClass" } else { "claim" };
            return Err(ClaimError::Parameters { source: source.to_owned() });
        }
    }
    let ours = devices.results.iter().flatten().filter(|result| result.driver == driver);
    let (mut results, mut known) = (Vec::new(), BTreeSet::new());
    for result in ours {
        if result.pool != pool {
            return Err(ClaimError::OtherPool(result.pool.clone()));
        }
        let device =
            device_id(&result.device).ok_or_else(|| ClaimError::UnknownDevice(result.device.clone()))?;
        if !is_request(&result.request) {
            return Err(ClaimError::Request(result.request.clone()));
        }
        let is_admin = result.admin_access == Some(true);
        if !known.insert((device, is_admin)) {
            return Err(ClaimError::Twice(device));
        }
        results.push(AllocatedDevice { request: result.request.clone(), device, is_admin });
    }
    let reserved = status.and_then(|status| status.reserved_for.as_deref()).unwrap_or_default();
    let is_pod = |consumer: &&ResourceClaimConsumerReference| {
        consumer.resource == "pods" && consumer.api_group.as_deref().unwrap_or_default().is_empty()
    };
    let pods = || reserved.iter().filter(is_pod);
    if pods().any(|pod| pod.uid.len() > MAX_NAME || pod.name.len() > MAX_NAME) {
        return Err(ClaimError::Pod);
    }
    let pod_names = pods().map(|pod| (pod.uid.clone(), pod.name.clone())).collect();
    let pods: Vec<String> = pods().map(|pod| pod.uid.clone()).collect();
    let is_for_any_pod = pods.len() < reserved.len();
    if results.is_empty() {
        return Err(ClaimError::NoneOfOurs);
    }
    if results.len() > MAX_RESULTS || pods.len() > MAX_PODS {
        return Err(ClaimError::TooLarge);
    }
    let annotations = claim.metadata.annotations.as_ref();
    let pod_claim_name = annotations.and_then(|annotations| annotations.get(POD_CLAIM_NAME)).cloned();
    // The creator of a claim writes its annotations. Another text would make the record of claims too large to be read again.
    let pod_claim_name = pod_claim_name.filter(|name| is_label(name));
    Ok(Allocation { results, pods, pod_names, is_for_any_pod, pod_claim_name })
}

/// Returns whether a text is the name of a request, or of a request and its subrequest.
fn is_request(text: &str) -> bool {
    let (request, subrequest) = text.split_once('/').map_or((text, None), |(a, b)| (a, Some(b)));
    is_label(request) && subrequest.is_none_or(is_label)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn claim(results: &Value, config: &Value) -> ResourceClaim {
        serde_json::from_value(json!({
            "metadata": {"name": "vm", "namespace": "a", "uid": "u1", "annotations": {POD_CLAIM_NAME: "gpus"}},
            "spec": {},
            "status": {
                "allocation": {"devices": {"results": results, "config": config}},
                "reservedFor": [{"resource": "pods", "name": "vm", "uid": "p1"}],
            },
        }))
        .unwrap()
    }

    fn result(driver: &str, request: &str, device: &str) -> Value {
        json!({"driver": driver, "request": request, "pool": "node-1", "device": device})
    }

    fn read(claim: &ResourceClaim) -> Result<Allocation, ClaimError> {
        allocation(claim, "u1", "a.io", "node-1")
    }

    #[test]
    fn results_of_other_drivers_are_left_out() {
        let results =
            json!([result("b.io", "net", "nic-0"), result("a.io", "gpu/large", "pci-0000-1b-00-0"),]);
        let read = read(&claim(&results, &json!([]))).unwrap();
        let device = "0000:1b:00.0".parse().unwrap();
        assert_eq!(read.results, [AllocatedDevice { request: "gpu/large".into(), device, is_admin: false }]);
        assert_eq!(read.results[0].base_request(), "gpu");
        assert_eq!(read.pod_names["p1"], "vm");
        assert!(!read.is_for_any_pod);
        assert_eq!((read.pods, read.pod_claim_name.as_deref()), (vec!["p1".to_owned()], Some("gpus")));
    }

    #[test]
    fn annotation_that_names_no_claim_of_a_pod_is_ignored() {
        for name in ["", "../../../etc", "Upper", "a.b", &"x".repeat(64), &"x".repeat(100_000)] {
            let mut annotated = claim(&json!([result("a.io", "gpu", "pci-0000-1b-00-0")]), &json!([]));
            let annotations = annotated.metadata.annotations.as_mut().unwrap();
            annotations.insert(POD_CLAIM_NAME.to_owned(), name.to_owned());
            assert_eq!(read(&annotated).unwrap().pod_claim_name, None, "{name}");
        }
    }

    #[test]
    fn claim_of_a_group_of_pods_is_for_any_pod() {
        let mut of_group = claim(&json!([result("a.io", "gpu", "pci-0000-1b-00-0")]), &json!([]));
        let reserved =
            json!([{"apiGroup": "scheduling.k8s.io", "resource": "podgroups", "name": "g", "uid": "g1"}]);
        of_group.status.as_mut().unwrap().reserved_for = serde_json::from_value(reserved).unwrap();
        let read = read(&of_group).unwrap();
        assert!(read.is_for_any_pod && read.pods.is_empty());
    }

    #[test]
    fn claims_that_cannot_be_prepared_are_refused() {
        let good = || json!([result("a.io", "gpu", "pci-0000-1b-00-0")]);
        let twice = json!([result("a.io", "x", "pci-0000-1b-00-0"), result("a.io", "y", "pci-0000-1b-00-0")]);
        let mut other_pool = good();
        other_pool[0]["pool"] = "node-2".into();
        let of_class = json!([{"source": "FromClass", "opaque": {"driver": "a.io", "parameters": {}}}]);
        let of_others = json!([{"source": "FromClass", "opaque": {"driver": "b.io", "parameters": {}}}]);
        for (claim, error) in [
            (claim(&json!([]), &json!([])), "the claim has no device of this driver"),
            (
                claim(&json!([result("a.io", "gpu", "gpu-0")]), &json!([])),
                "this node publishes no device gpu-0",
            ),
            (claim(&twice, &json!([])), "0000:1b:00.0: the claim names it twice"),
            (claim(&other_pool, &json!([])), "a device is in pool node-2, which this node does not publish"),
            (
                claim(&good(), &of_class),
                "the driver takes no parameters; remove the opaque parameters for it from the DeviceClass",
            ),
        ] {
            assert_eq!(read(&claim).unwrap_err().to_string(), error);
        }
        assert!(read(&claim(&good(), &of_others)).is_ok());
        for request in ["", "..", "gpu/", "gpu/../..", "gpu/a/b", "Gpu"] {
            let results = json!([result("a.io", request, "pci-0000-1b-00-0")]);
            assert_eq!(read(&claim(&results, &json!([]))), Err(ClaimError::Request(request.into())));
        }
        for field in ["name", "uid"] {
            let mut reserved = json!({"resource": "pods", "name": "vm", "uid": "p1"});
            reserved[field] = "x".repeat(254).into();
            let mut of_pod = claim(&good(), &json!([]));
            of_pod.status.as_mut().unwrap().reserved_for = serde_json::from_value(json!([reserved])).unwrap();
            assert_eq!(read(&of_pod), Err(ClaimError::Pod));
        }
        let other = allocation(&claim(&good(), &json!([])), "u2", "a.io", "node-1");
        assert_eq!(other, Err(ClaimError::OtherUid("u1".into())));
        let mut unallocated = claim(&good(), &json!([]));
        unallocated.status.as_mut().unwrap().allocation = None;
        assert_eq!(read(&unallocated), Err(ClaimError::NotAllocated));
    }
}
