//! The record of a prepared claim, as the driver keeps it.

use crate::assignments::claims::{Claim, ClaimPod, ClaimedDevices};
use crate::device::DeviceState;
use crate::dra::claim::{AllocatedDevice, Allocation};
use crate::pools::terms::PinnedTerms;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use vfio_probe::DeviceId;

/// The content of the driver's record of claims.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ClaimRecord {
    /// The prepared claims, by uid.
    pub claims: BTreeMap<String, PreparedClaim>,
}

/// A prepared claim.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PreparedClaim {
    /// The claim's namespace.
    pub namespace: String,
    /// The claim's name.
    pub name: String,
    /// The boot in which it was prepared.
    pub boot: String,
    /// The uids of the pods that the claim was reserved for.
    pub pods: Vec<String>,
    /// The names of these pods, by uid.
    #[serde(default)]
    pub pod_names: BTreeMap<String, String>,
    /// Whether it was reserved for something else than pods.
    pub is_for_any_pod: bool,
    /// The name by which the pod's spec refers to a claim made from a template.
    pub pod_claim_name: Option<String>,
    /// Whether it is known from the kubelet's record alone, which does not have all fields of a device.
    pub is_adopted: bool,
    /// Its devices.
    pub devices: Vec<PreparedDevice>,
}

/// A device of a prepared claim.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PreparedDevice {
    /// The request, with the subrequest.
    pub request: String,
    /// The device, as text.
    pub device: String,
    /// Its group.
    pub group: Option<u32>,
    /// Its resource.
    pub resource: String,
    /// The terms of its device nodes.
    pub pinned: PinnedTerms,
    /// Whether an administrator observes it. Such a device is not the claim's.
    pub is_admin: bool,
}

impl PreparedDevice {
    /// Returns the record of a device. `state` is what the node shows of it.
    pub fn new(request: String, id: DeviceId, is_admin: bool, state: Option<&DeviceState>) -> Self {
        Self {
            request,
            device: id.to_string(),
            group: state.and_then(|state| state.device.group).map(|group| group.0),
            resource: state.map(|state| state.resource.to_string()).unwrap_or_default(),
            pinned: state.map(|state| state.terms.pinned()).unwrap_or_default(),
            is_admin,
        }
    }

    /// Returns the device's id.
    pub fn id(&self) -> Option<DeviceId> {
        self.device.parse().ok()
    }
}

impl PreparedClaim {
    /// Returns the devices that only this claim may use.
    pub fn own_devices(&self) -> impl Iterator<Item = &PreparedDevice> {
        self.devices.iter().filter(|device| !device.is_admin)
    }

    /// Returns `namespace/name`.
    pub fn full_name(&self) -> String {
        format!("{}/{}", self.namespace, self.name)
    }

    /// Returns what the claim was allocated when it was prepared. It cannot change while a pod may use the claim.
    pub fn allocation(&self) -> Allocation {
        let result = |device: &PreparedDevice| {
            let (request, is_admin) = (device.request.clone(), device.is_admin);
            Some(AllocatedDevice { request, device: device.id()?, is_admin })
        };
        Allocation {
            results: self.devices.iter().filter_map(result).collect(),
            pods: self.pods.clone(),
            pod_names: self.pod_names.clone(),
            is_for_any_pod: self.is_for_any_pod,
            pod_claim_name: self.pod_claim_name.clone(),
        }
    }

    /// Returns the records of the devices that the claim is allocated now. They are the same devices.
    pub fn devices_of(&self, allocation: &Allocation) -> Vec<PreparedDevice> {
        let record = |result: &AllocatedDevice| {
            let known = self.devices.iter().find(|device| device.id() == Some(result.device))?;
            let AllocatedDevice { request, is_admin, .. } = result.clone();
            Some(PreparedDevice { request, is_admin, ..known.clone() })
        };
        allocation.results.iter().filter_map(record).collect()
    }

    /// Returns the claim's devices as assignments, one for each resource.
    pub fn claimed_devices(&self, uid: &str) -> Vec<ClaimedDevices> {
        let pod = |uid: &String| ClaimPod { uid: uid.clone(), name: self.pod_names.get(uid).cloned() };
        let claim = Arc::new(Claim {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            uid: uid.to_owned(),
            pods: self.pods.iter().map(pod).collect(),
            is_for_any_pod: self.is_for_any_pod,
        });
        let mut by_terms: BTreeMap<&str, (PinnedTerms, BTreeSet<String>)> = BTreeMap::new();
        for device in self.own_devices() {
            let entry = by_terms.entry(&device.resource);
            entry.or_insert_with(|| (device.pinned, BTreeSet::new())).1.insert(device.device.clone());
        }
        let record = |(resource, (pinned, ids))| ClaimedDevices::new(&claim, resource, ids, pinned);
        by_terms.into_iter().map(record).collect()
    }
}
