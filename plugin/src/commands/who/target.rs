//! Finds the IOMMU group that the argument of `who` names, in the forms that QEMU, lspci, libvirt and sysfs print.

use std::fmt;
use std::path::Path;
use vfio_plugin_policy::device::no_group_text;
use vfio_probe::device::Detail;
use vfio_probe::{Buffer, DeviceId, ErrorKind, GroupId, Kind, PciAddress, Root};

/// Domains that an error lists at most.
const MAX_CANDIDATES: usize = 16;

/// What a text names.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Target {
    /// An IOMMU group.
    Group(GroupId),
    /// A device by its full name.
    Device(DeviceId),
    /// A PCI function without its domain, as lspci prints it where all domains are 0.
    Function { bus: u8, device: u8, function: u8 },
    /// A device by its own device node `/dev/vfio/devices/vfioN`.
    Cdev(u32),
}

/// Why a text leads to no group.
#[derive(Debug)]
pub(super) enum TargetError {
    /// The text names no device and no group, or more than one device: wrong usage.
    Usage(String),
    /// The device or group does not exist, or cannot be read.
    Failed(String),
}

impl fmt::Display for TargetError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Usage(text) | Self::Failed(text)) = self;
        f.write_str(text)
    }
}

/// Returns the group that a text names. `path` is the root's directory.
///
/// # Errors
/// The text is no name, is ambiguous, or what it names does not exist or has no group.
pub(super) fn group_of(root: &Root, path: &Path, text: &str) -> Result<GroupId, TargetError> {
    match parse(text)? {
        Target::Group(group) => match root.members(group, &mut Buffer::new(), |_| {}) {
            Ok(()) => Ok(group),
            Err(error) if error.kind == ErrorKind::Missing => Err(missing(
                &format!("IOMMU group {group}"),
                &format!("/sys/kernel/iommu_groups/{group} does not exist"),
            )),
            Err(error) => Err(TargetError::Failed(error.to_string())),
        },
        Target::Device(id) => group_of_device(root, id),
        Target::Function { bus, device, function } => {
            let candidates = in_all_domains(path, |address| {
                (address.bus, address.device, address.function) == (bus, device, function)
            })?;
            let name = format!("{bus:02x}:{device:02x}.{function:x}");
            match *candidates {
                [] => {
                    Err(missing(&format!("PCI function {name}"), "/sys/bus/pci/devices has it in no domain"))
                }
                [address] => group_of_device(root, DeviceId::Pci(address)),
                [..] => {
                    let shown: Vec<String> =
                        candidates.iter().take(MAX_CANDIDATES).map(ToString::to_string).collect();
                    let more = if candidates.len() > shown.len() { ", ..." } else { "" };
                    let text = format!("{name} is ambiguous, give the domain: {}{more}", shown.join(", "));
                    Err(TargetError::Usage(text))
                }
            }
        }
        Target::Cdev(number) => {
            let device = path.join(format!("sys/class/vfio-dev/vfio{number}/device"));
            let name = match std::fs::read_link(&device) {
                Ok(link) => link.file_name().and_then(|name| name.to_str()?.parse().ok()),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    let what = format!("device node /dev/vfio/devices/vfio{number}");
                    let why = format!("/sys/class/vfio-dev/vfio{number} does not exist");
                    return Err(missing(&what, &why));
                }
                Err(error) => {
                    let text = format!("cannot read {}: {error}", device.display());
                    return Err(TargetError::Failed(text));
                }
            };
            let text = || TargetError::Failed(format!("{} names no device", device.display()));
            group_of_device(root, name.ok_or_else(text)?)
        }
    }
}

fn group_of_device(root: &Root, id: DeviceId) -> Result<GroupId, TargetError> {
    let device = root.device(id, Detail::Identity).map_err(|error| match (root.has(id), id) {
        (true, _) => TargetError::Failed(error.to_string()),
        (false, DeviceId::Pci(_)) => {
            missing(&format!("PCI function {id}"), &format!("/sys/bus/pci/devices/{id} does not exist"))
        }
        (false, DeviceId::Mdev(_)) => {
            missing(&format!("mediated device {id}"), &format!("/sys/bus/mdev/devices/{id} does not exist"))
        }
    })?;
    let kind = if id.pci().is_some() { Kind::Pci } else { Kind::Mdev };
    device.group.ok_or_else(|| TargetError::Failed(format!("{id} has {}", no_group_text(kind))))
}

fn missing(what: &str, why: &str) -> TargetError {
    TargetError::Failed(format!("no such {what}: {why}"))
}

