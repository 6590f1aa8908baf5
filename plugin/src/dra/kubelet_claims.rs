//! Reads the kubelet's own record of prepared claims, for a driver whose record was lost, and for claims that the kubelet has forgotten.

use crate::files::{Links, open, read_all};
use crate::kubelet::claim_state::{MAX_SIZE, parse};
use std::collections::BTreeMap;
use std::fs::{File, Metadata};
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use vfio_plugin_policy::dra::kubelet_record::{Claims, KubeletClaim};
use vfio_plugin_policy::dra::names::DraDriver;

/// The kubelet's file, in its root directory.
pub(super) const FILE: &str = "dra_manager_state";

/// Reads the claims of this driver and pool from the kubelet's file, by uid. None if it is missing, and none if it cannot be used, which
/// is logged.
pub(super) fn kubelet_claims(path: &Path, driver: &DraDriver, pool: &str) -> BTreeMap<String, KubeletClaim> {
    claims(path).map(|claims| claims.of(driver, pool)).unwrap_or_default()
}

/// Returns whether the kubelet's file has a claim, of any driver. None if it is missing, or cannot be used, which is logged.
///
/// The kubelet writes a claim to it before it has it prepared, and removes it after it has it unprepared.
pub(super) fn has_claim(path: &Path, uid: &str) -> Option<bool> {
    Some(claims(path)?.has(uid))
}

fn claims(path: &Path) -> Option<Claims> {
    match open(path, Links::Refuse).and_then(|(file, metadata)| content(file, &metadata)) {
        Ok(content) => {
            let claims = parse(&content);
            if claims.is_none() {
                tracing::warn!(file = %path.display(), "the kubelet's record of claims is not understood");
            }
            claims
        }
        Err(error) => {
            if error.kind() != ErrorKind::NotFound {
                tracing::warn!(file = %path.display(), %error, "the kubelet's record of claims cannot be read");
            }
            None
        }
    }
}

/// Reads the file, unless the kubelet has replaced it. A container that has the file mounted, and not its directory, would read the old
/// file at each call.
fn content(file: File, metadata: &Metadata) -> Result<Vec<u8>> {
    if metadata.nlink() == 0 {
        return Err(Error::other(
            "the kubelet has replaced this file; mount its directory instead of the file",
        ));
    }
    read_all(file, metadata.len(), MAX_SIZE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_that_was_replaced_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let (path, next) = (directory.path().join(FILE), directory.path().join("next"));
        std::fs::write(&path, "old").unwrap();
        let file = File::open(&path).unwrap();
        let read = || content(file.try_clone().unwrap(), &file.metadata().unwrap());
        assert_eq!(read().unwrap(), b"old");
        std::fs::write(&next, "new").unwrap();
        std::fs::rename(&next, &path).unwrap();
        assert!(read().unwrap_err().to_string().contains("mount its directory"));
    }
}
