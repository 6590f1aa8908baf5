//! A group's node that really answers EBUSY: a pty slave in exclusive mode, reached by a symbolic link.

use rustix::fs::{Mode, OFlags, inotify};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{ioctl_tiocexcl, ioctl_tiocnxcl};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

/// One node. The slave stays open here: exclusive mode outlives a killed holder, and must be ended by somebody.
#[derive(Debug)]
pub struct GroupNode {
    _master: OwnedFd,
    slave: OwnedFd,
    path: PathBuf,
    opened: OwnedFd,
    opens: u64,
}

impl GroupNode {
    /// A node that nobody holds.
    ///
    /// # Errors
    /// No pty can be had.
    pub fn new() -> std::io::Result<Self> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let path =
            PathBuf::from(String::from_utf8_lossy(ptsname(&master, Vec::new())?.as_bytes()).into_owned());
        let slave = open(&path)?;
        let opened = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        // With the closes, since the kernel merges an event into an equal one that waits (`inotify_merge`): opens alone
        // would count as one.
        let closes = inotify::WatchFlags::CLOSE_WRITE | inotify::WatchFlags::CLOSE_NOWRITE;
        inotify::add_watch(&opened, &path, inotify::WatchFlags::OPEN | closes)?;
        Ok(Self { _master: master, slave, path, opened, opens: 0 })
    }

    /// Where the node really is.
    #[must_use]
    pub fn path(&self) -> &std::path::Path {
        &self.path
    }

    /// Its device number, as `/sys/class/vfio/N/dev` prints it.
    ///
    /// # Errors
    /// The slave cannot be stat'ed.
    pub fn number(&self) -> std::io::Result<String> {
        let number = rustix::fs::fstat(&self.slave)?.st_rdev;
        Ok(format!("{}:{}\n", rustix::fs::major(number), rustix::fs::minor(number)))
    }

    /// Opens the node as a virtual machine would; EBUSY if it is held.
    ///
    /// # Errors
    /// As the kernel says.
    pub fn open(&mut self) -> std::io::Result<OwnedFd> {
        let before = self.opens();
        let opened = open(&self.path)?;
        // Without our own; the machine's close comes later and is not counted.
        self.opens = self.opens().saturating_sub(1).max(before);
        Ok(opened)
    }

    /// From now on an open fails with EBUSY, unless the opener has CAP_SYS_ADMIN.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn hold(&self) -> std::io::Result<()> {
        Ok(ioctl_tiocexcl(&self.slave)?)
    }

    /// From now on an open succeeds.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn release(&self) -> std::io::Result<()> {
        Ok(ioctl_tiocnxcl(&self.slave)?)
    }

    /// How often others have opened the node with success so far; a failed open makes no event. Two that have it open at
    /// the same time may count as one; so do two in a row with a fork in this process between the first's open and close.
    pub fn opens(&mut self) -> u64 {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.opened, &mut buffer);
        while let Ok(event) = events.next() {
            self.opens += u64::from(event.events().contains(inotify::ReadFlags::OPEN));
        }
        self.opens
    }
}

fn open(path: &std::path::Path) -> std::io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}
