//! Peeks at a group: reads sysfs `enable` of its functions, without opening a device node.

use crate::device::is_vendor_driver;
use crate::error::{Error, Result};
use crate::id::{DeviceId, GroupId};
use crate::root::{Buffer, Root};
use rustix::io::{Errno, pread};
use std::os::fd::OwnedFd;

/// The result of a peek at a group. Exhaustive: whatever shows neither is [`Peek::Unavailable`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Peek {
    /// No function of the group is enabled above its baseline. A holder that has the group open and
    /// no device yet looks the same.
    LooksFree,
    /// At least one function is enabled above its baseline: `vfio_pci_core_enable` ran for a
    /// holder.
    LooksHeld,
    /// No function of the group has an `enable` that means anything: mediated devices, virtual
    /// functions of a vendor's driver.
    Unavailable,
}

impl Peek {
    /// Returns `looks-free`, `looks-held` or `unavailable`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::LooksFree => "looks-free",
            Self::LooksHeld => "looks-held",
            Self::Unavailable => "unavailable",
        }
    }
}

/// The open `enable` attribute of a device. It contains the function's enable count (`enable_show`,
/// drivers/pci/pci-sysfs.c).
///
/// The descriptor stays open, because one pread costs a third of open, read and close.
#[derive(Debug, Default)]
pub struct EnableCount {
    file: Option<OwnedFd>,
}

impl EnableCount {
    /// Reads the count.
    ///
    /// If the kept descriptor fails with ENODEV, the device was removed and perhaps added again.
    /// Then the attribute is opened again by path before anything is concluded.
    ///
    /// # Errors
    /// The attribute does not exist (kind `Missing`, always for a mediated device), cannot be read,
    /// or contains no number.
    pub fn read(&mut self, root: &Root, device: DeviceId) -> Result<u32> {
        self.read_and_keep(root, device, true)
    }

    /// As [`EnableCount::read`], but keeps the descriptor only if `keep` is true. Closes one that
    /// was kept before.
    pub(crate) fn read_and_keep(&mut self, root: &Root, device: DeviceId, keep: bool) -> Result<u32> {
        let count = self.try_read(root, device, keep).map_err(|error| error.of_device(device));
        if !keep {
            self.file = None;
        }
        count
    }

    /// Returns whether the descriptor is open.
    pub(crate) fn is_open(&self) -> bool {
        self.file.is_some()
    }

    fn try_read(&mut self, root: &Root, device: DeviceId, keep: bool) -> Result<u32> {
        let mut buffer = [0; 16];
        let system = |errno| Error::system(errno, "enable");
        if let Some(file) = &self.file {
            match pread(file, &mut buffer, 0) {
                Ok(length) => return parse(buffer.get(..length).unwrap_or_default()),
                Err(Errno::NODEV) => self.file = None,
                Err(errno) => return Err(system(errno)),
            }
        }
        let Some(address) = device.pci() else { return Err(system(Errno::NOENT)) };
        let file =
            root.open_attribute(format_args!("sys/bus/pci/devices/{address}/enable")).map_err(system)?;
        let length = pread(&file, &mut buffer, 0).map_err(system)?;
        self.file = keep.then_some(file);
        parse(buffer.get(..length).unwrap_or_default())
    }

    /// Closes the descriptor, so that the next read opens the attribute by path.
    pub fn forget(&mut self) {
        self.file = None;
    }
}

fn parse(text: &[u8]) -> Result<u32> {
    std::str::from_utf8(text.trim_ascii_end())
        .ok()
        .and_then(|text| text.parse().ok())
        .ok_or(Error::malformed("enable"))
}

impl Root {
    /// Peeks at a group once. The group looks held if any of its functions is bound to a VFIO
    /// driver and enabled.
    ///
    /// The baseline is 0 here. A count can be left over from before the bind; only
    /// [`Monitor`](crate::Monitor) learns such baselines. Bridges and functions of other drivers
    /// are enabled without a holder, so they do not count. Opens no device node and needs no
    /// privilege. Allocates nothing.
    ///
    /// # Errors
    /// The group does not exist, its members cannot be listed, or this process has no descriptor left
    /// to read a count with and no other count is above 0.
    pub fn peek(&self, group: GroupId, buffer: &mut Buffer) -> Result<Peek> {
        let (mut peek, mut shortage) = (Peek::Unavailable, None);
        self.members(group, buffer, |member| {
            let Ok(member) = member else { return };
            let (true, Some(id)) = (member.vfio, member.id()) else { return };
            // The host driver (`nvidia`) enables its virtual functions itself, not on behalf of a
            // VM.
            if member.driver.is_some_and(|driver| is_vendor_driver(driver.as_bytes())) {
                return;
            }
            match EnableCount::default().read(self, id) {
                Ok(0) if peek == Peek::Unavailable => peek = Peek::LooksFree,
                // That says nothing about the function.
                Err(error) if error.is_shortage() => shortage = Some(error),
                Ok(0) | Err(_) => {}
                Ok(_) => peek = Peek::LooksHeld,
            }
        })?;
        match shortage {
            Some(error) if peek != Peek::LooksHeld => Err(error),
            _ => Ok(peek),
        }
    }
}
