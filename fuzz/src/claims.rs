//! What the DRA driver reads of claims, and what it writes from them: its record, the kubelet's record, and the metadata files.

use crate::bounded;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path};
use vfio_device_plugin::fuzzing;
use vfio_plugin_policy::device::NodeSnapshot;
use vfio_plugin_policy::dra::claim::{AllocatedDevice, Allocation, allocation};
use vfio_plugin_policy::dra::metadata::{ClaimName, Device, Metadata, Request, claim_directory};
use vfio_plugin_policy::dra::names::{DraDriver, device_id, device_name};
use vfio_plugin_policy::dra::prepared::{ClaimRecord, PreparedClaim, PreparedDevice};

const DRIVER: &str = "a.io";
const POOL: &str = "node-1";
/// Bytes for the buffers of a parser of JSON.
const BUFFERS: usize = 256 << 10;
/// Bytes for each byte of JSON: an empty claim in a map.
const AMPLIFICATION: usize = 128;

fn driver() -> DraDriver {
    DRIVER.parse().expect("it is a DNS name")
}

/// Writes a record as the driver does, and reads it again.
fn assert_is_read_back(record: &ClaimRecord) {
    let Value::Object(mut fields) = json!(record) else { panic!("a record is an object") };
    fields.insert("version".to_owned(), 1.into());
    let text = serde_json::to_vec(&fields).expect("a value can be written");
    assert_eq!(
        fuzzing::state_file::<ClaimRecord>(&text).as_ref(),
        Some(record),
        "what is written is read back"
    );
}

/// The driver's record, claims.json.
pub fn claim_record(data: &[u8]) {
    let most = BUFFERS + AMPLIFICATION * data.len();
    let Some(record) = bounded(most, || fuzzing::state_file::<ClaimRecord>(data)) else { return };
    assert_is_read_back(&record);
    for (uid, claim) in &record.claims {
        assert!(claim.claimed_devices(uid).len() <= claim.own_devices().count());
        let allocation = claim.allocation();
        assert!(claim.devices_of(&allocation).len() == allocation.results.len());
    }
}

/// The kubelet's record, dra_manager_state. The input is the text within it, so that the fuzzer need not escape quotes.
pub fn kubelet_claims(data: &[u8]) {
    let most = BUFFERS + AMPLIFICATION * data.len();
    let _ = bounded(most, || fuzzing::kubelet_claims(data, &driver(), POOL));
    let Ok(text) = std::str::from_utf8(data) else { return };
    let file = json!({"Data": text, "Checksum": 1}).to_string();
    let most = BUFFERS + AMPLIFICATION * file.len();
    let parsed = bounded(most, || fuzzing::kubelet_claims(file.as_bytes(), &driver(), POOL));
    let Some(claims) = parsed else { return };
    let nothing = NodeSnapshot::default();
    for claim in claims.values() {
        assert!(!claim.devices.is_empty(), "a claim without devices was not prepared");
        assert!(!claim.is_in_use(&nothing), "a claim is in use only if a process holds a device");
        let prepared = claim.prepared("boot", &nothing);
        assert_eq!(prepared.own_devices().filter_map(PreparedDevice::id).count(), claim.devices.len());
    }
    let cut_off = file.get(..file.len() - 1).unwrap_or_default();
    assert_eq!(fuzzing::kubelet_claims(cut_off.as_bytes(), &driver(), POOL), None);
}

/// A ResourceClaim of the API server: what it allocates, the record of it, and its metadata files.
pub fn claim(data: &[u8]) {
    let Ok(claim) = serde_json::from_slice(data) else { return };
    let Ok(object) = serde_json::from_slice::<Value>(data) else { return };
    let uid = object["metadata"]["uid"].as_str().unwrap_or_default();
    let Ok(allocation) = allocation(&claim, uid, DRIVER, POOL) else { return };
    let distinct: BTreeSet<_> =
        allocation.results.iter().map(|result| (result.device, result.is_admin)).collect();
    assert!(distinct.len() == allocation.results.len() && (1..=32).contains(&distinct.len()));
    assert!(allocation.pods.len() <= 256);
    for result in &allocation.results {
        assert_eq!(device_id(&device_name(result.device)), Some(result.device));
        assert_metadata(&allocation, &result.request, result.base_request(), &object);
    }
    assert_is_recorded(allocation);
}

/// The claim can be recorded, and the record says what was allocated.
fn assert_is_recorded(allocation: Allocation) {
    let device = |result: &AllocatedDevice| {
        let AllocatedDevice { request, device, is_admin } = result;
        PreparedDevice::new(request.clone(), *device, *is_admin, None)
    };
    let prepared = PreparedClaim {
        namespace: "a".to_owned(),
        name: "vm".to_owned(),
        boot: "boot".to_owned(),
        pods: allocation.pods.clone(),
        pod_names: allocation.pod_names.clone(),
        is_for_any_pod: allocation.is_for_any_pod,
        pod_claim_name: allocation.pod_claim_name.clone(),
        is_adopted: false,
        devices: allocation.results.iter().map(device).collect(),
    };
    assert_eq!(prepared.allocation(), allocation);
    assert_is_read_back(&ClaimRecord { claims: BTreeMap::from([("u1".to_owned(), prepared)]) });
}

/// The metadata file of a request stays below its claim's directory, and has one line for each version with the same content.
fn assert_metadata(allocation: &Allocation, request: &str, base: &str, object: &Value) {
    let directory = claim_directory(Path::new("/plugins"), "a", "vm");
    let path = directory.join(base).join("metadata.json");
    assert!(path.components().all(|part| matches!(part, Component::RootDir | Component::Normal(_))));
    assert_eq!(path.parent().and_then(Path::parent), Some(directory.as_path()));
    // Any attributes, from the input.
    let attributes = serde_json::from_value(object["spec"].clone()).unwrap_or_default();
    let name = object["metadata"]["name"].as_str().unwrap_or_default();
    let metadata = Metadata {
        metadata: ClaimName { name, namespace: "a", uid: "u1", generation: 1 },
        pod_claim_name: allocation.pod_claim_name.as_deref(),
        requests: [Request {
            name: request,
            devices: vec![Device { driver: DRIVER, pool: POOL, name: "d".to_owned(), attributes }],
        }],
    };
    let text = metadata.text().expect("any text is written");
    let mut objects =
        text.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line is an object"));
    let (mut beta, alpha) = (objects.next().expect("v1beta1"), objects.next().expect("v1alpha1"));
    assert_eq!(objects.next(), None);
    assert_eq!(beta["metadata"]["name"], name);
    assert_eq!(beta["requests"][0]["name"], request);
    beta["apiVersion"] = alpha["apiVersion"].clone();
    assert_eq!(beta, alpha);
    let inside = metadata.container_path(DRIVER, base);
    assert!(inside.ends_with(&format!("/{base}/{DRIVER}-metadata.json")));
}
