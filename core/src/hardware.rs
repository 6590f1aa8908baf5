//! What can be read of a function's hardware, as a rule without waking anything: whether it is there, and how often it failed.

use crate::device::{optional, parse_decimal};
use crate::error::{Error, Result};
use crate::id::{DeviceId, PciAddress};
use crate::root::{PAGE, Root};
use rustix::io::pread;

/// Whether a function is there.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Presence {
    /// It answers.
    Present,
    /// Its registers read all ones: it has fallen off the bus, or a bridge above it has.
    Lost,
    /// It was not asked: that would have woken it or the bridge above it, or their power states are not told (kernels
    /// before 5.11).
    NotChecked,
}

impl Presence {
    /// `present`, `lost` or `not-checked`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Present => "present",
            Self::Lost => "lost",
            Self::NotChecked => "not-checked",
        }
    }

    /// From the first eight bytes of a configuration space: vendor and device, command and status.
    ///
    /// The command register has bits that read 0 on whatever is there. Vendor and device alone do not tell: a virtual
    /// function's read all ones by specification.
    fn of(registers: [u8; 8]) -> Self {
        if registers == [0xff; 8] { Self::Lost } else { Self::Present }
    }
}

/// The line of `aer_dev_fatal` that sums up the others (`aer_stats_dev_attr`, drivers/pci/pcie/aer.c).
fn total_fatal(text: &[u8]) -> Option<u64> {
    text.split(|&byte| byte == b'\n').find_map(|line| parse_decimal(line.strip_prefix(b"TOTAL_ERR_FATAL ")?))
}

impl Root {
    /// Asks a function for its first registers, if that wakes nobody. Nine system calls, seven on a root bus.
    ///
    /// A read of `config` resumes the bridge above, and a function that is in D3cold (`pci_config_pm_runtime_get`,
    /// drivers/pci/pci.c); in D3hot the registers answer. Power states are told from memory (`power_state_show`).
    ///
    /// While the function is reset the read waits in the kernel (`pci_wait_cfg`, drivers/pci/access.c): for a minute, if it
    /// does not come back.
    ///
    /// # Errors
    /// The function is gone, or an attribute cannot be read or holds what the kernel would not write.
    pub fn presence(&self, address: PciAddress) -> Result<Presence> {
        self.try_presence(address).map_err(|error| error.of_device(DeviceId::Pci(address)))
    }

    fn try_presence(&self, address: PciAddress) -> Result<Presence> {
        let device = format_args!("sys/bus/pci/devices/{address}/power_state");
        if !matches!(self.power_state(device, &mut [0; 16])?, Some(b"D0" | b"D3hot")) {
            return Ok(Presence::NotChecked);
        }
        // Above a root bus there is a host bridge, which has no power state.
        let bridge = format_args!("sys/bus/pci/devices/{address}/../power_state");
        if !matches!(self.power_state(bridge, &mut [0; 16])?, None | Some(b"D0")) {
            return Ok(Presence::NotChecked);
        }
        self.registers(address)
    }

    /// Asks a function for its first registers even if that wakes it. Three system calls.
    ///
    /// The read resumes the bridges above, and a function that is in D3cold; both fall asleep again by themselves. So it is for
    /// functions that are about to be woken anyway, or of no use to anybody as they are. One that a machine holds and has put
    /// to sleep (`VFIO_DEVICE_FEATURE_LOW_POWER_ENTRY`) must be left alone: its guest would find it awake.
    ///
    /// The kernel says D3cold also of a function that did not answer when its power state was to change
    /// (`pci_power_up`, `pci_set_low_power_state`, drivers/pci/pci.c); only such a read tells the two apart.
    ///
    /// # Errors
    /// The function is gone, or its registers cannot be read.
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

