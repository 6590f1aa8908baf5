//! Reads the state of a function's hardware: whether it responds, and how many fatal PCIe errors it
//! had.
//!
//! Except for [`Root::presence_waking`], no call wakes a device that is in a low-power state.

#[cfg(test)]
mod tests;

use crate::device::{optional, parse_decimal};
use crate::error::{Error, Result};
use crate::id::{DeviceId, PciAddress};
use crate::root::{PAGE, Root};
use rustix::io::{Errno, pread};
use std::os::fd::OwnedFd;

/// Whether the hardware of a function responds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Presence {
    /// The function responds.
    Present,
    /// The registers read as all ones: the function, or a bridge above it, has fallen off the bus.
    Lost,
    /// The registers were not read. The read would have woken the function or the bridge above it,
    /// or the kernel does not report their power states (before 5.11).
    NotChecked,
}

impl Presence {
    /// Returns `present`, `lost` or `not-checked`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Present => "present",
            Self::Lost => "lost",
            Self::NotChecked => "not-checked",
        }
    }

    /// Judges the first eight bytes of the configuration space: vendor, device, command and status.
    ///
    /// The command register of every function has bits that read as 0. Vendor and device alone are
    /// not enough: those of a virtual function read as all ones by specification.
    fn of(registers: [u8; 8]) -> Self {
        if registers == [0xff; 8] { Self::Lost } else { Self::Present }
    }
}

/// The state of a function's hardware.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub struct Hardware {
    /// Whether the function responds.
    pub presence: Presence,
    /// The number of fatal PCIe errors since the function was added. None if the kernel does not
    /// count them.
    pub fatal_errors: Option<u64>,
}

/// An attribute that is read again and again.
#[derive(Debug, Default)]
enum Kept {
    #[default]
    Closed,
    Open(OwnedFd),
    /// It does not exist, as long as the function does.
    Missing,
}

impl Kept {
    /// Reads the attribute, at `path` if it is not open. Opens it again if the function was removed
    /// and added since. Returns none if it does not exist.
    fn read<'b>(
        &mut self,
        root: &Root,
        path: std::fmt::Arguments<'_>,
        buffer: &'b mut [u8],
    ) -> std::result::Result<Option<&'b [u8]>, Errno> {
        let kept = match self {
            Self::Missing => return Ok(None),
            Self::Open(file) => Some(pread(&*file, &mut *buffer, 0)),
            Self::Closed => None,
        };
        let length = match kept {
            Some(Ok(length)) => length,
            Some(Err(errno)) if errno != Errno::NODEV => return Err(errno),
            _ => match root.open_attribute(path) {
                Ok(file) => {
                    let length = pread(&file, &mut *buffer, 0)?;
                    *self = Self::Open(file);
                    length
                }
                Err(errno) => {
                    *self = Self::Closed;
                    return if errno == Errno::NOENT { Ok(None) } else { Err(errno) };
                }
            },
        };
        Ok(buffer.get(..length))
    }
}

/// Reads whether one function responds, again and again, as [`Root::presence`] does.
///
/// Keeps up to three attributes open, because a read of an open one costs a fifth of open, read and
/// close. Drop it when the function is unbound.
#[derive(Debug)]
pub struct PresenceReader {
    address: PciAddress,
    power: Kept,
    bridge: Kept,
    config: Kept,
}

impl PresenceReader {
    /// The largest number of descriptors that a reader keeps.
    pub const DESCRIPTORS: usize = 3;

    /// Returns a reader of one function. Opens nothing yet.
    #[must_use]
    pub fn new(address: PciAddress) -> Self {
        Self { address, power: Kept::Closed, bridge: Kept::Closed, config: Kept::Closed }
    }

    /// Reads the first registers of the function, unless the read would wake a device. Needs three
    /// system calls after the first time, and blocks like [`Root::presence`].
    ///
    /// # Errors
    /// As [`Root::presence`].
    pub fn read(&mut self, root: &Root) -> Result<Presence> {
        self.try_read(root).map_err(|error| error.of_device(DeviceId::Pci(self.address)))
    }

    fn try_read(&mut self, root: &Root) -> Result<Presence> {
        let Self { address, power, bridge: kept_bridge, config } = self;
        let system = |what| move |errno| Error::system(errno, what);
        let mut state = [0; 16];
        let path = format_args!("sys/bus/pci/devices/{address}/power_state");
        let power = power.read(root, path, &mut state).map_err(system("power_state"))?;
        if !matches!(power.map(<[u8]>::trim_ascii_end), Some(b"D0" | b"D3hot")) {
            return Ok(Presence::NotChecked);
        }
        let path = format_args!("sys/bus/pci/devices/{address}/../power_state");
        let bridge = kept_bridge.read(root, path, &mut state).map_err(system("power_state"))?;
        if !matches!(bridge.map(<[u8]>::trim_ascii_end), None | Some(b"D0")) {
            return Ok(Presence::NotChecked);
        }
        let has_bridge = bridge.is_some();
        let mut registers = [0; 8];
        let path = format_args!("sys/bus/pci/devices/{address}/config");
        match config.read(root, path, &mut registers).map_err(system("config"))? {
            Some(read) if read.len() == 8 => {
                if !has_bridge {
                    // The function exists and is on a root bus.
                    *kept_bridge = Kept::Missing;
                }
                Ok(Presence::of(registers))
            }
            Some(_) => Err(Error::malformed("config")),
            None => Err(Error::system(Errno::NOENT, "config")),
        }
    }
}

