//! Small JSON files that carry state over a restart of the plugin.
//!
//! They are in the run directory, which is on a tmpfs by default. A reboot therefore empties them. That is right: a reboot also
//! ends all VMs, unbinds all devices and empties /var/run/cdi, so the state is void. On a disk the files survive a reboot; their
//! users then check the content against what the kubelet and the kernel show.
//!
//! A file that cannot be used is never overwritten. It is kept under another name ([`crate::files::set_aside`]), and reported as long
//! as it is there: a file that is empty, half written, of another version, too large, of another user or no regular file, and one
//! that the kernel cannot read.

use crate::bounded_json::{self, JsonError, JsonLimits};
use crate::files::{Links, Waited, is_on_disk, open, read_all, replace, set_aside, within};
use crate::problems::{ProblemCode, Problems};
use crate::run_dir::{RunDir, is_trusted};
use rustix::io::Errno;
use serde::de::{DeserializeOwned, Error as _};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, TryRecvError};
use std::time::Duration;

/// Limit for the size of a state file in bytes.
const MAX_SIZE: u64 = 16 * 1024 * 1024;
/// The permissions of a state file. `list` of any user reads the names of vGPU types.
const MODE: u32 = 0o644;
/// How often and after which pause [`StateFile::read_once`] tries to read a file while the kernel is out of descriptors or memory.
const ATTEMPTS: u32 = 10;
const PAUSE: Duration = Duration::from_millis(20);
/// How long a write to a disk is waited for. It is on the way of an Allocate.
const DISK: Duration = Duration::from_secs(1);
/// Limits for the content of a state file. A record of an assignment has about 20 values.
const LIMITS: JsonLimits = JsonLimits { bytes: MAX_SIZE, string: 4096, depth: 32, values: 250_000 };

/// One state file.
#[derive(Debug)]
pub(crate) struct StateFile {
    run_dir: RunDir,
    path: PathBuf,
    /// What this process wrote last. None before the first write and after a failed one.
    written: Option<Vec<u8>>,
    /// Whether the file has content that could be neither read nor kept aside, so that it must not be written.
    is_stuck: bool,
    /// A write that has not ended in time.
    late: Option<Receiver<Result<()>>>,
}

/// The content of a file with a version: the fields of `content`, and `version` beside them.
#[derive(Serialize)]
struct Versioned<'a, T> {
    version: u32,
    #[serde(flatten)]
    content: &'a T,
}

/// The version of a file's content; the other fields are skipped.
#[derive(Deserialize)]
struct Version {
    #[serde(default)]
    version: Value,
}

impl StateFile {
    /// Returns the state file `name` of a run directory. Neither needs to exist.
    pub(crate) fn new(run_dir: &RunDir, name: &str) -> Self {
        Self {
            run_dir: run_dir.clone(),
            path: run_dir.file(name),
            written: None,
            is_stuck: false,
            late: None,
        }
    }

    /// Returns the content of a file that [`write_versioned`](Self::write_versioned) wrote with this version. Returns none if the
    /// file is missing. A file that cannot be used is logged and kept aside, and has no content.
    ///
    /// # Errors
    /// The file cannot be read now and may be read later: the kernel is out of descriptors or memory, or the file could not be kept
    /// aside. The caller must not write the file before it was read.
    pub(crate) fn read_versioned<T: DeserializeOwned>(&mut self, version: u32) -> Result<Option<T>> {
        let (code, file) = (ProblemCode::StateFileUnread, self.path.display());
        match self.try_read(version) {
            Ok(content) => {
                self.run_dir.problems.end(code, file);
                Ok(content)
            }
            Err(error) => {
                let error = Error::new(error.kind(), format!("cannot read {file}: {error}"));
                self.run_dir.problems.begin(code, file, &error);
                Err(error)
            }
        }
    }

