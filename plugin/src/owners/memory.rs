//! What is known of owners, kept over a restart of ours: a kubelet that has lost its checkpoint will not tell it again.

use super::ledger::Ledger;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};

const LONGEST: u64 = 16 * 1024 * 1024;

/// The file; in a folder that a reboot empties, as it empties the node of machines.
pub(crate) fn path(run_dir: &Path) -> PathBuf {
    run_dir.join("owners.json")
}

/// Reads it; what is not there or not understood is nothing remembered.
pub(crate) fn read(path: &Path) -> Ledger {
    let mut text = Vec::new();
    let read = std::fs::File::open(path).and_then(|file| file.take(LONGEST).read_to_end(&mut text));
    read.ok().and_then(|_| serde_json::from_slice(&text).ok()).unwrap_or_default()
}

/// What is written of a ledger.
pub(crate) fn text(ledger: &Ledger) -> Vec<u8> {
    serde_json::to_vec(ledger).unwrap_or_default()
}

/// Writes it in one step: whoever is killed meanwhile leaves the old one.
///
/// # Errors
/// The folder is missing, full or not ours.
pub(crate) fn write(path: &Path, text: &[u8]) -> std::io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = std::fs::File::create(&fresh)?;
    file.write_all(text)?;
    std::fs::rename(fresh, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;
    use std::time::Instant;

    #[test]
    fn what_was_written_is_read_and_garbage_is_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = path(folder.path());
        assert_eq!(read(&path), Ledger::default());
        let mut ledger = Ledger::default();
        let ids = BTreeSet::from(["0000:01:00.0".to_owned()]);
        ledger.granted("r", ids.clone(), ids, Instant::now());
        write(&path, &text(&ledger)).unwrap();
        assert_eq!(read(&path).given()[0].real, ledger.given()[0].real);
        std::fs::write(&path, b"{\"given\":[{}]}").unwrap();
        assert_eq!(read(&path), Ledger::default());
        assert!(write(Path::new("/nonexistent/owners.json"), b"").is_err());
    }
}
