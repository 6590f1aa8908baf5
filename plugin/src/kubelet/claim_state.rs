//! Parses the kubelet's own record of prepared claims (`dra_manager_state`), within limits.

use crate::bounded_json::{self, JsonLimits};
use vfio_plugin_policy::dra::kubelet_record::{Checkpoint, Claims};

/// The limit for the size of the file. A claim has a few hundred bytes.
pub(crate) const MAX_SIZE: u64 = 16 << 20;
/// The limits of the file, and of the text within it.
const LIMITS: JsonLimits =
    JsonLimits { bytes: MAX_SIZE, string: MAX_SIZE as usize, depth: 32, values: 1_000_000 };

/// Parses the content of the file. None if it is not such a record.
pub(crate) fn parse(content: &[u8]) -> Option<Claims> {
    let Checkpoint { data } = bounded_json::read(content, LIMITS).ok()?;
    bounded_json::read(data.as_bytes(), LIMITS).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::collections::BTreeMap;
    use vfio_plugin_policy::dra::kubelet_record::KubeletClaim;

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
        let parsed = || parse(&file(&claims)).unwrap();
        assert!(parsed().has("of-others") && !parsed().has("u2"));
        let found = parsed().of(&"a.io".parse().unwrap(), "node-1");
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
        for content in [&b""[..], b"{}", br#"{"Data": "{"}"#, br#"{"Data": 5}"#, br#"{"Data": "[]"}"#] {
            assert!(parse(content).is_none());
        }
        let empty = parse(&file(&json!(null))).unwrap();
        assert_eq!(empty.of(&"a.io".parse().unwrap(), "node-1"), BTreeMap::new());
    }
}
