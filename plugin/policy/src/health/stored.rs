//! The content of the state file `health.json`: why devices were Unhealthy, kept over a restart of the plugin.
//!
//! `{"version":1,"devices":{"0000:3b:00.0":{"reason":{"code":"held","holders":[...]}}}}`. The plugin's `StateFile` adds the
//! version and checks it.

use super::encode;
use super::reason::Reason;
use super::tracker::HealthTracker;
use serde::ser::{SerializeStruct, Serializer};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use vfio_probe::DeviceId;

/// The version of the content. A file of another version carries nothing over.
pub const VERSION: u32 = 1;

/// The content as it is read. If any part of it is not understood, reading fails and no part is used.
#[derive(Debug, Default, Deserialize)]
pub struct StoredHealth {
    devices: BTreeMap<Key, StoredDevice<Reason>>,
}

impl StoredHealth {
    /// Returns why each device was Unhealthy.
    pub fn into_reasons(self) -> BTreeMap<DeviceId, Reason> {
        self.devices.into_iter().map(|(Key(id), StoredDevice { reason })| (id, reason)).collect()
    }
}

/// The content as it is written: the reasons of a tracker, without a copy of them.
#[derive(Debug)]
pub struct HealthContent<'a>(pub &'a HealthTracker);

impl Serialize for HealthContent<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut content = serializer.serialize_struct("HealthContent", 1)?;
        content.serialize_field("devices", &Devices(self.0))?;
        content.end()
    }
}

struct Devices<'a>(&'a HealthTracker);

impl Serialize for Devices<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.reasons().map(|(id, reason)| (Key(id), StoredDevice { reason })))
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct StoredDevice<R> {
    reason: R,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct Key(#[serde(with = "encode::device_id")] DeviceId);

#[cfg(test)]
mod tests {
    use super::super::reason::tests::every_reason;
    use super::*;
    use serde_json::json;

    #[test]
    fn every_reason_is_read_as_it_was_written() {
        let ids = (0_u8..).map(|bus| format!("0000:{bus:02x}:00.0").parse().unwrap());
        let reasons: BTreeMap<DeviceId, Reason> =
            ids.zip(every_reason().into_iter().map(|(reason, ..)| reason)).collect();
        let tracker = HealthTracker::new(reasons.clone());
        let text = serde_json::to_string(&HealthContent(&tracker)).unwrap();
        assert!(text.starts_with(r#"{"devices":{"0000:00:00.0":{"reason":{"code":"lost"}}"#), "{text}");
        let stored: StoredHealth = serde_json::from_str(&text).unwrap();
        assert_eq!(stored.into_reasons(), reasons);
    }

    #[test]
    fn malformed_content_is_refused_as_a_whole() {
        for devices in [
            json!(null),
            json!([]),
            json!({"51": {"reason": {"code": "lost"}}}),
            json!({"0000:01:00.0": {"reason": "lost"}}),
            json!({"0000:01:00.0": {"reason": {"code": "lost"}}, "0000:02:00.0": {}}),
        ] {
            let content = json!({"devices": devices});
            assert!(serde_json::from_value::<StoredHealth>(content).is_err(), "{devices}");
        }
        assert!(serde_json::from_value::<StoredHealth>(json!({})).is_err());
    }
}