    /// How many fatal PCIe errors the kernel has counted of a function since it was added; none where it counts none, as
    /// without AER. Touches no hardware. Three system calls.
    ///
    /// # Errors
    /// The attribute cannot be read, or holds what the kernel would not write.
    pub fn fatal_errors(&self, address: PciAddress) -> Result<Option<u64>> {
        const WHAT: &str = "aer_dev_fatal";
        let mut buffer = [0; PAGE];
        let text = optional(self.read(format_args!("sys/bus/pci/devices/{address}/{WHAT}"), &mut buffer));
        let text = text.map_err(|errno| Error::system(errno, WHAT).of_device(DeviceId::Pci(address)))?;
        text.map(|text| total_fatal(text).ok_or(Error::malformed(WHAT).of_device(DeviceId::Pci(address))))
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ErrorKind;
    use proptest::prelude::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::PathBuf;

    const GPU_AT: PciAddress = PciAddress { domain: 0, bus: 1, device: 0, function: 0 };
    const GPU: [u8; 8] = [0xde, 0x10, 0x30, 0x23, 0x06, 0x04, 0x10, 0x00];
    const VIRTUAL: [u8; 8] = [0xff, 0xff, 0xff, 0xff, 0x06, 0x04, 0x10, 0x00];
    const FATAL: &str = "Undefined 0\nDLP 1\nSDES 2\nTOTAL_ERR_FATAL 3\n";

    /// A function below a bridge, in a folder that stands for the root.
    struct Tree(tempfile::TempDir);

    impl Tree {
        fn new() -> Self {
            let tree = Self(tempfile::tempdir().unwrap());
            fs::create_dir_all(tree.path("")).unwrap();
            fs::create_dir_all(tree.0.path().join("sys/bus/pci/devices")).unwrap();
            symlink(
                "../../../devices/pci0000:00/0000:00:01.0/0000:01:00.0",
                tree.0.path().join("sys/bus/pci/devices/0000:01:00.0"),
            )
            .unwrap();
            tree.writes("power_state", "D3hot\n").writes("../power_state", "D0\n").writes("config", GPU)
        }

        fn path(&self, name: &str) -> PathBuf {
            self.0.path().join("sys/devices/pci0000:00/0000:00:01.0/0000:01:00.0").join(name)
        }

        fn writes(self, name: &str, content: impl AsRef<[u8]>) -> Self {
            fs::write(self.path(name), content).unwrap();
            self
        }

        fn lacks(self, name: &str) -> Self {
            fs::remove_file(self.path(name)).unwrap();
            self
        }

        fn presence(&self) -> std::result::Result<Presence, ErrorKind> {
            let root = Root::open(self.0.path()).unwrap();
            root.presence(GPU_AT).map_err(|error| error.kind)
        }

        fn fatal(&self) -> std::result::Result<Option<u64>, ErrorKind> {
            let root = Root::open(self.0.path()).unwrap();
            root.fatal_errors(GPU_AT).map_err(|error| error.kind)
        }
    }

    #[test]
    fn all_ones_are_lost_and_a_virtual_functions_ids_are_not() {
        assert_eq!(Tree::new().presence(), Ok(Presence::Present));
        assert_eq!(Tree::new().writes("config", VIRTUAL).presence(), Ok(Presence::Present));
        assert_eq!(Tree::new().writes("config", [0xff; 256]).presence(), Ok(Presence::Lost));
        // RRS: it is there, and not ready yet (PCIe 6.0, 2.3.2).
        let not_ready = [0x01, 0x00, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff];
        assert_eq!(Tree::new().writes("config", not_ready).presence(), Ok(Presence::Present));
    }

    #[test]
    fn what_sleeps_is_not_asked() {
        // In whose place there is a folder: to read it would be an error.
        let asleep = || {
            let tree = Tree::new().lacks("config");
            fs::create_dir(tree.path("config")).unwrap();
            tree
        };
        assert_eq!(asleep().presence(), Err(ErrorKind::System));
        let waking = |tree: &Tree| {
            Root::open(tree.0.path()).unwrap().presence_waking(GPU_AT).map_err(|error| error.kind)
        };
        assert_eq!(waking(&asleep().writes("power_state", "D3cold\n")), Err(ErrorKind::System));
        assert_eq!(waking(&Tree::new().writes("power_state", "D3cold\n")), Ok(Presence::Present));
        let lost = Tree::new().writes("power_state", "D3cold\n").writes("config", [0xff; 64]);
        assert_eq!((lost.presence(), waking(&lost)), (Ok(Presence::NotChecked), Ok(Presence::Lost)));
        for state in ["D3cold\n", "unknown\n", "error\n", "", "D0D0\n"] {
            assert_eq!(asleep().writes("power_state", state).presence(), Ok(Presence::NotChecked), "{state}");
        }
        assert_eq!(asleep().lacks("power_state").presence(), Ok(Presence::NotChecked));
        for state in ["D3hot\n", "D3cold\n", "unknown\n"] {
            let tree = asleep().writes("../power_state", state);
            assert_eq!(tree.presence(), Ok(Presence::NotChecked), "bridge {state}");
        }
        assert_eq!(Tree::new().writes("power_state", "D0\n").presence(), Ok(Presence::Present));
        // On a root bus.
        assert_eq!(Tree::new().lacks("../power_state").presence(), Ok(Presence::Present));
    }

    #[test]
    fn what_the_kernel_would_not_write_is_an_error() {
        assert_eq!(Tree::new().writes("config", [0xff; 7]).presence(), Err(ErrorKind::Malformed));
        assert_eq!(Tree::new().lacks("config").presence(), Err(ErrorKind::Missing));
        assert_eq!(Tree::new().writes("power_state", [b'D'; PAGE]).presence(), Err(ErrorKind::TooLong));
        let fifo = Tree::new().lacks("config");
        let mode = rustix::fs::Mode::RUSR;
        let kind = rustix::fs::FileType::Fifo;
        rustix::fs::mknodat(rustix::fs::CWD, fifo.path("config"), kind, mode, 0).unwrap();
        assert_eq!(fifo.presence(), Err(ErrorKind::System));
    }

    #[test]
    fn fatal_errors_are_the_kernels_total() {
        assert_eq!(Tree::new().fatal(), Ok(None));
        assert_eq!(Tree::new().writes("aer_dev_fatal", FATAL).fatal(), Ok(Some(3)));
        for text in ["", "TOTAL_ERR_FATAL\n", "TOTAL_ERR_FATAL -1\n", "DLP 1\n", "TOTAL_ERR_COR 3\n"] {
            let tree = Tree::new().writes("aer_dev_fatal", text);
            assert_eq!(tree.fatal(), Err(ErrorKind::Malformed), "{text}");
        }
        let long = Tree::new().writes("aer_dev_fatal", [b'x'; PAGE]);
        assert_eq!(long.fatal(), Err(ErrorKind::TooLong));
    }

    proptest! {
        #[test]
        fn no_text_panics(text: Vec<u8>) {
            total_fatal(&text);
        }

        #[test]
        fn the_total_is_found_among_any_lines(lines in proptest::collection::vec("[A-Z]{1,9} [0-9]{1,9}", 0..20), total: u64) {
            let text = format!("{}\nTOTAL_ERR_FATAL {total}\n", lines.join("\n"));
            prop_assert_eq!(total_fatal(text.as_bytes()), Some(total));
        }
    }
}
