//! The lock of the run directory, a flock(2): at most one process answers Allocates and writes the state files.
//!
//! The kernel releases the lock when its process ends, so no process has to conclude from silence that another one is gone.

use crate::files::create_directories;
use crate::run_dir::is_trusted;
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use rustix::io::Errno;
use std::fs::File;
use std::io::{Error, ErrorKind, Result};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// The file's name. It is never removed: another process may be about to lock it.
const NAME: &str = "serve.lock";

/// The lock, released when dropped.
#[derive(Debug)]
pub(crate) struct Lock(#[expect(dead_code, reason = "held for its drop")] File);

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