    /// Returns the content like [`read_versioned`](Self::read_versioned), for a user that reads the file once. Blocks for up to 200 ms
    /// while the kernel is out of descriptors or memory; after that the file is kept aside unread.
    pub(crate) fn read_once<T: DeserializeOwned + Default>(&mut self, version: u32) -> T {
        let mut content = self.try_read(version);
        for _ in 1..ATTEMPTS {
            if !content.as_ref().is_err_and(is_passing) {
                break;
            }
            std::thread::sleep(PAUSE);
            content = self.try_read(version);
        }
        let content = content.or_else(|error| self.keep_aside(&error).map(|()| None));
        if let Err(error) = &content {
            self.is_stuck = true;
            let file = self.path.display();
            let text = format!("can be neither read nor kept aside, and is not written: {error}");
            self.run_dir.problems.begin(ProblemCode::StateFileUnread, &file, text);
            tracing::warn!(%file, %error, "state file could be neither read nor kept aside; the plugin works without it");
        }
        content.ok().flatten().unwrap_or_default()
    }

    /// Reads the file, and keeps it aside if it cannot be used.
    fn try_read<T: DeserializeOwned>(&self, version: u32) -> Result<Option<T>> {
        let content = match self.read_bytes() {
            Ok(text) => decode_versioned(&text, version).map(Some).map_err(|error| invalid(&error)),
            // In a run directory that is none, there is no file either.
            Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory) => Ok(None),
            Err(error) => Err(error),
        };
        match content {
            Err(error) if !is_passing(&error) => self.keep_aside(&error).map(|()| None),
            content => content,
        }
    }

    /// Moves a file that cannot be used out of the way, and records that. A command that only prints leaves it where it is.
    fn keep_aside(&self, error: &Error) -> Result<()> {
        let file = self.path.display();
        if !self.run_dir.may_write() {
            tracing::warn!(%file, %error, "state file ignored");
            return Ok(());
        }
        let kept = set_aside(&self.path)?;
        let kept = kept.display();
        self.run_dir.problems.begin(
            ProblemCode::StateFileKeptAside,
            &kept,
            format!("is a state file that could not be used: {error}"),
        );
        tracing::warn!(%file, %kept, %error, "state file kept aside; the plugin starts without its content");
        Ok(())
    }

    /// Writes the content, unless the last write of this process had the same. A failure is logged once until a write succeeds,
    /// and leaves the former file in place.
    pub(crate) fn write<T: Serialize>(&mut self, content: &T) {
        if !self.run_dir.may_write() {
            return;
        }
        if self.is_stuck {
            let is_gone =
                self.path.symlink_metadata().is_err_and(|error| error.kind() == ErrorKind::NotFound);
            if !is_gone && self.keep_aside(&Error::other("it could not be read at the start")).is_err() {
                return;
            }
            self.is_stuck = false;
            self.run_dir.problems.end(ProblemCode::StateFileUnread, self.path.display());
        }
        let (code, problems) = (ProblemCode::StateFileNotWritten, self.run_dir.problems.clone());
        match self.try_write(content) {
            Ok(is_written) => {
                if is_written {
                    problems.end(code, self.path.display());
                }
            }
            Err(error) => {
                self.written = None;
                let file = self.path.display();
                if problems.begin(code, &file, format!("cannot be written: {error}")) {
                    tracing::warn!(%file, %error, "state file not written; a restart of the plugin will not see the latest state");
                }
            }
        }
    }

    /// Writes the content like [`write`](Self::write), with a field `version` beside its own. The content must be a
    /// struct that ignores unknown fields.
    pub(crate) fn write_versioned<T: Serialize>(&mut self, version: u32, content: &T) {
        self.write(&Versioned { version, content });
    }

    /// Returns whether a write was necessary. A write to a disk is waited for only for a time, and the next one begins after its end.
    fn try_write<T: Serialize>(&mut self, content: &T) -> Result<bool> {
        let slow = || Error::new(ErrorKind::TimedOut, "the disk has not finished the write yet");
        match self.late.as_ref().map(Receiver::try_recv) {
            Some(Err(TryRecvError::Empty)) => return Err(slow()),
            // What was written late may be old by now.
            _ => self.late = None,
        }
        let text = serde_json::to_vec(content)?;
        if self.written.as_ref() == Some(&text) {
            return Ok(false);
        }
        let is_on_disk = is_on_disk(self.path.parent().unwrap_or(Path::new("/")));
        let (run_dir, path, content) = (self.run_dir.clone(), self.path.clone(), text.clone());
        let write = move || create_and_replace(&run_dir, &path, &content);
        match if is_on_disk { within(DISK, write) } else { Waited::Done(write()) } {
            Waited::Done(result) => result?,
            Waited::Late(receiver) => {
                self.late = Some(receiver);
                return Err(slow());
            }
        }
        self.written = Some(text);
        Ok(true)
    }

    /// Reads the file. A link is not followed: only another user's file would be reached by it.
    fn read_bytes(&self) -> Result<Vec<u8>> {
        let (file, metadata) = open(&self.path, Links::Refuse)?;
        let user = metadata.uid();
        if !is_trusted(user) {
            return Err(Error::new(ErrorKind::PermissionDenied, format!("it belongs to user {user}")));
        }
        read_all(file, metadata.len(), MAX_SIZE)
    }
}

