//! Reads the kubelet's own record of prepared claims, for a driver whose record was lost.
//!
//! The kubelet's file `dra_manager_state` (pkg/kubelet/cm/dra/state) has each claim that it has had prepared, with the uids of its pods
//! and the devices. It is no stable interface, so a claim is adopted only if one of its pods holds one of its devices. Any other holder
//! of a device is foreign.

use crate::bounded_json::{self, JsonLimits};
use crate::dra::prepared::{PreparedClaim, PreparedDevice};
use crate::files::{Links, read};
use serde::Deserialize;
use serde::de::IgnoredAny;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;
use vfio_plugin_policy::device::NodeSnapshot;
use vfio_plugin_policy::dra::names::{DraDriver, device_id};
use vfio_probe::DeviceId;

/// The kubelet's file, in its root directory.
pub(super) const FILE: &str = "dra_manager_state";
/// The limit for its size. A claim has a few hundred bytes.
const MAX_SIZE: u64 = 16 << 20;
/// The limits of the file, and of the text within it.
const LIMITS: JsonLimits =
    JsonLimits { bytes: MAX_SIZE, string: MAX_SIZE as usize, depth: 32, values: 1_000_000 };

/// A claim that the kubelet has had prepared.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct KubeletClaim {
    namespace: String,
    name: String,
    /// The uids of its pods.
    pods: Vec<String>,
    /// The devices of this driver, each with its request.
    devices: Vec<(String, DeviceId)>,
}

/// The content of the file.
#[derive(Deserialize)]
struct Checkpoint {
    #[serde(rename = "Data")]
    data: String,
}

/// The content of [`Checkpoint::data`].
#[derive(Deserialize)]
struct Data {
    #[serde(rename = "ClaimInfoStateList")]
    claims: Option<Vec<ClaimState>>,
}

#[derive(Deserialize)]
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

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DriverState {
    devices: Option<Vec<DeviceState>>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DeviceState {
    pool_name: String,
    device_name: String,
    request_names: Option<Vec<String>>,
}

impl KubeletClaim {
    /// Returns whether one of the claim's pods holds one of its devices.
    pub(super) fn is_in_use(&self, snapshot: &NodeSnapshot) -> bool {
        let groups = self.devices.iter().filter_map(|(_, id)| snapshot.get(*id)?.group.as_ref());
        let mut holders = groups.flat_map(|group| &group.holders);
        holders.any(|holder| {
            let uid = holder.container.pod_uid.as_ref().map(ToString::to_string);
            uid.is_some_and(|uid| self.pods.contains(&uid))
        })
    }

    /// Returns the driver's record of the claim.
    pub(super) fn prepared(&self, boot: &str, snapshot: &NodeSnapshot) -> PreparedClaim {
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

/// Reads the claims of this driver and pool from the kubelet's file, by uid. None if it is missing, and none if it cannot be used, which
/// is logged.
pub(super) fn kubelet_claims(path: &Path, driver: &DraDriver, pool: &str) -> BTreeMap<String, KubeletClaim> {
    let content = match read(path, Links::Refuse, MAX_SIZE) {
        Ok(content) => content,
        Err(error) => {
            if error.kind() != ErrorKind::NotFound {
                tracing::warn!(file = %path.display(), %error, "the kubelet's record of claims cannot be read");
            }
            return BTreeMap::new();
        }
    };
    match parse(&content, driver, pool) {
        Some(claims) => claims,
        None => {
            tracing::warn!(file = %path.display(), "the kubelet's record of claims is not understood");
            BTreeMap::new()
        }
    }
}

/// Returns whether the kubelet's file has a claim, of any driver. None if it is missing or cannot be used.
///
/// The kubelet writes a claim to it before it has it prepared, and removes it after it has it unprepared.
pub(super) fn has_claim(path: &Path, uid: &str) -> Option<bool> {
    let content = read(path, Links::Refuse, MAX_SIZE).ok()?;
    Some(claims_of(&content)?.iter().any(|claim| claim.claim_uid == uid))
}

fn claims_of(content: &[u8]) -> Option<Vec<ClaimState>> {
    let Checkpoint { data } = bounded_json::read(content, LIMITS).ok()?;
    let Data { claims } = bounded_json::read(data.as_bytes(), LIMITS).ok()?;
    Some(claims.unwrap_or_default())
}

fn parse(content: &[u8], driver: &DraDriver, pool: &str) -> Option<BTreeMap<String, KubeletClaim>> {
    let mut found = BTreeMap::new();
    for state in claims_of(content)? {
        let mut drivers = state.driver_state.unwrap_or_default();
        let devices = drivers.remove(driver.as_str()).and_then(|driver| driver.devices).unwrap_or_default();
        let ours = devices.into_iter().filter(|device| device.pool_name == pool).filter_map(|device| {
            let request = device.request_names.unwrap_or_default().into_iter().next().unwrap_or_default();
            Some((request, device_id(&device.device_name)?))
        });
        let devices: Vec<(String, DeviceId)> = ours.collect();
        // Without devices the claim was not prepared yet.
        if !devices.is_empty() {
            let pods = state.pod_uids.unwrap_or_default().into_keys().collect();
            let claim = KubeletClaim { namespace: state.namespace, name: state.claim_name, pods, devices };
            found.insert(state.claim_uid, claim);
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn file(claims: &serde_json::Value) -> Vec<u8> {
        let data = json!({"kind": "DRACheckpoint", "apiVersion": "checkpoint.dra.kubelet.k8s.io/v1",
            "ClaimInfoStateList": claims});
        serde_json::to_vec(&json!({"Data": data.to_string(), "Checksum": 7})).unwrap()
    }

    #[test]
    fn claims_of_this_driver_and_pool_are_read() {
        let devices = json!([
            {"PoolName": "node-1", "DeviceName": "pci-0000-1b-00-0", "ShareID": null, "RequestNames": ["gpu"], "CDIDeviceIDs": ["x"]},
            {"PoolName": "other", "DeviceName": "pci-0000-1c-00-0", "RequestNames": ["gpu"], "CDIDeviceIDs": null},
        ]);
        let claim = |uid: &str, state: serde_json::Value| json!({"ClaimUID": uid, "ClaimName": "vm", "Namespace": "a", "PodUIDs": {"p1": {}}, "DriverState": state});
        let claims = json!([
            claim("u1", json!({"a.io": {"Devices": devices}, "b.io": {"Devices": null}})),
            claim("not-prepared", json!({"a.io": {"Devices": null}})),
            claim("of-others", json!({"b.io": {"Devices": devices}})),
        ]);
        let found = parse(&file(&claims), &"a.io".parse().unwrap(), "node-1").unwrap();
        let expected = KubeletClaim {
            namespace: "a".into(),
            name: "vm".into(),
            pods: vec!["p1".into()],
            devices: vec![("gpu".into(), "0000:1b:00.0".parse().unwrap())],
        };
        assert_eq!(found, BTreeMap::from([("u1".to_owned(), expected)]));
    }

    #[test]
    fn file_that_is_no_record_of_claims_has_none() {
        let driver = "a.io".parse().unwrap();
        for content in [&b""[..], b"{}", br#"{"Data": "{"}"#, br#"{"Data": 5}"#, br#"{"Data": "[]"}"#] {
            assert_eq!(parse(content, &driver, "node-1"), None);
        }
        assert_eq!(parse(&file(&json!(null)), &driver, "node-1"), Some(BTreeMap::new()));
    }
}
