//! Reads which functions' memory the host itself uses, from /proc/iomem.

use crate::log_once::LogOnce;
use rustix::fs::{Mode, OFlags};
use std::fs::File;
use std::io::{Error, ErrorKind, Read};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use vfio_plugin_policy::health::bar_users::BarUsers;
use vfio_probe::DeviceId;
use vfio_probe::text::Text;

/// The longest content that is read, in bytes. A BAR has about 50, a function at most seven BARs.
const MAX_LENGTH: u64 = 8 << 20;

/// Reads the users of all functions' BARs. `root` is the root's directory. Reads no hardware; never blocks.
///
/// # Errors
/// /proc/iomem cannot be read: only root may read it. Or it is longer than 8 MiB.
pub(crate) fn read(root: &Path) -> Result<BarUsers, Error> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let file = File::from(rustix::fs::open(root.join("proc/iomem"), flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(Error::new(ErrorKind::InvalidData, "not a regular file"));
    }
    let mut text = Vec::new();
    file.take(MAX_LENGTH + 1).read_to_end(&mut text)?;
    if u64::try_from(text.len()).is_ok_and(|length| length > MAX_LENGTH) {
        return Err(Error::new(ErrorKind::FileTooLarge, "longer than 8 MiB"));
    }
    Ok(BarUsers::parse(&text))
}

/// The users of BARs over time, for the check `framebuffer`.
#[derive(Debug)]
pub(super) struct Framebuffers {
    root: PathBuf,
    interval: Duration,
    /// When the file is read next.
    due: Instant,
    users: BarUsers,
    /// Why the file could not be read, as far as it was logged.
    failures: LogOnce<ErrorKind>,
}

impl Framebuffers {
    /// Returns the check before its first read, which is due at once: a GPU must not be offered before it.
    pub(super) fn new(root: PathBuf, interval: Duration, now: Instant) -> Self {
        Self { root, interval, due: now, users: BarUsers::default(), failures: LogOnce::default() }
    }

    /// Makes the next read due now, because a device was bound.
    pub(super) fn bound(&mut self, now: Instant) {
        self.due = now;
    }

    /// Reads the file if it is due. Returns whether the users have changed. A read that fails changes nothing.
    pub(super) fn refresh(&mut self, now: Instant) -> bool {
        if now < self.due {
            return false;
        }
        self.due = now + self.interval;
        match read(&self.root) {
            Ok(users) => {
                self.failures.clear();
                let changed = self.users != users;
                self.users = users;
                changed
            }
            Err(error) => {
                if self.failures.is_new(error.kind()) {
                    tracing::warn!(%error, "boot framebuffers could not be checked; /proc/iomem could not be read");
                }
                false
            }
        }
    }

    /// Returns the outermost user of a device's BARs. None if only VFIO uses them.
    pub(super) fn user_of(&self, id: DeviceId) -> Option<Text<32>> {
        self.users.of(id.pci()?).first().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    const IOMEM: &str = "c0000000-cfffffff : 0000:1b:00.0\n  c0000000-c0ffffff : BOOTFB\n";

    #[test]
    fn users_are_read_at_once_at_an_interval_and_after_a_bind() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("proc")).unwrap();
        let path = directory.path().join("proc/iomem");
        let (id, now) = ("0000:1b:00.0".parse().unwrap(), Instant::now());
        let interval = Duration::from_secs(10);
        let mut framebuffers = Framebuffers::new(directory.path().to_owned(), interval, now);
        assert!(!framebuffers.refresh(now), "the file does not exist");
        fs::write(&path, IOMEM).unwrap();
        assert!(!framebuffers.refresh(now + interval / 2), "not due");
        assert!(framebuffers.refresh(now + interval));
        assert_eq!(framebuffers.user_of(id).unwrap().as_str(), "BOOTFB");
        fs::write(&path, "").unwrap();
        framebuffers.bound(now + interval);
        assert!(framebuffers.refresh(now + interval));
        assert_eq!(framebuffers.user_of(id), None);
        fs::write(&path, IOMEM).unwrap();
        assert!(framebuffers.refresh(now + interval * 2));
        fs::remove_file(&path).unwrap();
        assert!(!framebuffers.refresh(now + interval * 3), "the last content holds");
        assert!(framebuffers.user_of(id).is_some());
    }

    #[test]
    fn read_is_bounded_and_never_waits() {
        let directory = tempfile::tempdir().unwrap();
        fs::create_dir(directory.path().join("proc")).unwrap();
        let path = directory.path().join("proc/iomem");
        File::create(&path).unwrap().set_len(MAX_LENGTH + 1).unwrap();
        assert_eq!(read(directory.path()).unwrap_err().kind(), ErrorKind::FileTooLarge);
        fs::remove_file(&path).unwrap();
        let mode = Mode::RUSR | Mode::WUSR;
        rustix::fs::mknodat(rustix::fs::CWD, &path, rustix::fs::FileType::Fifo, mode, 0).unwrap();
        assert_eq!(read(directory.path()).unwrap_err().kind(), ErrorKind::InvalidData);
    }
}
