//! The run directory: the place of the status socket and of the state files.

use crate::files::{create_directories, is_kept_aside, names, remove_leftovers};
use crate::problems::{ProblemCode, Problems};
use rustix::process::geteuid;
use std::io::Result;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether a process may change the directory.
#[derive(Clone, Debug)]
enum Access {
    /// `serve`, whose state it has. The value is whether it may write now: another `serve` may have the directory's lock.
    Owner(Arc<AtomicBool>),
    /// Commands that only print.
    Reader,
}

/// The run directory, which need not exist.
#[derive(Clone, Debug)]
pub(crate) struct RunDir {
    path: PathBuf,
    access: Access,
    /// What is wrong with its files.
    pub(crate) problems: Problems,
}

impl RunDir {
    /// Returns the directory for a `serve` that has its lock. Removes the temporary files that killed processes left.
    pub(crate) fn of_serve(path: &Path, problems: &Problems) -> Self {
        let run_dir = Self::of_waiting_serve(path, problems);
        run_dir.begin_writing();
        run_dir
    }

    /// Returns the directory for a `serve` that does not have its lock yet: it writes and removes nothing until
    /// [`begin_writing`](Self::begin_writing).
    pub(crate) fn of_waiting_serve(path: &Path, problems: &Problems) -> Self {
        let access = Access::Owner(Arc::default());
        let run_dir = Self { path: path.to_owned(), access, problems: problems.clone() };
        run_dir.check_owner();
        run_dir
    }

    /// Allows writes, because this process has the lock now. Removes the temporary files that killed processes left. Does nothing if
    /// writes are allowed already.
    pub(crate) fn begin_writing(&self) {
        let Access::Owner(may_write) = &self.access else { return };
        if may_write.load(Ordering::Relaxed) {
            return;
        }
        let names = names(&self.path);
        remove_leftovers(&self.path, &names);
        for kept in names.iter().filter(|name| is_kept_aside(name)) {
            let text = "is a file that an earlier process could not use";
            self.problems.begin(ProblemCode::StateFileKeptAside, self.path.join(kept).display(), text);
        }
        may_write.store(true, Ordering::Relaxed);
    }

    /// Allows no more writes, because this process gives up the lock. Clones are bound by it too.
    pub(crate) fn end_writing(&self) {
        if let Access::Owner(may_write) = &self.access {
            may_write.store(false, Ordering::Relaxed);
        }
    }

    /// Returns the directory for a command that writes nothing.
    pub(crate) fn of_reader(path: &Path) -> Self {
        Self { path: path.to_owned(), access: Access::Reader, problems: Problems::default() }
    }

    /// Returns whether the files may be written and moved now.
    pub(crate) fn may_write(&self) -> bool {
        matches!(&self.access, Access::Owner(may_write) if may_write.load(Ordering::Relaxed))
    }

    /// Returns whether this process never writes.
    pub(crate) fn is_of_reader(&self) -> bool {
        matches!(self.access, Access::Reader)
    }

    /// Returns the directory's path.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the path of a file.
    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// Creates the directory unless it exists.
    ///
    /// # Errors
    /// As [`create_directories`].
    pub(crate) fn create(&self) -> Result<()> {
        if !self.check_owner() {
            create_directories(&self.path)?;
            self.check_owner();
        }
        Ok(())
    }

    /// Records if other users can change the directory. The plugin uses it nevertheless: it follows no link in it, and uses no file
    /// of another user. Returns whether the directory exists.
    fn check_owner(&self) -> bool {
        const STICKY: u32 = 0o1000;
        let Ok(metadata) = std::fs::metadata(&self.path) else { return false };
        let (user, mode) = (metadata.uid(), metadata.mode());
        let (code, about) = (ProblemCode::RunDirShared, self.path.display());
        let text = if !is_trusted(user) {
            format!("belongs to user {user}, who can remove the plugin's state files")
        } else if (mode & 0o002 != 0 || mode & 0o020 != 0 && metadata.gid() != 0) && mode & STICKY == 0 {
            format!("has mode {:04o}, so other users can remove the plugin's state files", mode & 0o7777)
        } else {
            self.problems.end(code, about);
            return metadata.is_dir();
        };
        if self.problems.begin(code, &about, &text) {
            tracing::warn!(run_dir = %about, problem = text, "run directory is shared with other users");
        }
        metadata.is_dir()
    }
}

/// Returns whether a file of this user can be the plugin's: the user is root, or the one that runs the plugin.
pub(crate) fn is_trusted(user: u32) -> bool {
    user == 0 || user == geteuid().as_raw()
}