/// Returns the total in the text of `aer_dev_fatal` (`aer_stats_dev_attr`, drivers/pci/pcie/aer.c).
/// None if the text has no line with a total.
fn total_fatal(text: &[u8]) -> Option<u64> {
    text.split(|&byte| byte == b'\n').find_map(|line| parse_decimal(line.strip_prefix(b"TOTAL_ERR_FATAL ")?))
}

impl Root {
    /// Reads whether a function responds ([`Root::presence`]) and its fatal errors
    /// ([`Root::fatal_errors`]). Wakes no device. Needs 13 system calls. Blocks during a reset, like
    /// [`Root::presence`].
    ///
    /// # Errors
    /// The function does not exist, an attribute cannot be read, or an attribute has content that
    /// the kernel would not write.
    pub fn hardware(&self, address: PciAddress) -> Result<Hardware> {
        self.stat(format_args!("sys/bus/pci/devices/{address}"))
            .map_err(|errno| Error::system(errno, "").of_device(DeviceId::Pci(address)))?;
        let presence = self.presence(address)?;
        Ok(Hardware { presence, fatal_errors: self.fatal_errors(address)? })
    }

    /// Reads the first registers of a function, unless the read would wake a device. Needs nine
    /// system calls, seven for a function on a root bus.
    ///
    /// A read of `config` resumes the bridge above the function, and a function in D3cold
    /// (`pci_config_pm_runtime_get`, drivers/pci/pci.c). In D3hot the registers can be read. The
    /// power states come from the kernel's memory (`power_state_show`).
    ///
    /// Blocks while the kernel resets the function (`pci_wait_cfg`, drivers/pci/access.c): up to a
    /// minute if the function does not return from the reset.
    ///
    /// # Errors
    /// The function does not exist, an attribute cannot be read, or an attribute has content that
    /// the kernel would not write.
    pub fn presence(&self, address: PciAddress) -> Result<Presence> {
        self.try_presence(address).map_err(|error| error.of_device(DeviceId::Pci(address)))
    }

    fn try_presence(&self, address: PciAddress) -> Result<Presence> {
        let device = format_args!("sys/bus/pci/devices/{address}/power_state");
        if !matches!(self.power_state(device, &mut [0; 16])?, Some(b"D0" | b"D3hot")) {
            return Ok(Presence::NotChecked);
        }
        // The parent of a root bus is a host bridge, which has no power state.
        let bridge = format_args!("sys/bus/pci/devices/{address}/../power_state");
        if !matches!(self.power_state(bridge, &mut [0; 16])?, None | Some(b"D0")) {
            return Ok(Presence::NotChecked);
        }
        self.registers(address)
    }

    /// Reads the first registers of a function, even if the read wakes it. Needs three system
    /// calls.
    ///
    /// The read resumes the bridges above the function, and a function in D3cold. The kernel
    /// suspends both again later. So use it only for a function that is about to be woken anyway,
    /// or that cannot be used in its present state. Do not use it for a function that a VM holds
    /// and has put into a low-power state (`VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY`): the guest would
    /// find it awake.
    ///
    /// The kernel also reports D3cold for a function that did not respond to a change of its power
    /// state (`pci_power_up`, `pci_set_low_power_state`, drivers/pci/pci.c). Only this read
    /// distinguishes the two.
    ///
    /// Blocks during a reset, like [`Root::presence`].
    ///
    /// # Errors
    /// The function does not exist, or its registers cannot be read.
    #[doc(hidden)]
    pub fn presence_waking(&self, address: PciAddress) -> Result<Presence> {
        self.registers(address).map_err(|error| error.of_device(DeviceId::Pci(address)))
    }

    fn registers(&self, address: PciAddress) -> Result<Presence> {
        let system = |errno| Error::system(errno, "config");
        let config =
            self.open_attribute(format_args!("sys/bus/pci/devices/{address}/config")).map_err(system)?;
        let mut registers = [0; 8];
        match pread(&config, &mut registers, 0).map_err(system)? {
            8 => Ok(Presence::of(registers)),
            _ => Err(Error::malformed("config")),
        }
    }

    fn power_state<'b>(
        &self,
        path: std::fmt::Arguments<'_>,
        buffer: &'b mut [u8],
    ) -> Result<Option<&'b [u8]>> {
        optional(self.read(path, buffer)).map_err(|errno| Error::system(errno, "power_state"))
    }

    /// Returns the number of fatal PCIe errors that the kernel has counted for a function since the
    /// function was added. None if the kernel does not count them, as without AER. Accesses no
    /// hardware. Needs three system calls.
    ///
    /// # Errors
    /// The attribute cannot be read, or has content that the kernel would not write.
    pub fn fatal_errors(&self, address: PciAddress) -> Result<Option<u64>> {
        const WHAT: &str = "aer_dev_fatal";
        let mut buffer = [0; PAGE];
        let text = optional(self.read(format_args!("sys/bus/pci/devices/{address}/{WHAT}"), &mut buffer));
        let text = text.map_err(|errno| Error::system(errno, WHAT).of_device(DeviceId::Pci(address)))?;
        text.map(|text| total_fatal(text).ok_or(Error::malformed(WHAT).of_device(DeviceId::Pci(address))))
            .transpose()
    }
}
