//! Small JSON files that carry state over a restart of the plugin.
//!
//! They are in the run directory, which is on a tmpfs by default. A reboot therefore empties them. That is right: a reboot also
//! ends all VMs, unbinds all devices and empties /var/run/cdi, so the state is void. On a disk the files survive a reboot; their
//! users then check the content against what the kubelet and the kernel show.
//!
//! Each file is replaced in one step, so a reader never sees a part of it. It is not synchronized to the disk: after a power cut
//! it may be empty, which counts as no state.

use crate::log_once::LogOnce;
use serde::Serialize;
use serde::de::{DeserializeOwned, Error as _};
use serde_json::Value;
use std::io::{Error, ErrorKind, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

/// Limit for the size of a state file in bytes.
const MAX_SIZE: u64 = 16 * 1024 * 1024;

/// One state file.
#[derive(Debug)]
pub(crate) struct StateFile {
    path: PathBuf,
    /// What this process wrote last. None before the first write and after a failed one.
    written: Option<Vec<u8>>,
    failures: LogOnce<ErrorKind>,
}

/// The content of a file with a version: the fields of `content`, and `version` beside them.
#[derive(Serialize)]
struct Versioned<'a, T> {
    version: u32,
    #[serde(flatten)]
    content: &'a T,
}

impl StateFile {
    /// Returns the state file `name` of a run directory. Neither needs to exist.
    pub(crate) fn new(run_dir: &Path, name: &str) -> Self {
        Self { path: run_dir.join(name), written: None, failures: LogOnce::default() }
    }

    /// Returns the content of a file that [`write_versioned`](Self::write_versioned) wrote with this version. Returns none if the
    /// file is missing. Logs and returns none if the file is malformed or has another version.
    ///
    /// # Errors
    /// The file could not be read, so its content is unknown. The caller must not write the file before it was read.
    pub(crate) fn read_versioned<T: DeserializeOwned>(&self, version: u32) -> std::io::Result<Option<T>> {
        let file = self.path.display();
        let text = match read_bytes(&self.path) {
            Ok(text) => text,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::new(error.kind(), format!("cannot read {file}: {error}"))),
        };
        match decode_versioned(&text, version) {
            Ok(content) => Ok(Some(content)),
            Err(error) => {
                tracing::warn!(%file, %error, "state file ignored; the plugin starts without its content");
                Ok(None)
            }
        }
    }

    /// Returns the content like [`read_versioned`](Self::read_versioned), for a user that reads the file once. A file that is missing
    /// or could not be read has the default content; the latter is logged.
    pub(crate) fn read_once<T: DeserializeOwned + Default>(&self, version: u32) -> T {
        let content = self.read_versioned(version).unwrap_or_else(|error| {
            tracing::warn!(%error, "state file could not be read; the plugin starts without its content");
            None
        });
        content.unwrap_or_default()
    }

    /// Writes the content, unless the last write of this process had the same. A failure is logged once until a write succeeds,
    /// and leaves the former file in place.
    pub(crate) fn write<T: Serialize>(&mut self, content: &T) {
        if let Err(error) = self.try_write(content) {
            self.written = None;
            if self.failures.is_new(error.kind()) {
                let file = self.path.display();
                tracing::warn!(%file, %error, "state file not written; a restart of the plugin will not see the latest state");
            }
        }
    }

    /// Returns whether the latest write of this process succeeded.
    pub(crate) fn is_written(&self) -> bool {
        self.written.is_some()
    }

    /// Writes the content like [`write`](Self::write), with a field `version` beside its own. The content must be a struct or a
    /// map.
    pub(crate) fn write_versioned<T: Serialize>(&mut self, version: u32, content: &T) {
        self.write(&Versioned { version, content });
    }

    fn try_write<T: Serialize>(&mut self, content: &T) -> std::io::Result<()> {
        let text = serde_json::to_vec(content)?;
        if self.written.as_ref() != Some(&text) {
            match replace(&self.path, &text, None) {
                Err(error) if error.kind() == ErrorKind::NotFound => {
                    // The first write of this boot, before anything else has made the run directory.
                    std::fs::create_dir_all(self.path.parent().unwrap_or(Path::new("/")))?;
                    replace(&self.path, &text, None)?;
                }
                result => result?,
            }
            self.written = Some(text);
            self.failures.clear();
        }
        Ok(())
    }
}

/// Reads a JSON file. Returns none if it is missing or malformed.
pub(crate) fn read<T: DeserializeOwned>(path: &Path) -> Option<T> {
    serde_json::from_slice(&read_bytes(path).ok()?).ok()
}

fn read_bytes(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut text = Vec::new();
    std::fs::File::open(path)?.take(MAX_SIZE).read_to_end(&mut text)?;
    Ok(text)
}

/// Parses an object, checks its field `version` and returns the other fields.
fn decode_versioned<T: DeserializeOwned>(text: &[u8], version: u32) -> serde_json::Result<T> {
    let mut content: Value = serde_json::from_slice(text)?;
    let found = content.as_object_mut().and_then(|fields| fields.remove("version")).unwrap_or_default();
    if found != version {
        let text = format!("it has version {found}, this plugin reads version {version}");
        return Err(serde_json::Error::custom(text));
    }
    serde_json::from_value(content)
}