/// Returns the PCI functions of the node that `wanted` accepts, sorted.
fn in_all_domains(root: &Path, wanted: impl Fn(PciAddress) -> bool) -> Result<Vec<PciAddress>, TargetError> {
    let directory = root.join("sys/bus/pci/devices");
    let entries = std::fs::read_dir(&directory)
        .map_err(|error| TargetError::Failed(format!("cannot read {}: {error}", directory.display())))?;
    let mut found: Vec<PciAddress> = entries
        .flatten()
        .filter_map(|entry| PciAddress::parse(entry.file_name().as_encoded_bytes()))
        .filter(|address| wanted(*address))
        .collect();
    found.sort_unstable();
    Ok(found)
}

/// Parses the argument.
fn parse(text: &str) -> Result<Target, TargetError> {
    let wrong = |hint: &str| {
        TargetError::Usage(format!(
            "{text:?}: {hint}; expected a PCI address like 0000:3b:00.0 or 3b:00.0, an mdev uuid, a group like 51 or \
             /dev/vfio/51, or a device node like vfio3"
        ))
    };
    let name = bare_name(text);
    if name.len() > 256 || !name.is_ascii() {
        return Err(wrong("not a device or group"));
    }
    let cdev = |name: &str| GroupId::parse(name.strip_prefix("vfio")?.as_bytes()).map(|number| number.0);
    let group = |name: &str| GroupId::parse(name.as_bytes()).map(Target::Group);
    let (directory, last) = name.rsplit_once('/').unwrap_or(("", name));
    let target = match directory {
        "/dev/vfio/devices" => cdev(last).map(Target::Cdev),
        "/dev/vfio" if last == "vfio" => {
            return Err(wrong("every VM opens this device node, whatever its devices"));
        }
        "/dev" if last == "iommu" => {
            return Err(wrong("every VM with iommufd opens this device node, whatever its devices"));
        }
        "/dev/vfio" => group(last.strip_prefix("noiommu-").unwrap_or(last)),
        "/sys/kernel/iommu_groups" => group(last),
        "" if name == "vfio" => return Err(wrong("every VM opens the device node /dev/vfio/vfio")),
        "" => group(last)
            .or_else(|| group(last.strip_prefix("noiommu-")?))
            .or_else(|| group(last.strip_prefix("group ")?.trim()))
            .or_else(|| cdev(last).map(Target::Cdev))
            .or_else(|| device(last)),
        // A path that QEMU's sysfsdev accepts.
        _ if directory.starts_with("/sys/") => device(last),
        _ => None,
    };
    target.ok_or_else(|| wrong("not a device or group"))
}

/// Returns a text without what may surround a name that was copied from a message or a command line: white space, quotes, the
/// punctuation after it, and the rest of QEMU's `-device vfio-pci,host=...,id=...`.
fn bare_name(text: &str) -> &str {
    let surrounds = |c: char| c.is_whitespace() || matches!(c, '\'' | '"' | '`' | ',' | ';' | ':');
    let name = text.trim_matches(surrounds);
    let option = ["host=", "sysfsdev=", "mdev="].into_iter().find_map(|key| {
        let at = name
            .match_indices(key)
            .map(|(at, _)| at)
            .find(|&at| at == 0 || name.get(..at).is_some_and(|before| before.ends_with([',', ' '])))?;
        name.get(at + key.len()..)
    });
    match option {
        Some(value) => value.split(',').next().unwrap_or_default().trim_matches(surrounds),
        None => name.trim_end_matches('/'),
    }
}

