//! The pools file, the state files and the answer of the status socket.

use crate::bounded;
use serde_json::{Value, json};
use vfio_device_plugin::fuzzing;
use vfio_plugin_policy::assignments::ledger::Ledger;
use vfio_plugin_policy::health::stored::StoredHealth;

/// Bytes for the buffers of a parser of JSON.
const BUFFERS: usize = 256 << 10;
/// Bytes for each byte of JSON: an empty array or a short text in a set.
const AMPLIFICATION: usize = 64;

/// The pools file. Its parser may keep a value for each byte, and the values that aliases repeat.
pub fn pools(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if text.len() > 64 << 10 {
        return;
    }
    match bounded(16 << 20, || fuzzing::pools(text)) {
        Ok(_) => assert!(text.contains("pools"), "pools come from the key of this name only"),
        Err(error) => {
            // It is logged, and printed on terminals.
            assert!(!error.is_empty() && error.len() < 4096, "{} bytes", error.len());
            assert!(!error.contains(char::is_control), "{error:?}");
        }
    }
}

/// The state files of the version that this plugin reads.
pub fn state_file(data: &[u8]) {
    let most = BUFFERS + AMPLIFICATION * data.len();
    if let Some(ledger) = bounded(most, || fuzzing::state_file::<Ledger>(data)) {
        let Value::Object(mut fields) = json!(ledger) else { panic!("a ledger is an object") };
        fields.insert("version".to_owned(), 1.into());
        let text = serde_json::to_vec(&fields).expect("a value can be written");
        assert_eq!(fuzzing::state_file::<Ledger>(&text), Some(ledger), "what is written is read back");
    }
    if let Some(health) = bounded(most, || fuzzing::state_file::<StoredHealth>(data)) {
        assert!(health.into_reasons().len() <= data.len());
    }
}

/// An answer of the status socket.
pub fn status(data: &[u8]) {
    let most = BUFFERS + AMPLIFICATION * data.len();
    if let Some(report) = bounded(most, || fuzzing::status(data)) {
        assert_eq!(fuzzing::status(&report).as_ref(), Some(&report), "what is written is read back");
    }
}