/// Replaces a state file.
fn create_and_replace(run_dir: &RunDir, path: &Path, content: &[u8]) -> Result<()> {
    match replace(path, content, MODE) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            // The first write of this boot, before anything else has made the run directory.
            run_dir.create()?;
            replace(path, content, MODE)
        }
        result => result,
    }
}

/// Ends the problems of files that were kept aside and are there no more.
pub(crate) fn forget_removed(problems: &Problems) {
    problems.keep(ProblemCode::StateFileKeptAside, |kept| Path::new(kept).symlink_metadata().is_ok());
}

fn invalid(error: &JsonError) -> Error {
    Error::new(ErrorKind::InvalidData, error.to_string())
}

/// Returns whether a failed read may succeed later without a change of the file.
fn is_passing(error: &Error) -> bool {
    let passing = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::INTR, Errno::AGAIN];
    error.raw_os_error().is_some_and(|number| passing.iter().any(|errno| errno.raw_os_error() == number))
}

/// Parses an object, checks its field `version` and returns the other fields. Parses twice: a tree of values in between would take
/// many times the text's size.
pub(crate) fn decode_versioned<T: DeserializeOwned>(text: &[u8], version: u32) -> std::result::Result<T, JsonError> {
    if text.is_empty() {
        return Err(JsonError::Malformed(serde_json::Error::custom("it is empty")));
    }
    let Version { version: found } = bounded_json::read(text, LIMITS)?;
    if found != version {
        let text = format!("it has version {found}, this plugin reads version {version}");
        return Err(JsonError::Malformed(serde_json::Error::custom(text)));
    }
    bounded_json::read(text, LIMITS)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    use serde::Serializer;
    use std::fs;

    #[derive(Serialize, Deserialize, PartialEq, Debug, Default)]
    struct Content {
        held: Vec<u32>,
    }

    /// A type that no serializer can write.
    struct Unserializable;

    impl Serialize for Unserializable {
        fn serialize<S: Serializer>(&self, _: S) -> std::result::Result<S::Ok, S::Error> {
            Err(serde::ser::Error::custom("unserializable"))
        }
    }

    fn run_dir(path: &Path) -> RunDir {
        RunDir::of_serve(path, &Problems::default())
    }

    fn file(run_dir: &RunDir) -> StateFile {
        StateFile::new(run_dir, "x.json")
    }

    fn text(path: &Path) -> String {
        fs::read_to_string(path).unwrap_or_default()
    }

    fn codes(run_dir: &RunDir) -> Vec<ProblemCode> {
        run_dir.problems.current().into_iter().map(|problem| problem.code).collect()
    }

    #[test]
    fn first_write_makes_the_run_directory_with_explicit_modes() {
        let directory = tempfile::tempdir().unwrap();
        let run_dir = run_dir(&directory.path().join("run/vfio-device-plugin"));
        file(&run_dir).write(&[1]);
        let mode = |path: PathBuf| fs::metadata(path).unwrap().mode() & 0o7777;
        assert_eq!(text(&run_dir.file("x.json")), "[1]");
        assert_eq!(mode(run_dir.file("x.json")), 0o644);
        assert_eq!(mode(directory.path().join("run/vfio-device-plugin")), 0o755);
    }

    #[test]
    fn failed_write_keeps_the_former_file_and_is_repeated() {
        let directory = tempfile::tempdir().unwrap();
        let run_dir = run_dir(directory.path());
        let mut state_file = file(&run_dir);
        state_file.write(&[1, 2]);
        state_file.write(&Unserializable);
        assert_eq!(text(&run_dir.file("x.json")), "[1,2]");
        assert!(run_dir.problems.current()[0].text.contains("unserializable"));
        // The next write must not be skipped as unchanged.
        fs::remove_file(run_dir.file("x.json")).unwrap();
        state_file.write(&[1, 2]);
        assert_eq!((text(&run_dir.file("x.json")), codes(&run_dir)), ("[1,2]".to_owned(), vec![]));
        fs::write(run_dir.file("x.json"), "other").unwrap();
        state_file.write(&[1, 2]);
        assert_eq!(text(&run_dir.file("x.json")), "other", "unchanged content is not written again");
    }

    #[test]
    fn write_succeeds_once_the_directory_can_be_made() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("run");
        // A file has the directory's name.
        fs::write(&path, "").unwrap();
        let run_dir = run_dir(&path);
        let mut state_file = file(&run_dir);
        state_file.write(&[1]);
        assert_eq!(codes(&run_dir), [ProblemCode::StateFileNotWritten]);
        fs::remove_file(&path).unwrap();
        state_file.write(&[1]);
        assert_eq!((text(&run_dir.file("x.json")), codes(&run_dir)), ("[1]".to_owned(), vec![]));
    }

    #[test]
    fn content_of_the_expected_version_is_read() {
        let directory = tempfile::tempdir().unwrap();
        let run_dir = run_dir(directory.path());
        let mut state_file = file(&run_dir);
        assert_eq!(state_file.read_versioned::<Content>(1).unwrap(), None);
        let content = Content { held: vec![51] };
        state_file.write_versioned(1, &content);
        assert_eq!(text(&run_dir.file("x.json")), "{\"version\":1,\"held\":[51]}");
        assert_eq!(state_file.read_versioned(1).unwrap(), Some(content));
        assert_eq!(codes(&run_dir), []);
    }

    #[test]
    fn file_that_is_not_understood_is_kept_aside_and_reported() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x.json");
        let kept = directory.path().join("x.json.unreadable");
        for text in [
            "[]",
            "{}",
            "{\"version\":2,\"held\":[51]}",
            "{\"version\":1,\"held\":\"x\"}",
            "{\"version\":\"1\"}",
            "{\"version\":1",
            "",
        ] {
            let run_dir = run_dir(directory.path());
            fs::write(&path, text).unwrap();
            assert_eq!(file(&run_dir).read_versioned::<Content>(1).unwrap(), None, "{text}");
            assert_eq!(fs::read_to_string(&kept).unwrap(), text);
            assert_eq!(codes(&run_dir), [ProblemCode::StateFileKeptAside], "{text}");
            assert!(!path.exists());
            // The next process reports it too, until it is removed.
            let next = self::run_dir(directory.path());
            assert_eq!(codes(&next), [ProblemCode::StateFileKeptAside]);
            fs::remove_file(&kept).unwrap();
            forget_removed(&next.problems);
            assert_eq!(codes(&next), []);
        }
    }

    #[test]
    fn file_with_too_many_values_is_refused() {
        #[derive(Deserialize)]
        struct Content {
            #[serde(rename = "x")]
            _x: Vec<u8>,
        }
        let text = |values| format!("{{\"version\":1,\"x\":[{}0]}}", "0,".repeat(values));
        assert!(decode_versioned::<Content>(text(200_000).as_bytes(), 1).is_ok());
        let error = decode_versioned::<Content>(text(7 << 20).as_bytes(), 1).err().unwrap();
        assert!(matches!(error, JsonError::Over(bounded_json::JsonLimit::Values)), "{error}");
    }

    #[test]
    fn anything_that_is_no_plain_file_of_ours_is_kept_aside() {
        let directory = tempfile::tempdir().unwrap();
        let run_dir = run_dir(directory.path());
        let path = run_dir.file("x.json");
        let target = directory.path().join("target");
        let content = "{\"version\":1,\"held\":[51]}";
        fs::write(&target, content).unwrap();
        let plant: [(&str, &dyn Fn()); 6] = [
            ("a directory", &|| fs::create_dir(&path).unwrap()),
            ("a link", &|| std::os::unix::fs::symlink(&target, &path).unwrap()),
            ("a device", &|| std::os::unix::fs::symlink("/dev/zero", &path).unwrap()),
            ("a FIFO", &|| mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap()),
            ("a socket", &|| drop(std::os::unix::net::UnixListener::bind(&path).unwrap())),
            ("too large", &|| fs::File::create(&path).unwrap().set_len(MAX_SIZE + 1).unwrap()),
        ];
        for (what, plant) in plant {
            plant();
            let mut state_file = file(&run_dir);
            assert_eq!(state_file.read_once::<Content>(1), Content::default(), "{what}");
            assert!(path.symlink_metadata().is_err(), "{what}");
            state_file.write_versioned(1, &Content::default());
            assert!(path.symlink_metadata().unwrap().is_file(), "{what}");
            fs::remove_file(&path).unwrap();
        }
        assert_eq!(text(&target), content);
        if rustix::process::geteuid().is_root() {
            fs::write(&path, content).unwrap();
            std::os::unix::fs::chown(&path, Some(4711), None).unwrap();
            assert_eq!(file(&run_dir).read_once::<Content>(1), Content::default(), "another user wrote it");
        }
    }

    #[test]
    fn file_that_cannot_be_kept_aside_is_not_overwritten() {
        let directory = tempfile::tempdir().unwrap();
        let run_dir = run_dir(directory.path());
        // All places are taken, and the last cannot be replaced.
        for place in ["", ".1", ".2", ".3"] {
            fs::create_dir_all(run_dir.file(&format!("x.json.unreadable{place}/full"))).unwrap();
        }
        fs::write(run_dir.file("x.json"), "half").unwrap();
        let mut state_file = file(&run_dir);
        assert!(state_file.read_versioned::<Content>(1).unwrap_err().to_string().contains("x.json"));
        assert!(codes(&run_dir).contains(&ProblemCode::StateFileUnread));
        assert_eq!(state_file.read_once::<Content>(1), Content::default());
        state_file.write_versioned(1, &Content::default());
        assert_eq!(text(&run_dir.file("x.json")), "half");
        fs::remove_dir_all(run_dir.file("x.json.unreadable")).unwrap();
        state_file.write_versioned(1, &Content::default());
        assert_eq!(text(&run_dir.file("x.json.unreadable")), "half");
        assert_eq!(text(&run_dir.file("x.json")), "{\"version\":1,\"held\":[]}");
        assert!(!codes(&run_dir).contains(&ProblemCode::StateFileUnread));
    }

    #[test]
    fn reader_changes_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let run_dir = RunDir::of_reader(directory.path());
        fs::write(run_dir.file("x.json"), "half").unwrap();
        let mut state_file = file(&run_dir);
        assert_eq!(state_file.read_versioned::<Content>(1).unwrap(), None);
        state_file.write_versioned(1, &Content::default());
        assert_eq!(text(&run_dir.file("x.json")), "half");
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }
}
