//! Opens files below one root directory and reads them with bounded buffers.
//!
//! Production code uses `/`. A container uses the host's tree that is mounted into it. A test uses
//! a temporary directory.

mod listing;

use crate::error::{Error, Result};
use rustix::fs::{AtFlags, Mode, OFlags, Stat, openat, readlinkat_raw, statat};
use rustix::io::{Errno, read};
use std::ffi::CStr;
use std::fmt::{self, Write};
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

pub use listing::Buffer;
pub(crate) use listing::KeptDirectory;
use listing::list_open;
#[cfg(test)]
pub(crate) use listing::tests::while_interrupted;

/// Size limit of a sysfs attribute in bytes. It is one page (`sysfs_emit`), which is 4096 bytes on
/// the architectures that have VFIO for PCI.
pub(crate) const PAGE: usize = 4096;

/// A directory that contains `sys`, `dev` and `proc`.
///
/// All lookups are relative to it. The kernel follows symbolic links inside the directory as usual;
/// the links of sysfs are relative.
///
/// A clone is another handle of the same directory: it costs no descriptor and cannot fail. Any
/// number of threads can share a root.
///
/// ```
/// use vfio_probe::{Buffer, DeviceId, GroupId, Root};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let tree = tempfile::tempdir()?;
/// let class = tree.path().join("sys/class/vfio-dev");
/// std::fs::create_dir_all(&class)?;
/// std::os::unix::fs::symlink("../../devices/0000:3b:00.0/vfio-dev/vfio0", class.join("vfio0"))?;
/// let root = Root::open(&tree)?;
/// let mut bound: Vec<DeviceId> = Vec::new();
/// root.bound(&mut Buffer::new(), |device| bound.extend(device.map(|device| device.id)))?;
/// assert_eq!(bound, ["0000:3b:00.0".parse()?]);
/// let error = root.group(GroupId(51), &mut Buffer::new()).unwrap_err();
/// assert_eq!(error.to_string(), "group 51: no such IOMMU group");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct Root {
    directory: Arc<OwnedFd>,
}

/// A path below the root, formatted on the stack. It has at most 255 bytes.
pub(crate) struct RelativePath {
    bytes: [u8; 256],
    len: usize,
}

impl RelativePath {
    pub(crate) fn new(path: fmt::Arguments<'_>) -> std::result::Result<Self, Errno> {
        let mut this = Self { bytes: [0; 256], len: 0 };
        this.write_fmt(path).map_err(|_| Errno::NAMETOOLONG)?;
        Ok(this)
    }

    fn as_c_str(&self) -> &CStr {
        // write_str never writes the last byte, so a zero byte always ends the path.
        CStr::from_bytes_until_nul(&self.bytes).unwrap_or_default()
    }
}

impl Write for RelativePath {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.len + text.len();
        if end >= self.bytes.len() {
            return Err(fmt::Error);
        }
        self.bytes.get_mut(self.len..end).ok_or(fmt::Error)?.copy_from_slice(text.as_bytes());
        self.len = end;
        Ok(())
    }
}

