//! Lists directories, also one that stays open for the next time.

use super::Root;
use crate::error::is_shortage;
use rustix::fs::{OFlags, RawDir, SeekFrom, seek};
use rustix::io::Errno;
use std::fmt;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};

/// The caller's buffer for directory listings. Reusing one buffer keeps a repeated scan free of
/// allocations.
pub struct Buffer(Box<[MaybeUninit<u8>]>);

impl Buffer {
    /// Allocates a buffer of 32 KiB, the size that glibc uses for readdir. It holds about 1,000
    /// sysfs entries for each system call.
    #[must_use]
    pub fn new() -> Self {
        Self(Box::new_uninit_slice(32 * 1024))
    }
}

impl Default for Buffer {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Buffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Buffer({} bytes)", self.0.len())
    }
}

/// Calls `visit` with the name and the inode number of each entry of an open directory, except `.`
/// and `..`.
pub(super) fn list_open(
    directory: &OwnedFd,
    buffer: &mut Buffer,
    visit: &mut dyn FnMut(&[u8], u64),
) -> Result<(), Errno> {
    let mut entries = RawDir::new(directory.as_fd(), &mut buffer.0);
    while let Some(entry) = entries.next() {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if name != b"." && name != b".." {
            visit(name, entry.ino());
        }
        // This saves the call that would return 0 bytes.
        if is_last(entry.next_entry_cookie()) && entries.is_buffer_empty() {
            break;
        }
    }
    Ok(())
}

/// Returns whether a directory ends after the entry with this position of the next one.
///
/// sysfs, tmpfs and ext4 mark the end with the largest position (`kernfs_fop_readdir`,
/// `offset_iterate_dir`, `ext4_get_htree_eof`), and no other entry has it. procfs does not. A buffer
/// that is not full shows nothing: a signal ends the call after any entry (`filldir64`), and Go's
/// runtime sends many.
fn is_last(next: u64) -> bool {
    next == i32::MAX as u64 || next == i64::MAX as u64
}

/// A directory that is listed again and again. It stays open, so that it can be listed while this
/// process has no further descriptor.
#[derive(Debug, Default)]
pub(crate) struct KeptDirectory(Option<OwnedFd>);

impl KeptDirectory {
    /// Lists the directory as [`Root::list_inodes`] does. `path` must be the same in each call.
    ///
    /// It is opened by path each time, because another directory may be there by now. The one that
    /// was opened before serves only if there is no descriptor left.
    pub(crate) fn list(
        &mut self,
        root: &Root,
        path: fmt::Arguments<'_>,
        buffer: &mut Buffer,
        mut visit: impl FnMut(&[u8], u64),
    ) -> Result<(), Errno> {
        match (root.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY), &self.0) {
            (Ok(opened), _) => self.0 = Some(opened),
            (Err(errno), Some(before)) if is_shortage(errno) => {
                seek(before, SeekFrom::Start(0))?;
            }
            (Err(errno), _) => {
                self.0 = None;
                return Err(errno);
            }
        }
        self.0.as_ref().map_or(Ok(()), |directory| list_open(directory, buffer, &mut visit))
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::fs;
    use std::path::Path;

    #[test]
    fn listings_are_complete() {
        let directory = tempfile::tempdir().unwrap();
        for index in 0..3000 {
            fs::write(directory.path().join(format!("{index}{}", "x".repeat(index % 200))), "").unwrap();
        }
        let many = directory.path().to_str().unwrap();
        let root = Root::host().unwrap();
        let mut buffer = Buffer::new();
        for path in [many, "/sys/devices/system/cpu", "/sys/kernel", "/sys/class", "/proc/self"] {
            let mut names = Vec::new();
            let relative = &path[1..];
            root.list(format_args!("{relative}"), &mut buffer, |name| names.push(name.to_vec())).unwrap();
            let entries = fs::read_dir(path).unwrap().flatten();
            let mut expected: Vec<_> = entries.map(|entry| entry.file_name().into_encoded_bytes()).collect();
            names.sort();
            expected.sort();
            assert_eq!(names, expected, "{path}");
        }
    }

    /// Names the directory for the child of [`while_interrupted`].
    const CHILD: &str = "VFIO_PROBE_TEST_DIRECTORY";

    /// Calls `work` with the directory in a child that is stopped and continued all the time. The
    /// child runs the test of this name again, and so calls this function again. A stop ends a
    /// getdents64 as any other signal does, and needs no handler.
    pub(crate) fn while_interrupted(test: &str, directory: &Path, work: impl FnOnce(&Path)) {
        use rustix::process::{Pid, Signal, kill_process};
        if let Some(directory) = std::env::var_os(CHILD) {
            return work(Path::new(&directory));
        }
        let mut child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test])
            .env(CHILD, directory)
            .stdout(std::process::Stdio::null())
            .spawn()
            .unwrap();
        let pid = Pid::from_child(&child);
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            for signal in [Signal::STOP, Signal::CONT] {
                kill_process(pid, signal).unwrap();
            }
            std::thread::sleep(std::time::Duration::from_micros(50));
        };
        assert!(status.success());
    }

    #[test]
    fn interrupted_listing_is_complete() {
        const ENTRIES: usize = 900;
        let directory = tempfile::tempdir().unwrap();
        for index in 0..ENTRIES {
            fs::write(directory.path().join(index.to_string()), "").unwrap();
        }
        let test = "root::listing::tests::interrupted_listing_is_complete";
        while_interrupted(test, directory.path(), |directory| {
            let root = Root::open(directory).unwrap();
            let mut buffer = Buffer::new();
            for _ in 0..2000 {
                let mut count = 0;
                root.list(format_args!("."), &mut buffer, |_| count += 1).unwrap();
                assert_eq!(count, ENTRIES);
            }
        });
    }

    #[test]
    fn kept_directory_follows_changes_and_its_successor() {
        let parent = tempfile::tempdir().unwrap();
        let path = parent.path().join("class");
        let root = Root::open(parent.path()).unwrap();
        let mut kept = KeptDirectory::default();
        let mut list = || {
            let mut names = Vec::new();
            let listed = kept.list(&root, format_args!("class"), &mut Buffer::new(), |name, _| {
                names.push(String::from_utf8_lossy(name).into_owned());
            });
            names.sort();
            listed.map(|()| names.join(","))
        };
        assert_eq!(list(), Err(Errno::NOENT));
        fs::create_dir(&path).unwrap();
        assert_eq!(list().unwrap(), "");
        fs::write(path.join("a"), "").unwrap();
        assert_eq!(list().unwrap(), "a");
        fs::write(path.join("b"), "").unwrap();
        assert_eq!(list().unwrap(), "a,b");
        fs::remove_file(path.join("a")).unwrap();
        assert_eq!(list().unwrap(), "b");
        fs::remove_dir_all(&path).unwrap();
        fs::create_dir(&path).unwrap();
        fs::write(path.join("c"), "").unwrap();
        assert_eq!(list().unwrap(), "c");
        fs::remove_dir_all(&path).unwrap();
        assert_eq!(list(), Err(Errno::NOENT));
    }
}