/// Parses the name of a device: a uuid, a PCI address with or without its domain, or libvirt's `pci_0000_3b_00_0`. Like QEMU's
/// `host=` it accepts numbers without leading zeros.
fn device(name: &str) -> Option<Target> {
    if let Some(id) = DeviceId::parse(name.as_bytes()) {
        return Some(Target::Device(id));
    }
    if let Some(rest) = name.strip_prefix("pci_") {
        let parts: Vec<&str> = rest.split('_').collect();
        let [domain, bus, device, function] = *parts else { return None };
        let address = format!("{domain}:{bus}:{device}.{function}");
        return PciAddress::parse(address.as_bytes()).map(DeviceId::Pci).map(Target::Device);
    }
    let hex = |text: &str, digits: usize| {
        let valid = (1..=digits).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        valid.then(|| u32::from_str_radix(text, 16).ok()).flatten()
    };
    let (slot, function) = name.rsplit_once('.')?;
    let mut parts = slot.rsplit(':');
    let device = u8::try_from(hex(parts.next()?, 2)?).ok().filter(|device| *device < 32)?;
    let bus = u8::try_from(hex(parts.next()?, 2)?).ok()?;
    let function = u8::try_from(hex(function, 1)?).ok().filter(|function| *function < 8)?;
    let domain = parts.next();
    if parts.next().is_some() {
        return None;
    }
    match domain {
        None => Some(Target::Function { bus, device, function }),
        Some(domain) => {
            let domain = hex(domain, 8)?;
            Some(Target::Device(DeviceId::Pci(PciAddress { domain, bus, device, function })))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "4b5a1c7e-5b0a-4a57-9d3a-0123456789ab";

    fn pci(text: &str) -> Target {
        Target::Device(DeviceId::Pci(PciAddress::parse(text.as_bytes()).unwrap()))
    }

    #[test]
    fn forms_that_tools_print_are_accepted() {
        let group = |number| Target::Group(GroupId(number));
        let short = Target::Function { bus: 0x1b, device: 0, function: 1 };
        for (text, expected) in [
            ("51", group(51)),
            ("0", group(0)),
            (" 51\n", group(51)),
            ("group 51", group(51)),
            ("/dev/vfio/51", group(51)),
            ("/dev/vfio/51:", group(51)),
            ("'/dev/vfio/51'", group(51)),
            ("/dev/vfio/noiommu-0", group(0)),
            ("noiommu-7", group(7)),
            ("/sys/kernel/iommu_groups/51/", group(51)),
            ("vfio3", Target::Cdev(3)),
            ("/dev/vfio/devices/vfio3", Target::Cdev(3)),
            ("0000:1b:00.0", pci("0000:1b:00.0")),
            ("0000:1B:00.0", pci("0000:1b:00.0")),
            ("\t0000:1b:00.0:", pci("0000:1b:00.0")),
            ("10000:E1:1f.7", pci("10000:e1:1f.7")),
            ("0:1b:0.1", pci("0000:1b:00.1")),
            // As nvidia-smi prints it.
            ("00000000:1B:00.0", pci("0000:1b:00.0")),
            ("pci_0000_1b_00_0", pci("0000:1b:00.0")),
            ("host=0000:1b:00.0", pci("0000:1b:00.0")),
            ("-device vfio-pci,host=0000:1b:00.0,id=hostdev0", pci("0000:1b:00.0")),
            ("vfio-pci,sysfsdev=/sys/bus/pci/devices/0000:1b:00.0", pci("0000:1b:00.0")),
            ("/sys/bus/pci/devices/0000:1b:00.0/", pci("0000:1b:00.0")),
            ("1b:00.1", short),
            ("1B:0.1", short),
            ("host=1b:00.1,multifunction=on", short),
            (UUID, Target::Device(UUID.parse().unwrap())),
            (&UUID.to_uppercase(), Target::Device(UUID.parse().unwrap())),
            (&format!("/sys/bus/mdev/devices/{UUID}"), Target::Device(UUID.parse().unwrap())),
        ] {
            assert_eq!(parse(text).unwrap(), expected, "{text:?}");
        }
    }

    #[test]
    fn other_texts_are_wrong_usage() {
        for text in [
            "",
            " ",
            "nonsense",
            "-1",
            "051",
            "4294967296",
            "0x33",
            "1b:00",
            "1b:20.0",
            "1b:00.8",
            "1b:00.",
            "1:2:3:4.0",
            "100:00.0",
            "0000:1b:00.0 ./x",
            "vfio",
            "vfio-3",
            "vfio03",
            "/dev/vfio/vfio",
            "/dev/iommu",
            "/dev/vfio/",
            "/dev/vfio/devices",
            "/dev/vfio/devices/3",
            "/dev/vfio/../vfio/51",
            "/dev/sda/51",
            "host=",
            "/sys/class/net/eth0",
            "noiommu-",
            "pci_0000_1b_00",
            "group",
            "0000:1b:00.0\u{200b}",
            "１b:00.0",
            "00000000\u{e9}",
            "1b:00.\u{e9}",
        ] {
            assert!(matches!(parse(text), Err(TargetError::Usage(_))), "{text:?}");
        }
        let long = "1".repeat(1 << 20);
        assert!(matches!(parse(&long), Err(TargetError::Usage(_))));
    }

    #[test]
    fn error_escapes_the_text() {
        let error = parse("a\u{1b}[2J\n").unwrap_err().to_string();
        assert!(error.starts_with(r#""a\u{1b}[2J\n": not a device or group; expected"#), "{error}");
    }
}