impl Root {
    /// Opens the directory that contains `sys`, `dev` and `proc`.
    ///
    /// # Errors
    /// The directory does not exist, is not a directory, or may not be entered.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_path(path.as_ref())
    }

    fn open_path(path: &Path) -> Result<Self> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = rustix::fs::open(path, flags, Mode::empty())
            .map_err(|errno| Error::system(errno, "root directory").of_path(path))?;
        Ok(Self { directory: Arc::new(directory) })
    }

    /// Opens `/`.
    ///
    /// # Errors
    /// As [`Root::open`].
    pub fn host() -> Result<Self> {
        Self::open("/")
    }

    pub(crate) fn open_at(
        &self,
        path: fmt::Arguments<'_>,
        flags: OFlags,
    ) -> std::result::Result<OwnedFd, Errno> {
        openat(&self.directory, RelativePath::new(path)?.as_c_str(), flags | OFlags::CLOEXEC, Mode::empty())
    }

    /// Opens a file for reading. Never blocks, whatever kind of file is there: with O_NONBLOCK the
    /// open and the read of a FIFO return at once. With O_NOCTTY a terminal does not become the
    /// controlling terminal.
    pub(crate) fn open_attribute(&self, path: fmt::Arguments<'_>) -> std::result::Result<OwnedFd, Errno> {
        self.open_at(path, OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY)
    }

    /// Reads an attribute and strips the white space at its end. Fails with E2BIG if the attribute
    /// fills the buffer.
    pub(crate) fn read<'b>(
        &self,
        path: fmt::Arguments<'_>,
        buffer: &'b mut [u8],
    ) -> std::result::Result<&'b [u8], Errno> {
        let file = self.open_attribute(path)?;
        // One read is enough: sysfs and procfs return a short file as a whole (seq_file,
        // `kernfs_file_read_iter`).
        let length = read(&file, &mut *buffer)?;
        if length == buffer.len() {
            return Err(Errno::TOOBIG);
        }
        Ok(buffer.get(..length).unwrap_or_default().trim_ascii_end())
    }

    /// Reads the text of a symbolic link. Fails with ENAMETOOLONG if the text fills the buffer,
    /// because readlinkat cuts a longer text silently.
    pub(crate) fn link<'b>(
        &self,
        path: fmt::Arguments<'_>,
        buffer: &'b mut [u8],
    ) -> std::result::Result<&'b [u8], Errno> {
        let path = RelativePath::new(path)?;
        let length = readlinkat_raw(&self.directory, path.as_c_str(), &mut *buffer)?;
        if length == buffer.len() {
            return Err(Errno::NAMETOOLONG);
        }
        Ok(buffer.get(..length).unwrap_or_default())
    }

    /// Calls stat on a path and follows links.
    pub(crate) fn stat(&self, path: fmt::Arguments<'_>) -> std::result::Result<Stat, Errno> {
        statat(&self.directory, RelativePath::new(path)?.as_c_str(), AtFlags::empty())
    }

    /// Calls `visit` with the name of each entry of a directory, except `.` and `..`.
    pub(crate) fn list(
        &self,
        path: fmt::Arguments<'_>,
        buffer: &mut Buffer,
        mut visit: impl FnMut(&[u8]),
    ) -> std::result::Result<(), Errno> {
        self.list_inodes(path, buffer, |name, _| visit(name))
    }

    /// Calls `visit` with the name and the inode number of each entry, except `.` and `..`.
    pub(crate) fn list_inodes(
        &self,
        path: fmt::Arguments<'_>,
        buffer: &mut Buffer,
        mut visit: impl FnMut(&[u8], u64),
    ) -> std::result::Result<(), Errno> {
        let directory = self.open_at(path, OFlags::RDONLY | OFlags::DIRECTORY)?;
        list_open(&directory, buffer, &mut visit)
    }
}

/// Returns the part of a link's text after the last slash.
pub(crate) fn last_component(link: &[u8]) -> &[u8] {
    link.rsplit(|&byte| byte == b'/').next().unwrap_or(link)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn reads_are_bounded_and_never_block() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path()).unwrap();
        fs::write(directory.path().join("long"), [b'x'; PAGE]).unwrap();
        fs::write(directory.path().join("short"), "0x10de\n").unwrap();
        rustix::fs::mknodat(
            rustix::fs::CWD,
            directory.path().join("fifo"),
            rustix::fs::FileType::Fifo,
            Mode::RUSR,
            0,
        )
        .unwrap();
        let mut buffer = [0; PAGE];
        assert_eq!(root.read(format_args!("long"), &mut buffer), Err(Errno::TOOBIG));
        assert_eq!(root.read(format_args!("short"), &mut buffer), Ok(&b"0x10de"[..]));
        assert_eq!(root.read(format_args!("fifo"), &mut buffer), Ok(&b""[..]));
        let long = "x".repeat(300);
        assert_eq!(root.read(format_args!("{long}"), &mut buffer), Err(Errno::NAMETOOLONG));
    }

    #[test]
    fn link_that_fills_the_buffer_is_an_error() {
        let directory = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("../12345", directory.path().join("link")).unwrap();
        let root = Root::open(directory.path()).unwrap();
        assert_eq!(root.link(format_args!("link"), &mut [0; 8]), Err(Errno::NAMETOOLONG));
        assert_eq!(root.link(format_args!("link"), &mut [0; 9]).map(last_component), Ok(&b"12345"[..]));
    }

    #[test]
    fn missing_root_is_named_in_the_error() {
        let error = Root::open("/nowhere").unwrap_err().to_string();
        assert!(error.contains("/nowhere") && error.contains("No such file"), "{error}");
    }
}
