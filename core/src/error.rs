//! What went wrong, where, and the kernel's errno: a small `Copy` value, so that failing costs no allocation.

use crate::id::{DeviceId, GroupId};
use crate::text::Text;
use rustix::io::Errno;
use std::fmt;

/// This crate's result.
pub type Result<T> = std::result::Result<T, Error>;

/// An error about one place; never about more than that place.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Error {
    /// What kind of trouble.
    pub kind: ErrorKind,
    /// The device that it is about, if it is about one.
    pub device: Option<DeviceId>,
    /// The group that it is about, if it is about one.
    pub group: Option<GroupId>,
    /// The attribute, folder or file, relative to the device, group or root.
    pub what: &'static str,
    /// The directory entry that made no sense, or empty.
    pub entry: Text<32>,
    /// The kernel's errno, 0 where no system call failed.
    pub errno: i32,
}

/// Kinds of [`Error`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum ErrorKind {
    /// It is not there (ENOENT, ENODEV, ENXIO).
    Missing,
    /// We may not (EACCES, EPERM).
    Denied,
    /// It is there, but its content is not what the kernel writes.
    Malformed,
    /// It is longer than the kernel's limit for it.
    TooLong,
    /// Any other errno.
    System,
}

impl ErrorKind {
    /// `missing`, `denied`, `malformed`, `too-long` or `system`.
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

impl Error {
    /// An error with an errno, its kind told from it.
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

    /// Content that the kernel would not write.
    #[must_use]
    pub fn malformed(what: &'static str) -> Self {
        Self::new(ErrorKind::Malformed, what)
    }

    fn new(kind: ErrorKind, what: &'static str) -> Self {
        Self { kind, device: None, group: None, what, entry: Text::EMPTY, errno: 0 }
    }

    /// The same, about `device`.
    #[must_use]
    pub fn of_device(self, device: DeviceId) -> Self {
        Self { device: Some(device), ..self }
    }

    /// The same, about `group`.
    #[must_use]
    pub fn of_group(self, group: GroupId) -> Self {
        Self { group: Some(group), ..self }
    }

    /// The same, about a directory entry.
    #[must_use]
    pub fn of_entry(self, entry: &[u8]) -> Self {
        Self { entry: Text::lossy(entry), ..self }
    }
}

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
            ErrorKind::Malformed => f.write_str(": not what the kernel writes there"),
            ErrorKind::TooLong => f.write_str(": longer than it may be"),
            // std knows the errno's text; ours would be a second table.
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
    fn names_the_device_and_the_attribute() {
        let device = DeviceId::parse(b"0000:3b:00.0").unwrap();
        let text = Error::system(Errno::ACCESS, "uevent").of_device(device).to_string();
        assert!(text.starts_with("0000:3b:00.0: uevent: Permission denied"), "{text}");
        let text = Error::malformed("bound devices").of_entry(b"x\ny").to_string();
        assert_eq!(text, "bound devices (entry \"x?y\"): not what the kernel writes there");
    }

    #[test]
    fn stays_small_enough_to_copy() {
        assert!(size_of::<Error>() <= 128, "{}", size_of::<Error>());
    }
}
