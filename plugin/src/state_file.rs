//! What is kept over a restart of ours, as small JSON files in a folder that a reboot empties, as it empties the node of
//! machines.

use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io::{Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

const LONGEST: u64 = 16 * 1024 * 1024;

/// One such file.
#[derive(Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
    /// What was written last; none after a failure, which is told once.
    written: Option<Vec<u8>>,
}

impl StateFile {
    /// The file of this name, which need not be there.
    pub(crate) fn new(run_dir: &Path, name: &str) -> Self {
        Self { path: run_dir.join(name), written: Some(Vec::new()) }
    }

    /// What was written before; what is not there or not understood is nothing remembered.
    pub(crate) fn read<T: DeserializeOwned + Default>(&self) -> T {
        read(&self.path).unwrap_or_default()
    }

    /// Writes it, if it is another than before.
    pub(crate) fn write<T: Serialize>(&mut self, what: &T) {
        let text = serde_json::to_vec(what).unwrap_or_default();
        if self.written.as_ref() == Some(&text) {
            return;
        }
        match replace(&self.path, &text, None) {
            Ok(()) => self.written = Some(text),
            Err(error) => {
                if self.written.take().is_some() {
                    let file = self.path.display();
                    tracing::warn!(%file, %error, "cannot be written: after a restart all is asked anew");
                }
            }
        }
    }
}

/// Reads a JSON file; none if it is not there or not understood.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    let mut text = Vec::new();
    std::fs::File::open(path).ok()?.take(LONGEST).read_to_end(&mut text).ok()?;
    serde_json::from_slice(&text).ok()
}

/// Writes a file in one step: whoever is killed meanwhile leaves the old one, and who reads it sees a whole one. `mode` is the
/// file's whatever our umask is.
pub(crate) fn replace(path: &Path, text: &[u8], mode: Option<u32>) -> std::io::Result<()> {
    let fresh = path.with_extension("new");
    let mut file = std::fs::File::create(&fresh)?;
    if let Some(mode) = mode {
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    }
    file.write_all(text)?;
    std::fs::rename(fresh, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_and_garbage_is_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut state_file = StateFile::new(folder.path(), "x.json");
        assert_eq!(state_file.read::<Vec<u32>>(), Vec::<u32>::new());
        state_file.write(&[1, 2]);
        assert_eq!(StateFile::new(folder.path(), "x.json").read::<Vec<u32>>(), [1, 2]);
        std::fs::write(folder.path().join("x.json"), b"[1,").unwrap();
        assert_eq!(state_file.read::<Vec<u32>>(), Vec::<u32>::new());
        state_file.write(&[1, 2]);
        assert_eq!(
            state_file.read::<Vec<u32>>(),
            Vec::<u32>::new(),
            "what has not changed is not written again"
        );
        let mut nowhere = StateFile::new(Path::new("/nonexistent"), "x.json");
        nowhere.write(&[1]);
        assert_eq!(nowhere.read::<Vec<u32>>(), Vec::<u32>::new());
    }
}
