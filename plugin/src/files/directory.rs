//! Creates directories with explicit modes.

use rustix::fs::{Mode, OFlags, RawDir, fchmod, mkdir};
use rustix::io::Errno;
use std::io::{Error, ErrorKind, Result};
use std::path::Path;

/// The permissions of a new directory, whatever the umask is: all users may enter, only the plugin's user may write.
const MODE: Mode = Mode::from_raw_mode(0o755);
/// Limit for the names that are read of a directory.
const MAX_NAMES: usize = 10_000;
/// The bytes of a directory that are read at once.
const LISTING: usize = 4096;
/// The position after the last entry on tmpfs (`offset_iterate_dir`) and ext4 (`ext4_get_htree_eof`), which no other entry has. It
/// saves the call that would return nothing.
const END: [u64; 2] = [i32::MAX as u64, i64::MAX as u64];

/// Creates a directory, and those above it that are missing. The mode of a directory that exists is not changed, and a link to a
/// directory counts as one.
///
/// # Errors
/// A directory cannot be created, or something else has its name (`NotADirectory`).
pub(crate) fn create_directories(path: &Path) -> Result<()> {
    match mkdir(path, Mode::RWXU) {
        Ok(()) => set_mode(path),
        Err(Errno::EXIST) if path.is_dir() => Ok(()),
        Err(Errno::EXIST) => Err(Error::new(ErrorKind::NotADirectory, "it exists and is no directory")),
        Err(Errno::NOENT) => match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => {
                create_directories(parent)?;
                match mkdir(path, Mode::RWXU) {
                    Ok(()) => set_mode(path),
                    // Another process was faster.
                    Err(Errno::EXIST) => Ok(()),
                    Err(error) => Err(error.into()),
                }
            }
            _ => Err(Errno::NOENT.into()),
        },
        Err(error) => Err(error.into()),
    }
}

/// Returns the names in a directory, at most 10,000 of them. A directory that is missing or cannot be read has none.
pub(crate) fn names(directory: &Path) -> Vec<String> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let Ok(directory) = rustix::fs::open(directory, flags, Mode::empty()) else { return Vec::new() };
    let mut buffer = Vec::with_capacity(LISTING);
    let mut entries = RawDir::new(directory, buffer.spare_capacity_mut());
    let mut names = Vec::new();
    for _ in 0..MAX_NAMES {
        let Some(Ok(entry)) = entries.next() else { break };
        let is_last = END.contains(&entry.next_entry_cookie());
        let name = entry.file_name().to_str().ok().filter(|name| !matches!(*name, "." | ".."));
        names.extend(name.map(str::to_owned));
        if is_last {
            break;
        }
    }
    names
}

/// Sets the mode of a directory that was just created, and of nothing that took its place.
fn set_mode(path: &Path) -> Result<()> {
    let flags = OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let directory = rustix::fs::open(path, flags, Mode::empty())?;
    Ok(fchmod(directory, MODE)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

    #[test]
    fn new_directories_have_the_mode_and_old_ones_keep_theirs() {
        let parent = tempfile::tempdir().unwrap();
        let path = |name: &str| parent.path().join(name);
        let mode = |name: &str| std::fs::metadata(path(name)).unwrap().mode() & 0o7777;
        create_directories(&path("a/b/c")).unwrap();
        assert_eq!((mode("a"), mode("a/b"), mode("a/b/c")), (0o755, 0o755, 0o755));
        std::fs::set_permissions(path("a"), PermissionsExt::from_mode(0o700)).unwrap();
        symlink("a", path("link")).unwrap();
        create_directories(&path("link")).unwrap();
        create_directories(&path("link/d")).unwrap();
        assert_eq!((mode("a"), mode("a/d")), (0o700, 0o755));
    }

    #[test]
    fn anything_else_at_the_path_is_an_error_and_stays() {
        let parent = tempfile::tempdir().unwrap();
        let path = |name: &str| parent.path().join(name);
        std::fs::write(path("file"), "").unwrap();
        symlink("/nonexistent", path("dangling")).unwrap();
        for name in ["file", "dangling"] {
            let error = create_directories(&path(name)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NotADirectory, "{name}");
        }
        assert_eq!(create_directories(&path("file/x")).unwrap_err().kind(), ErrorKind::NotADirectory);
    }
}
