//! Reads the kubelet's own record of prepared claims, for a driver whose record was lost.

use crate::files::{Links, read};
use crate::kubelet::claim_state::{MAX_SIZE, parse};
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::Path;
use vfio_plugin_policy::dra::kubelet_record::KubeletClaim;
use vfio_plugin_policy::dra::names::DraDriver;

/// The kubelet's file, in its root directory.
pub(super) const FILE: &str = "dra_manager_state";

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
    match parse(&content) {
        Some(claims) => claims.of(driver, pool),
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
    Some(parse(&content)?.has(uid))
}
