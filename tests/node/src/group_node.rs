//! Provides a group's device node for which the kernel returns EBUSY: a pty slave in exclusive mode behind a symbolic
//! link.

use rustix::fs::{Mode, OFlags, inotify};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{ioctl_tiocexcl, ioctl_tiocnxcl};
use std::collections::BTreeMap;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

/// Counts the opens of all device nodes of a tree. It takes a single inotify instance, because a user may have only
/// 128.
#[derive(Debug)]
pub struct OpenCounter {
    notify: OwnedFd,
    counts: Mutex<BTreeMap<i32, u64>>,
}

impl OpenCounter {
    /// Creates a counter without watches.
    ///
    /// # Errors
    /// The kernel provides no inotify instance.
    pub fn new() -> std::io::Result<Self> {
        let notify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        Ok(Self { notify, counts: Mutex::default() })
    }

    pub(crate) fn add(&self, path: &Path) -> std::io::Result<i32> {
        // Closes are watched too. The kernel merges an event into an equal pending one (`inotify_merge`), so that
        // several opens alone would count as one.
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

/// The device node of one group. It keeps the slave open: exclusive mode outlasts a killed holder and must be ended
/// through a descriptor.
#[derive(Debug)]
pub struct GroupNode {
    _master: OwnedFd,
    slave: OwnedFd,
    path: PathBuf,
    counter: Arc<OpenCounter>,
    watch: i32,
    /// Opens by VMs of the node, which are not counted.
    own_opens: u64,
}

impl GroupNode {
    /// Creates a device node that no process holds.
    ///
    /// # Errors
    /// The kernel provides no pty.
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

    /// Returns the path of the pty slave.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the device number as `/sys/class/vfio/N/dev` prints it.
    ///
    /// # Errors
    /// fstat of the slave failed.
    pub fn device_number(&self) -> std::io::Result<String> {
        let number = rustix::fs::fstat(&self.slave)?.st_rdev;
        Ok(format!("{}:{}\n", rustix::fs::major(number), rustix::fs::minor(number)))
    }

    /// Opens the device node as a VM does.
    ///
    /// # Errors
    /// EBUSY while the group is held.
    pub fn open(&mut self) -> std::io::Result<OwnedFd> {
        let opened = open(&self.path)?;
        self.own_opens += 1;
        Ok(opened)
    }

    /// Makes opens fail with EBUSY from now on, except for openers with CAP_SYS_ADMIN.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn hold(&self) -> std::io::Result<()> {
        Ok(ioctl_tiocexcl(&self.slave)?)
    }

    /// Makes opens succeed from now on.
    ///
    /// # Errors
    /// The terminal is gone.
    pub fn release(&self) -> std::io::Result<()> {
        Ok(ioctl_tiocnxcl(&self.slave)?)
    }

    /// Returns how many opens by other processes have succeeded so far; a failed open makes no event. Two opens at
    /// the same time may count as one. So may two in a row if this process forks between the open and the close of
    /// the first.
    #[must_use]
    pub fn opens(&self) -> u64 {
        self.counter.count(self.watch).saturating_sub(self.own_opens)
    }
}

fn open(path: &Path) -> std::io::Result<OwnedFd> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    Ok(rustix::fs::open(path, flags, Mode::empty())?)
}
