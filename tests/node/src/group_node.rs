//! A group's node that really answers EBUSY: a pty slave in exclusive mode, reached by a symbolic link.

use rustix::fs::{Mode, OFlags, inotify};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{ioctl_tiocexcl, ioctl_tiocnxcl};
use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Counts the opens of all nodes of a tree, with one inotify instance: a user may have 128 of them.
#[derive(Debug)]
pub struct OpenCounter {
    notify: OwnedFd,
    counts: Mutex<BTreeMap<i32, u64>>,
}

impl OpenCounter {
    /// Counts nothing yet.
    ///
    /// # Errors
    /// No inotify instance can be had.
    pub fn new() -> std::io::Result<Self> {
        let notify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        Ok(Self { notify, counts: Mutex::default() })
    }

    pub(crate) fn add(&self, path: &Path) -> std::io::Result<i32> {
        // With the closes, since the kernel merges an event into an equal one that waits (`inotify_merge`): opens alone
        // would count as one.
        let closes = inotify::WatchFlags::CLOSE_WRITE | inotify::WatchFlags::CLOSE_NOWRITE;
        Ok(inotify::add_watch(&self.notify, path, inotify::WatchFlags::OPEN | closes)?)
    }

    pub(crate) fn count(&self, watch: i32) -> u64 {
        let mut counts = self.counts.lock().unwrap_or_else(PoisonError::into_inner);
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.notify, &mut buffer);
        while let Ok(event) = events.next() {
            *counts.entry(event.wd()).or_default() +=
                u64::from(event.events().contains(inotify::ReadFlags::OPEN));
        }
        counts.get(&watch).copied().unwrap_or(0)
    }
}

/// One node. The slave stays open here: exclusive mode outlives a killed holder, and must be ended by somebody.
#[derive(Debug)]
pub struct GroupNode {
    _master: OwnedFd,
    slave: OwnedFd,
    path: PathBuf,
    counter: Arc<OpenCounter>,
    watch: i32,
    /// Those of machines, which are not counted.
    own_opens: u64,
}

impl GroupNode {
    /// A node that nobody holds.
    ///
    /// # Errors
    /// No pty can be had.
    pub fn new(counter: &Arc<OpenCounter>) -> std::io::Result<Self> {
        let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
        grantpt(&master)?;
        unlockpt(&master)?;
        let path =
            PathBuf::from(String::from_utf8_lossy(ptsname(&master, Vec::new())?.as_bytes()).into_owned());
        let slave = open(&path)?;
        let watch = counter.add(&path)?;
        Ok(Self { _master: master, slave, path, counter: Arc::clone(counter), watch, own_opens: 0 })
    }

    /// Where the node really is.
    #[must_use]
    pub fn path(&self) -> &Path {
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
        let opened = open(&self.path)?;
        self.own_opens += 1;
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
    #[must_use]
    pub fn opens(&self) -> u64 {
        self.counter.count(self.watch).saturating_sub(self.own_opens)
    }
}

fn open(path: &Path) -> std::io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}
