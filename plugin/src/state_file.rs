//! Small JSON files that carry state over a restart of the plugin.
//!
//! They are in the run directory, which is on a tmpfs by default. A reboot therefore empties them. That is right: a reboot also
//! ends all VMs, unbinds all devices and empties /var/run/cdi, so the state is void. On a disk the files survive a reboot; their
//! users then check the content against what the kubelet and the kernel show.
//!
//! A file that cannot be used is never overwritten. It is kept under another name ([`crate::files::set_aside`]), and reported as long
//! as it is there: a file that is empty (but for [`StateFile::of_this_boot`]), half written, of another version, too large, of another
//! user or no regular file, and one that the kernel cannot read.

use crate::bounded_json::{self, JsonError, JsonLimits};
use crate::files::{Links, Waited, is_on_disk, open, read_all, replace_on, set_aside, within};
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
    /// What this process has read, until its first write: the same content need not be written again.
    read: Option<Vec<u8>>,
    /// Whether the file has content that could be neither read nor kept aside, so that it must not be written.
    is_stuck: bool,
    /// A write that has not ended in time.
    late: Option<Receiver<Result<()>>>,
    /// Whether no later boot needs the content.
    is_of_boot: bool,
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
            read: None,
            is_stuck: false,
            late: None,
            is_of_boot: false,
        }
    }

    /// No later boot needs the content: it is not synchronized, which takes milliseconds on a disk and far more on a busy one. After a
    /// power cut the file may have an older content, or be empty (XFS), which counts as missing. If it was cut off, it is kept aside.
    #[cfg(feature = "dra")]
    #[must_use]
    pub(crate) fn of_this_boot(self) -> Self {
        Self { is_of_boot: true, ..self }
    }

    /// Returns the content of a file that [`write_versioned`](Self::write_versioned) wrote with this version. Returns none if the
    /// file is missing. A file that cannot be used is logged and kept aside, and has no content.
    ///
    /// # Errors
    /// The file cannot be read now and may be read later: the kernel is out of descriptors or memory, or the file could not be kept
    /// aside. The caller must not write the file before it was read.
    pub(crate) fn read_versioned<T: DeserializeOwned>(&mut self, version: u32) -> Result<Option<T>> {
        let content = self.try_read(version);
        let (code, file) = (ProblemCode::StateFileUnread, self.path.display());
        match content {
            Ok(content) => {
                self.run_dir.problems.end(code, file);
                Ok(content)
            }
            Err(error) => {
                self.run_dir.problems.begin(code, &file, format_args!("cannot be read: {error}"));
                Err(Error::new(error.kind(), format!("cannot read {file}: {error}")))
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
    fn try_read<T: DeserializeOwned>(&mut self, version: u32) -> Result<Option<T>> {
        let content = match self.read_bytes() {
            Ok(text) if text.is_empty() && self.is_of_boot => Ok(None),
            Ok(text) => {
                let content = decode_versioned(&text, version).map(Some).map_err(|error| invalid(&error));
                self.read = content.is_ok().then_some(text);
                content
            }
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
        if self.run_dir.is_of_reader() {
            tracing::warn!(%file, %error, "state file ignored");
            return Ok(());
        }
        if !self.run_dir.may_write() {
            let text = format!("{error}; another process of the plugin writes it");
            return Err(Error::new(ErrorKind::ReadOnlyFilesystem, text));
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
    /// and leaves the former file in place. Does nothing while this process may not write to the run directory.
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

    /// Returns whether the latest write of this process succeeded.
    pub(crate) fn is_written(&self) -> bool {
        self.written.is_some()
    }

    /// Returns whether the disk has not finished a write in time. The next write succeeds once it has.
    #[cfg(feature = "dra")]
    pub(crate) fn is_late(&self) -> bool {
        self.late.is_some()
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
        if self.read.take().as_ref() == Some(&text) {
            self.written = Some(text);
            return Ok(false);
        }
        let is_on_disk = is_on_disk(self.path.parent().unwrap_or(Path::new("/")));
        let (run_dir, path, content) = (self.run_dir.clone(), self.path.clone(), text.clone());
        let is_synchronized = is_on_disk && !self.is_of_boot;
        let write = move || create_and_replace(&run_dir, is_synchronized, &path, &content);
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
fn create_and_replace(run_dir: &RunDir, is_synchronized: bool, path: &Path, content: &[u8]) -> Result<()> {
    match replace_on(is_synchronized, path, content, MODE) {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            // The first write of this boot, before anything else has made the run directory.
            run_dir.create()?;
            replace_on(is_synchronized, path, content, MODE)
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

/// Returns whether a failed read or open may succeed later without a change of the file.
pub(crate) fn is_passing(error: &Error) -> bool {
    let passing = [Errno::MFILE, Errno::NFILE, Errno::NOMEM, Errno::INTR, Errno::AGAIN];
    error.raw_os_error().is_some_and(|number| passing.iter().any(|errno| errno.raw_os_error() == number))
}

/// Parses an object, checks its field `version` and returns the other fields. Parses twice: a tree of values in between would take
/// many times the text's size.
pub(crate) fn decode_versioned<T: DeserializeOwned>(
    text: &[u8],
    version: u32,
) -> std::result::Result<T, JsonError> {
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
mod tests;
