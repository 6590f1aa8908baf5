//! Hardware that fails, sleeps and comes back, as the kernel shows it in sysfs; and who looks.

use crate::group_node::OpenCounter;
use crate::node::Node;
use crate::state::missing;
use std::fs;
use std::io::Result;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

/// How often a file was opened.
#[derive(Debug)]
pub struct Opens {
    counter: OpenCounter,
    watch: i32,
}

impl Opens {
    /// Counts from now on. A fork while somebody has it open may make two opens count as one.
    ///
    /// # Errors
    /// There is no such file, or no inotify instance can be had.
    pub fn of(path: &Path) -> Result<Self> {
        let counter = OpenCounter::new()?;
        let watch = counter.add(path)?;
        Ok(Self { counter, watch })
    }

    /// So far.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counter.count(self.watch)
    }
}

impl Node {
    /// A function's folder in sysfs.
    #[must_use]
    pub fn folder(&self, address: &str) -> PathBuf {
        self.root().join("sys/bus/pci/devices").join(address)
    }

    /// A function falls off the bus, and its registers read all ones; or it is back.
    ///
    /// # Errors
    /// There is no such function, or the tree cannot be written.
    pub fn set_lost(&self, address: &str, lost: bool) -> Result<()> {
        let config = self.shared.lock().functions.get(address).ok_or_else(|| missing(address))?.config();
        let registers = if lost { [0xff; 64] } else { config };
        // In place: who reads meanwhile finds no shorter file.
        let file = fs::OpenOptions::new().write(true).open(self.folder(address).join("config"))?;
        file.write_all_at(&registers, 0)
    }

    /// A function's `power_state`: D0, D3hot, D3cold, unknown.
    ///
    /// # Errors
    /// There is no such function, or the tree cannot be written.
    pub fn set_power_state(&self, address: &str, state: &str) -> Result<()> {
        fs::write(self.folder(address).join("power_state"), format!("{state}\n"))
    }

    /// How many fatal PCIe errors the kernel has counted of a function; before the first call it counts none.
    ///
    /// # Errors
    /// There is no such function, or the tree cannot be written.
    pub fn set_fatal_errors(&self, address: &str, count: u64) -> Result<()> {
        let text = format!("Undefined 0\nDLP {count}\nSDES 0\nTLP 0\nTOTAL_ERR_FATAL {count}\n");
        fs::write(self.folder(address).join("aer_dev_fatal"), text)
    }
}
