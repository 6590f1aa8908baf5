//! Reads a regular file of bounded size.

use rustix::buffer::spare_capacity;
use rustix::fs::{Mode, OFlags};
use rustix::io::retry_on_intr;
use std::fs::{File, Metadata};
use std::io::{Error, ErrorKind, Read, Result};
use std::path::Path;

/// Whether the last part of a path may be a symbolic link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Links {
    /// It may: a ConfigMap's files are links.
    Follow,
    /// A link is an error.
    Refuse,
}

/// Opens a regular file for reading, and returns its metadata too. Never blocks.
///
/// The kind is checked before the open too, because the open of a device may act on it: a watchdog starts to run. O_NONBLOCK and
/// O_NOCTTY serve the case that the file is replaced in between.
///
/// # Errors
/// `InvalidInput` for a directory, FIFO, device or socket, and for a link that is not followed; else the error of stat(2) or open(2).
pub(crate) fn open(path: &Path, links: Links) -> Result<(File, Metadata)> {
    let metadata = match links {
        Links::Follow => std::fs::metadata(path)?,
        Links::Refuse => std::fs::symlink_metadata(path)?,
    };
    check_kind(&metadata)?;
    let mut flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    if links == Links::Refuse {
        flags |= OFlags::NOFOLLOW;
    }
    let file = File::from(rustix::fs::open(path, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    check_kind(&metadata)?;
    Ok((file, metadata))
}

fn check_kind(metadata: &Metadata) -> Result<()> {
    if metadata.is_file() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidInput, "not a regular file"))
}

/// Reads a regular file of at most `limit` bytes. Never blocks.
///
/// # Errors
/// As [`open`]; `FileTooLarge` if the file is longer, in which case little or nothing of it was read; else the error of read(2).
pub(crate) fn read(path: &Path, links: Links, limit: u64) -> Result<Vec<u8>> {
    let (file, metadata) = open(path, links)?;
    read_all(file, metadata.len(), limit)
}

/// Reads an open file of this length, like [`read`].
pub(crate) fn read_all(file: File, length: u64, limit: u64) -> Result<Vec<u8>> {
    if length > limit {
        return Err(too_large(limit));
    }
    let mut content = Vec::with_capacity(usize::try_from(length).unwrap_or(0).saturating_add(1));
    let first = retry_on_intr(|| rustix::io::read(&file, spare_capacity(&mut content)))?;
    let first = u64::try_from(first).unwrap_or(u64::MAX);
    // One byte more than the length was asked for. So this was the end, without another read that returns nothing. Files of /proc
    // have no length, and a file may grow.
    if length == 0 || first != length {
        file.take(limit.saturating_add(1).saturating_sub(first)).read_to_end(&mut content)?;
    }
    if u64::try_from(content.len()).is_ok_and(|length| length > limit) {
        return Err(too_large(limit));
    }
    Ok(content)
}

fn too_large(limit: u64) -> Error {
    Error::new(ErrorKind::FileTooLarge, format!("larger than {limit} bytes"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{CWD, FileType, mknodat};
    use std::os::unix::fs::symlink;
    use std::os::unix::net::UnixListener;

    #[test]
    fn only_regular_files_are_opened_and_nothing_waits() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        mknodat(CWD, path("fifo"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let _listener = UnixListener::bind(path("socket")).unwrap();
        std::fs::create_dir(path("directory")).unwrap();
        symlink("/dev/zero", path("endless")).unwrap();
        for name in ["fifo", "socket", "directory", "endless"] {
            for links in [Links::Follow, Links::Refuse] {
                assert_eq!(
                    read(&path(name), links, 10).unwrap_err().kind(),
                    ErrorKind::InvalidInput,
                    "{name}"
                );
            }
        }
        assert_eq!(read(&path("missing"), Links::Follow, 10).unwrap_err().kind(), ErrorKind::NotFound);
    }

    #[test]
    fn links_are_followed_on_request_only() {
        let directory = tempfile::tempdir().unwrap();
        let path = |name: &str| directory.path().join(name);
        std::fs::write(path("file"), "content").unwrap();
        symlink("file", path("link")).unwrap();
        symlink("loop", path("loop")).unwrap();
        assert_eq!(read(&path("link"), Links::Follow, 7).unwrap(), b"content");
        assert_eq!(read(&path("link"), Links::Refuse, 7).unwrap_err().kind(), ErrorKind::InvalidInput);
        assert!(read(&path("loop"), Links::Follow, 7).is_err());
    }

    #[test]
    fn size_is_bounded_also_of_sparse_and_growing_files() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        std::fs::write(&path, "12345").unwrap();
        assert_eq!(read(&path, Links::Refuse, 5).unwrap(), b"12345");
        assert_eq!(read(&path, Links::Refuse, 4).unwrap_err().kind(), ErrorKind::FileTooLarge);
        File::create(&path).unwrap().set_len(1 << 40).unwrap();
        assert_eq!(read(&path, Links::Refuse, 1 << 20).unwrap_err().kind(), ErrorKind::FileTooLarge);
        // A file without a length, as of /proc, whose content is longer than the limit.
        let status = Path::new("/proc/self/status");
        assert_eq!(std::fs::metadata(status).unwrap().len(), 0);
        assert_eq!(read(status, Links::Refuse, 10).unwrap_err().kind(), ErrorKind::FileTooLarge);
    }
}
