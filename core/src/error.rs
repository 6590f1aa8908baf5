//! Describes a failure: its kind, its place and the kernel's errno.
//!
//! An error allocates only for a text that the kernel or the caller chose: a directory entry that
//! could not be understood, or a path that could not be opened. An error about a device or a group
//! allocates nothing, so a repeated pass over a node with an unreadable device does not either.

use crate::id::{DeviceId, GroupId};
use rustix::io::Errno;
use std::borrow::Cow;
use std::ffi::{OsStr, OsString};
use std::fmt::{self, Write};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::PathBuf;

/// The result type of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An error about exactly one place: a device, a group, or a file or directory below the root.
///
/// Its text says what failed and why, as in `0000:3b:00.0: numa_node: Permission denied`. Paths and
/// entries are shown whole. Characters that are not ASCII are kept, control characters are escaped,
/// and bytes that are not UTF-8 become U+FFFD.
///
/// ```
/// use vfio_probe::{ErrorKind, Root};
///
/// let error = Root::open("/nowhere").unwrap_err();
/// assert_eq!(error.kind, ErrorKind::Missing);
/// assert_eq!(error.to_string(), "root directory /nowhere: No such file or directory");
/// ```
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub struct Error {
    /// The kind of failure.
    pub kind: ErrorKind,
    /// The device that the error is about. None if it is not about one device.
    pub device: Option<DeviceId>,
    /// The group that the error is about. None if it is not about one group.
    pub group: Option<GroupId>,
    /// The attribute, directory or file, relative to the device, group or root. Empty if the error
    /// is about the device or the group as a whole: it does not exist.
    pub what: &'static str,
    /// The kernel's errno. 0 if no system call failed.
    pub errno: i32,
    place: Place,
}

/// A text of arbitrary length that belongs to the error's place.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
enum Place {
    /// `what` says it all.
    None,
    /// An entry of the directory `what`.
    Entry(Box<OsStr>),
    /// A path that the caller chose. `what` says what should be there.
    Path(Box<OsStr>),
    /// The same, of something that is not a regular file.
    NotRegular(Box<OsStr>),
}

/// Kinds of [`Error`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The file, device or group does not exist (ENOENT, ENODEV, ENXIO).
    Missing,
    /// The kernel denied access (EACCES, EPERM).
    Denied,
    /// The content is not what the kernel writes.
    Malformed,
    /// The content is longer than the kernel's limit for it.
    TooLong,
    /// Any other errno.
    System,
}

impl ErrorKind {
    /// Returns `missing`, `denied`, `malformed`, `too-long` or `system`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Missing => "missing",
            Self::Denied => "denied",
            Self::Malformed => "malformed",
            Self::TooLong => "too-long",
            Self::System => "system",
        }
    }
}

/// Returns whether an errno is due to a limit of this process or of the host: no descriptor or no
/// memory is left. It says nothing about the file.
pub(crate) fn is_shortage(errno: Errno) -> bool {
    matches!(errno, Errno::MFILE | Errno::NFILE | Errno::NOMEM)
}

impl Error {
    /// Returns whether the error says nothing about its place, see [`is_shortage`].
    pub(crate) fn is_shortage(&self) -> bool {
        self.kind == ErrorKind::System && is_shortage(Errno::from_raw_os_error(self.errno))
    }

    /// Creates an error from an errno. The kind follows from the errno.
    pub(crate) fn system(errno: Errno, what: &'static str) -> Self {
        let kind = match errno {
            Errno::NOENT | Errno::NODEV | Errno::NXIO => ErrorKind::Missing,
            Errno::ACCESS | Errno::PERM => ErrorKind::Denied,
            Errno::TOOBIG | Errno::NAMETOOLONG => ErrorKind::TooLong,
            _ => ErrorKind::System,
        };
        Self { errno: errno.raw_os_error(), ..Self::new(kind, what) }
    }

    /// Creates an error from the number of an errno, as [`std::io::Error::raw_os_error`] returns it.
    /// The kind follows from the errno.
    #[doc(hidden)]
    #[must_use]
    pub fn os(errno: i32, what: &'static str) -> Self {
        Self::system(Errno::from_raw_os_error(errno), what)
    }

    /// Creates an error about content that the kernel would not write. Its errno is 0.
    #[doc(hidden)]
    #[must_use]
    pub fn malformed(what: &'static str) -> Self {
        Self::new(ErrorKind::Malformed, what)
    }

    fn new(kind: ErrorKind, what: &'static str) -> Self {
        Self { kind, device: None, group: None, what, errno: 0, place: Place::None }
    }

    /// Returns this error with `device` as its place.
    #[doc(hidden)]
    #[must_use]
    pub fn of_device(self, device: DeviceId) -> Self {
        Self { device: Some(device), ..self }
    }

    /// Returns this error with `group` as its place.
    #[doc(hidden)]
    #[must_use]
    pub fn of_group(self, group: GroupId) -> Self {
        Self { group: Some(group), ..self }
    }

    /// Returns this error with an entry of the directory `what` as its place.
    #[doc(hidden)]
    #[must_use]
    pub fn of_entry(self, entry: &[u8]) -> Self {
        Self { place: Place::Entry(OsStr::from_bytes(entry).into()), ..self }
    }

