//! Describes a failure: its kind, its place and the kernel's errno, as a small `Copy` value.
//!
//! Creating or copying an error allocates nothing.

use crate::id::{DeviceId, GroupId};
use crate::text::Text;
use rustix::io::Errno;
use std::fmt;

/// The result type of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An error about exactly one place: a device, a group, or a file or directory below the root.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Error {
    /// The kind of failure.
    pub kind: ErrorKind,
    /// The device that the error is about. None if it is not about one device.
    pub device: Option<DeviceId>,
    /// The group that the error is about. None if it is not about one group.
    pub group: Option<GroupId>,
    /// The attribute, directory or file, relative to the device, group or root.
    pub what: &'static str,
    /// The directory entry that could not be understood. Empty if there is none.
    pub entry: Text<32>,
    /// The kernel's errno. 0 if no system call failed.
    pub errno: i32,
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
    #[must_use]
    pub fn system(errno: Errno, what: &'static str) -> Self {
        let kind = match errno {
            Errno::NOENT | Errno::NODEV | Errno::NXIO => ErrorKind::Missing,
            Errno::ACCESS | Errno::PERM => ErrorKind::Denied,
            Errno::TOOBIG | Errno::NAMETOOLONG => ErrorKind::TooLong,
            _ => ErrorKind::System,
        };
        Self { errno: errno.raw_os_error(), ..Self::new(kind, what) }
    }

    /// Creates an error about content that the kernel would not write. Its errno is 0.
    #[must_use]
    pub fn malformed(what: &'static str) -> Self {
        Self::new(ErrorKind::Malformed, what)
    }

    fn new(kind: ErrorKind, what: &'static str) -> Self {
        Self { kind, device: None, group: None, what, entry: Text::EMPTY, errno: 0 }
    }

    /// Returns this error with `device` as its place.
    #[must_use]
    pub fn of_device(self, device: DeviceId) -> Self {
        Self { device: Some(device), ..self }
    }

    /// Returns this error with `group` as its place.
    #[must_use]
    pub fn of_group(self, group: GroupId) -> Self {
        Self { group: Some(group), ..self }
    }

    /// Returns this error with a directory entry as its place. The entry is shortened to 32 bytes;
    /// each byte that is not printable ASCII becomes `?`.
    #[must_use]
    pub fn of_entry(self, entry: &[u8]) -> Self {
        Self { entry: Text::lossy(entry), ..self }
    }
}

/// Writes the place, the file and the reason, as in `0000:3b:00.0: uevent: Permission denied`.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(device) = self.device {
            write!(f, "{device}: ")?;
        }
        if let Some(group) = self.group {
            write!(f, "group {group}: ")?;
        }
        f.write_str(self.what)?;
        if !self.entry.is_empty() {
            write!(f, " (entry {:?})", self.entry)?;
        }
        match self.kind {
            ErrorKind::Malformed => f.write_str(": unexpected content"),
            ErrorKind::TooLong => f.write_str(": longer than the kernel's limit"),
            // The text of an errno comes from std, so this crate needs no table of its own.
            _ => write!(f, ": {}", std::io::Error::from_raw_os_error(self.errno)),
        }
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
mod tests {
    use super::*;

    #[test]
    fn text_names_the_device_and_the_attribute() {
        let device = DeviceId::parse(b"0000:3b:00.0").unwrap();
        let text = Error::system(Errno::ACCESS, "uevent").of_device(device).to_string();
        assert!(text.starts_with("0000:3b:00.0: uevent: Permission denied"), "{text}");
        let text = Error::malformed("bound devices").of_entry(b"x\ny").to_string();
        assert_eq!(text, "bound devices (entry \"x?y\"): unexpected content");
    }

    #[test]
    fn error_stays_small_enough_to_copy() {
        assert!(size_of::<Error>() <= 128, "{}", size_of::<Error>());
    }
}
