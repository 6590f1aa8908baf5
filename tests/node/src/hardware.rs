//! Simulates the hardware state that the kernel shows in sysfs (lost, asleep, fatal errors), and counts the reads of
//! a file.

use crate::kernel::missing;
use crate::node::Node;
use rustix::fs::inotify;
use std::cell::Cell;
use std::fs;
use std::io::Result;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// Counts the reads of one file.
#[derive(Debug)]
pub struct Reads {
    notify: OwnedFd,
    count: Cell<u64>,
}

impl Reads {
    /// Counts from now on. Reads through one descriptor count as one if there was no call of [`Reads::count`] between them: the
    /// kernel merges an event into an equal pending one (`inotify_merge`). Opens and closes are watched too, so that reads
    /// through several descriptors are not merged.
    ///
    /// # Errors
    /// The file does not exist, or the kernel provides no inotify instance.
    pub fn of(path: &Path) -> Result<Self> {
        let notify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let closes = inotify::WatchFlags::CLOSE_WRITE | inotify::WatchFlags::CLOSE_NOWRITE;
        let reads = inotify::WatchFlags::OPEN | inotify::WatchFlags::ACCESS | closes;
        inotify::add_watch(&notify, path, reads)?;
        Ok(Self { notify, count: Cell::new(0) })
    }

    /// Returns the number of reads so far.
    #[must_use]
    pub fn count(&self) -> u64 {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.notify, &mut buffer);
        while let Ok(event) = events.next() {
            let is_read = event.events().contains(inotify::ReadFlags::ACCESS);
            self.count.set(self.count.get() + u64::from(is_read));
        }
        self.count.get()
    }
}

impl Node {
    /// Returns a function's directory in sysfs.
    #[must_use]
    pub fn sysfs_dir(&self, address: &str) -> PathBuf {
        self.root().join("sys/bus/pci/devices").join(address)
    }

    /// Makes a function fall off the bus, so that its registers read as all ones, or brings it back.
    ///
    /// # Errors
    /// There is no such function, or the tree cannot be written.
    pub fn set_lost(&self, address: &str, lost: bool) -> Result<()> {
        let config = self.inner.lock().functions.get(address).ok_or_else(|| missing(address))?.config();
        let registers = if lost { [0xff; 64] } else { config };
        // Written in place, so that a concurrent reader never finds a shorter file.
        let file = fs::OpenOptions::new().write(true).open(self.sysfs_dir(address).join("config"))?;
        file.write_all_at(&registers, 0)
    }

    /// Sets a function's `power_state`: D0, D3hot, D3cold or unknown.
    ///
    /// # Errors
    /// There is no such function, or the tree cannot be written.
    pub fn set_power_state(&self, address: &str, state: &str) -> Result<()> {
        fs::write(self.sysfs_dir(address).join("power_state"), format!("{state}\n"))
    }

    /// Sets the number of fatal PCIe errors that the kernel has counted. The file does not exist before the first
    /// call.
    ///
    /// # Errors
    /// There is no such function, or the tree cannot be written.
    pub fn set_fatal_errors(&self, address: &str, count: u64) -> Result<()> {
        let text = format!("Undefined 0\nDLP {count}\nSDES 0\nTLP 0\nTOTAL_ERR_FATAL {count}\n");
        fs::write(self.sysfs_dir(address).join("aer_dev_fatal"), text)
    }
}