    /// Returns this error with a path that the caller chose as its place.
    #[doc(hidden)]
    #[must_use]
    pub fn of_path(self, path: impl AsRef<OsStr>) -> Self {
        Self { place: Place::Path(path.as_ref().into()), ..self }
    }

    /// Creates an error about a path that the caller chose. It is not a regular file, and so not `what`.
    pub(crate) fn not_regular(what: &'static str, path: &OsStr) -> Self {
        Self { place: Place::NotRegular(path.into()), ..Self::new(ErrorKind::Malformed, what) }
    }

    /// Returns the last part of the error's text: why it failed, without the place.
    #[doc(hidden)]
    #[must_use]
    pub fn reason(&self) -> Cow<'static, str> {
        match (self.kind, &self.place) {
            (_, Place::NotRegular(_)) => "not a regular file".into(),
            (ErrorKind::Malformed, _) => "unexpected content".into(),
            (ErrorKind::TooLong, _) => "longer than the kernel's limit".into(),
            _ => errno_text(self.errno).into(),
        }
    }

    /// Returns the directory entry that the error is about, exactly as the kernel returned it. None
    /// if the error is not about one entry, or if the entry is the device's name.
    #[must_use]
    pub fn entry(&self) -> Option<&OsStr> {
        match &self.place {
            Place::Entry(entry) => Some(entry),
            _ => None,
        }
    }

    /// Returns the path of the file or directory that the error is about.
    ///
    /// It is relative to the root directory, as in `sys/bus/pci/devices/0000:3b:00.0/numa_node`. Only
    /// a path that the caller chose, such as the argument of [`Root::open`](crate::Root::open), is
    /// returned as it was passed. None if the error is not about a file.
    #[must_use]
    pub fn path(&self) -> Option<PathBuf> {
        let mut path = match (self.device, self.group, &self.place) {
            (.., Place::Path(path) | Place::NotRegular(path)) => return Some(PathBuf::from(path)),
            (Some(device), Some(group), _) => {
                format!("sys/kernel/iommu_groups/{group}/devices/{device}")
            }
            (Some(device), None, _) => format!("sys/bus/{}/devices/{device}", device.bus()),
            (None, Some(group), _) => format!("sys/kernel/iommu_groups/{group}"),
            (None, None, _) if is_below_root(self.what) => String::new(),
            (None, None, _) => return None,
        };
        if !self.what.is_empty() && !path.is_empty() {
            path.push('/');
        }
        path.push_str(self.what);
        let mut path = path.into_bytes();
        if let Place::Entry(entry) = &self.place {
            path.push(b'/');
            path.extend_from_slice(entry.as_bytes());
        }
        Some(OsString::from_vec(path).into())
    }
}

/// Returns whether `what` is a path below the root, and not the name of a kernel object.
fn is_below_root(what: &str) -> bool {
    matches!(what.split('/').next(), Some("sys" | "proc" | "dev"))
}

/// Returns the text of an errno as the C library has it, without std's ` (os error 13)`.
#[doc(hidden)]
#[must_use]
pub fn errno_text(errno: i32) -> String {
    // The text of an errno comes from std, so this crate needs no table of its own.
    let mut text = std::io::Error::from_raw_os_error(errno).to_string();
    if let Some(end) = text.rfind(" (os error ") {
        text.truncate(end);
    }
    text
}

/// Writes bytes that another process or the caller chose: UTF-8 as it is, other bytes as U+FFFD,
/// control characters escaped.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Shown<'a>(pub &'a OsStr);

impl fmt::Display for Shown<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.as_bytes().utf8_chunks() {
            for character in chunk.valid().chars() {
                if character.is_control() {
                    write!(f, "{}", character.escape_default())?;
                } else {
                    f.write_char(character)?;
                }
            }
            if !chunk.invalid().is_empty() {
                f.write_char(char::REPLACEMENT_CHARACTER)?;
            }
        }
        Ok(())
    }
}

/// Writes the place, the file and the reason, as in `0000:3b:00.0: numa_node: Permission denied`.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(group) = self.group {
            write!(f, "group {group}: ")?;
        }
        if let Some(device) = self.device {
            write!(f, "{device}: ")?;
        }
        match (&self.place, self.what) {
            (Place::None, "") => match (self.device, self.kind) {
                (Some(device), ErrorKind::Missing) => {
                    return write!(f, "no such device on the {} bus", device.bus());
                }
                (None, ErrorKind::Missing) => return f.write_str("no such IOMMU group"),
                _ => return f.write_str(&errno_text(self.errno)),
            },
            (Place::None, what) => write!(f, "{what}: ")?,
            (Place::Entry(entry), what) => write!(f, "{what}/{}: ", Shown(entry))?,
            (Place::Path(path) | Place::NotRegular(path), what) => write!(f, "{what} {}: ", Shown(path))?,
        }
        f.write_str(&self.reason())
    }
}

impl std::error::Error for Error {}

impl From<Error> for std::io::Error {
    fn from(error: Error) -> Self {
        match error.errno {
            0 => Self::new(std::io::ErrorKind::InvalidData, error),
            errno => Self::new(Self::from_raw_os_error(errno).kind(), error),
        }
    }
}

#[cfg(test)]
mod tests;