/// Replaces a file in one step: a reader sees the former file or the whole new one, also if the process is killed in between.
/// `mode` sets the file's permissions whatever the umask is; none leaves them to the umask.
pub(crate) fn replace(path: &Path, text: &[u8], mode: Option<u32>) -> std::io::Result<()> {
    let new = path.with_extension("new");
    let mut file = std::fs::File::create(&new)?;
    if let Some(mode) = mode {
        file.set_permissions(std::fs::Permissions::from_mode(mode))?;
    }
    file.write_all(text)?;
    std::fs::rename(new, path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Serializer;
    use std::collections::BTreeMap;

    /// A type that no serializer can write.
    struct Unserializable;

    impl Serialize for Unserializable {
        fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("unserializable"))
        }
    }

    fn content(state_file: &StateFile) -> Vec<u32> {
        read(&state_file.path).unwrap_or_default()
    }

    #[test]
    fn first_write_makes_the_run_directory() {
        let directory = tempfile::tempdir().unwrap();
        let run_dir = directory.path().join("run/vfio-device-plugin");
        StateFile::new(&run_dir, "x.json").write(&[1]);
        assert_eq!(read::<Vec<u32>>(&run_dir.join("x.json")), Some(vec![1]));
    }

    #[test]
    fn written_content_is_read_and_malformed_is_default() {
        let directory = tempfile::tempdir().unwrap();
        let mut state_file = StateFile::new(directory.path(), "x.json");
        assert_eq!(content(&state_file), Vec::<u32>::new());
        state_file.write(&[1, 2]);
        assert_eq!(content(&StateFile::new(directory.path(), "x.json")), [1, 2]);
        std::fs::write(directory.path().join("x.json"), b"[1,").unwrap();
        assert_eq!(content(&state_file), Vec::<u32>::new());
        state_file.write(&[1, 2]);
        assert_eq!(content(&state_file), Vec::<u32>::new(), "unchanged content is not written again");
        let mut nowhere = StateFile::new(Path::new("/dev/null/run"), "x.json");
        nowhere.write(&[1]);
        assert_eq!(content(&nowhere), Vec::<u32>::new());
    }

    #[test]
    fn failed_serialization_keeps_the_former_file() {
        let directory = tempfile::tempdir().unwrap();
        let mut state_file = StateFile::new(directory.path(), "x.json");
        state_file.write(&[1, 2]);
        state_file.write(&Unserializable);
        assert_eq!(content(&state_file), [1, 2]);
        assert!(state_file.try_write(&Unserializable).unwrap_err().to_string().contains("unserializable"));
        // The next write must not be skipped as unchanged.
        std::fs::remove_file(directory.path().join("x.json")).unwrap();
        state_file.write(&[1, 2]);
        assert_eq!(content(&state_file), [1, 2]);
    }

    #[test]
    fn write_succeeds_once_the_directory_can_be_made() {
        let directory = tempfile::tempdir().unwrap();
        let run_dir = directory.path().join("run");
        // A file has the directory's name.
        std::fs::write(&run_dir, "").unwrap();
        let mut state_file = StateFile::new(&run_dir, "x.json");
        state_file.write(&[1]);
        assert!(!state_file.failures.is_new(ErrorKind::NotADirectory), "it was logged");
        std::fs::remove_file(&run_dir).unwrap();
        state_file.write(&[1]);
        assert_eq!(content(&state_file), [1]);
        assert!(state_file.failures.is_new(ErrorKind::NotADirectory), "the next failure is logged again");
    }

    #[test]
    fn only_the_expected_version_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let mut state_file = StateFile::new(directory.path(), "x.json");
        type Content = BTreeMap<String, Vec<u32>>;
        assert_eq!(state_file.read_versioned::<Content>(1).unwrap(), None);
        let content = Content::from([("held".to_owned(), vec![51])]);
        state_file.write_versioned(1, &content);
        let text = std::fs::read_to_string(directory.path().join("x.json")).unwrap();
        assert_eq!(text, "{\"version\":1,\"held\":[51]}");
        assert_eq!(state_file.read_versioned(1).unwrap(), Some(content));
        assert_eq!(state_file.read_versioned::<Content>(2).unwrap(), None);
        for text in
            ["[]", "{}", "{\"version\":1,\"held\":\"x\"}", "{\"version\":\"1\"}", "{\"version\":1", ""]
        {
            std::fs::write(directory.path().join("x.json"), text).unwrap();
            assert_eq!(state_file.read_versioned::<Content>(1).unwrap(), None, "{text}");
        }
    }

    #[test]
    fn file_that_cannot_be_read_is_not_missing() {
        let directory = tempfile::tempdir().unwrap();
        // A directory in the file's place cannot be read, also by root.
        std::fs::create_dir(directory.path().join("x.json")).unwrap();
        let state_file = StateFile::new(directory.path(), "x.json");
        let error = state_file.read_versioned::<Vec<u32>>(1).unwrap_err();
        assert!(error.to_string().contains("cannot read") && error.to_string().contains("x.json"), "{error}");
        assert_eq!(state_file.read_once::<Vec<u32>>(1), [0; 0]);
    }
}
