//! The lock of the run directory, a flock(2): at most one process answers Allocates and writes the state files.
//!
//! The kernel releases the lock when its process ends, so no process has to conclude from silence that another one is gone.
//!
//! The file also has the [`Succession`] of the processes that had the lock.

use crate::files::create_directories;
use crate::run_dir::is_trusted;
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use rustix::system::uname;
use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use vfio_plugin_policy::handover::succession::Succession;

/// The file's name. It is never removed: another process may be about to lock it.
const NAME: &str = "serve.lock";

/// Limit for the file in bytes. A name has at most 64.
const MAX_SIZE: usize = 4096;

/// The lock, released when dropped.
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Lock {
    /// Takes the lock if no other process has it. Creates the run directory. Does not block.
    ///
    /// # Errors
    /// The run directory or the file cannot be created, or the file is no regular file of the plugin's user or of root.
    pub(crate) fn try_take(run_dir: &Path) -> Result<Option<Self>> {
        create_directories(run_dir)?;
        let flags = OFlags::RDWR
            | OFlags::CREATE
            | OFlags::CLOEXEC
            | OFlags::NOFOLLOW
            | OFlags::NONBLOCK
            | OFlags::NOCTTY;
        let file = File::from(rustix::fs::open(run_dir.join(NAME), flags, Mode::RUSR | Mode::WUSR)?);
        let metadata = file.metadata()?;
        if !metadata.is_file() || !is_trusted(metadata.uid()) {
            let text = format!("{NAME} is no regular file of the plugin's user");
            return Err(Error::new(ErrorKind::InvalidInput, text));
        }
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self(file))),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes into the file that a process of this host serves. A failed write is no error: a process that reads an old text may ask
    /// for a hand-over, as without the text.
    pub(crate) fn sign(&self) {
        self.sign_as(&host());
    }

    fn sign_as(&self, host: &str) {
        let before = read(&self.0);
        let text = Succession::parse(&before).serve(host).to_string();
        // Not emptied first: a process that reads an empty file meanwhile would ask for a hand-over.
        if text != before && self.0.write_all_at(text.as_bytes(), 0).is_ok() && text.len() < before.len() {
            let _ = self.0.set_len(text.len() as u64);
        }
    }
}

/// Returns whether this process may ask the one with the lock to hand over. It may if the file cannot be read.
pub(crate) fn may_ask(run_dir: &Path) -> bool {
    may_ask_as(run_dir, &host())
}

fn may_ask_as(run_dir: &Path, host: &str) -> bool {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = rustix::fs::open(run_dir.join(NAME), flags, Mode::empty());
    file.map_or(true, |file| Succession::parse(&read(&File::from(file))).may_ask(host))
}

/// Returns the name of this process's UTS namespace: a pod's name in a pod without the host's network
/// (`GeneratePodHostNameAndDomain` in pkg/kubelet/kubelet_pods.go).
fn host() -> String {
    uname().nodename().to_string_lossy().into_owned()
}

/// Returns the start of a file's text; an empty one if it cannot be read.
fn read(file: &File) -> String {
    let mut bytes = [0; MAX_SIZE];
    let length = file.read_at(&mut bytes, 0).unwrap_or_default();
    String::from_utf8_lossy(bytes.get(..length).unwrap_or_default()).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lock_is_taken_by_one_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let run_dir = directory.path().join("run");
        let lock = Lock::try_take(&run_dir).unwrap();
        assert!(lock.is_some() && Lock::try_take(&run_dir).unwrap().is_none());
        drop(lock);
        assert!(Lock::try_take(&run_dir).unwrap().is_some());
    }

    #[test]
    fn replaced_host_reads_that_it_may_not_ask() {
        let directory = tempfile::tempdir().unwrap();
        let serve = |host| Lock::try_take(directory.path()).unwrap().unwrap().sign_as(host);
        let may_ask = |host| may_ask_as(directory.path(), host);
        assert!(may_ask("old"));
        serve("a-pod-with-a-longer-name");
        serve("new");
        assert!(!may_ask("a-pod-with-a-longer-name") && may_ask("new") && may_ask("third"));
        serve("a-pod-with-a-longer-name");
        assert!(may_ask("new"));
        assert_ne!(host(), "");
    }

    #[test]
    fn what_is_no_regular_file_is_no_lock() {
        let directory = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("target", directory.path().join(NAME)).unwrap();
        assert!(Lock::try_take(directory.path()).is_err());
        assert!(!directory.path().join("target").exists());
        let file = directory.path().join("file");
        std::fs::write(&file, "").unwrap();
        assert!(Lock::try_take(&file).is_err());
    }
}
