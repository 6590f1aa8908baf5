//! What the kubelet's own record of prepared claims says of a driver's claims.
//!
//! The kubelet's file `dra_manager_state` (pkg/kubelet/cm/dra/state) has each claim that it has had prepared, with the uids of its pods
//! and the devices. It is no stable interface, so a claim is adopted only if one of its pods holds one of its devices. Any other holder
//! of a device is foreign.

use crate::device::NodeSnapshot;
use crate::dra::names::{DraDriver, device_id};
use crate::dra::prepared::{PreparedClaim, PreparedDevice};
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::BTreeMap;
use vfio_probe::DeviceId;

/// A claim that the kubelet has had prepared.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KubeletClaim {
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// The uids of its pods.
    pub pods: Vec<String>,
    /// The devices of this driver, each with its request.
    pub devices: Vec<(String, DeviceId)>,
}

/// The content of the kubelet's file. Its checksum is not needed: a claim is adopted only if one of its pods holds a device.
#[derive(Debug, Deserialize)]
pub struct Checkpoint {
    /// The claims, as text.
    #[serde(rename = "Data")]
    pub data: String,
}

/// The content of [`Checkpoint::data`].
#[derive(Debug, Deserialize)]
pub struct Claims {
    #[serde(rename = "ClaimInfoStateList")]
    claims: Option<Vec<ClaimState>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ClaimState {
    #[serde(rename = "ClaimUID")]
    claim_uid: String,
    claim_name: String,
    namespace: String,
    #[serde(rename = "PodUIDs")]
    pod_uids: Option<BTreeMap<String, IgnoredAny>>,
    driver_state: Option<BTreeMap<String, DriverState>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DriverState {
    devices: Option<Vec<ClaimedDevice>>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct ClaimedDevice {
    pool_name: String,
    device_name: String,
    request_names: Option<Vec<String>>,
}

impl KubeletClaim {
    /// Returns whether one of the claim's pods holds one of its devices.
    pub fn is_in_use(&self, snapshot: &NodeSnapshot) -> bool {
        let groups = self.devices.iter().filter_map(|(_, id)| snapshot.get(*id)?.group.as_ref());
        let mut holders = groups.flat_map(|group| &group.holders);
        holders.any(|holder| {
            let uid = holder.container.pod_uid.as_ref().map(ToString::to_string);
            uid.is_some_and(|uid| self.pods.contains(&uid))
        })
    }

    /// Returns the driver's record of the claim.
    pub fn prepared(&self, boot: &str, snapshot: &NodeSnapshot) -> PreparedClaim {
        let device = |(request, id): &(String, DeviceId)| {
            PreparedDevice::new(request.clone(), *id, false, snapshot.get(*id))
        };
        PreparedClaim {
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            boot: boot.to_owned(),
            pods: self.pods.clone(),
            pod_names: BTreeMap::new(),
            is_for_any_pod: false,
            pod_claim_name: None,
            is_adopted: true,
            devices: self.devices.iter().map(device).collect(),
        }
    }
}

impl Claims {
    /// Returns whether the record has a claim, of any driver.
    pub fn has(&self, uid: &str) -> bool {
        self.claims.iter().flatten().any(|claim| claim.claim_uid == uid)
    }

    /// Returns the claims with devices of this driver and pool, by uid.
    pub fn of(self, driver: &DraDriver, pool: &str) -> BTreeMap<String, KubeletClaim> {
        let mut found = BTreeMap::new();
        for state in self.claims.unwrap_or_default() {
            let mut drivers = state.driver_state.unwrap_or_default();
            let devices =
                drivers.remove(driver.as_str()).and_then(|driver| driver.devices).unwrap_or_default();
            let ours = devices.into_iter().filter(|device| device.pool_name == pool).filter_map(|device| {
                let request = device.request_names.unwrap_or_default().into_iter().next().unwrap_or_default();
                Some((request, device_id(&device.device_name)?))
            });
            let devices: Vec<(String, DeviceId)> = ours.collect();
            // Without devices the claim was not prepared yet.
            if !devices.is_empty() {
                let pods = state.pod_uids.unwrap_or_default().into_keys().collect();
                let claim =
                    KubeletClaim { namespace: state.namespace, name: state.claim_name, pods, devices };
                found.insert(state.claim_uid, claim);
            }
        }
        found
    }
}
