//! Texts of the kernel and of the system: uevents, cgroups, ids of devices, pci.ids.

use crate::bounded;
use std::io::Read;
use vfio_probe::{DeviceId, GroupId, PciAddress, cgroup as cgroups, names, uevent as uevents};

/// A message of the kernel about a device. Parsing allocates nothing.
pub fn uevent(data: &[u8]) {
    let event = bounded(0, || uevents::parse(data));
    let more = [data, b"\0NEW=1"].concat();
    assert_eq!(uevents::parse(&more), event, "a variable that is not known changes nothing");
    if let Some(id) = event.and_then(|event| event.device) {
        assert_eq!(DeviceId::parse(id.to_string().as_bytes()), Some(id));
    }
}

/// The text of /proc/PID/cgroup. Parsing allocates nothing.
pub fn cgroup(data: &[u8]) {
    let container = bounded(0, || cgroups::container(data));
    if let Some(uid) = container.pod_uid.map(|uid| uid.to_string()) {
        assert!(matches!(uid.len(), 32 | 36), "{uid}");
        assert!(uid.bytes().all(|byte| byte.is_ascii_hexdigit() || byte == b'-'), "{uid}");
    }
    if let Some(id) = container.container_id.map(|id| id.to_string()) {
        assert!(id.len() == 64 && id.bytes().all(|byte| byte.is_ascii_hexdigit()), "{id}");
    }
}

/// An id of a device or a group. Every id has one text, and parsing allocates nothing.
pub fn device_id(data: &[u8]) {
    if let Some(id) = bounded(0, || DeviceId::parse(data)) {
        let text = id.to_string();
        assert_eq!(text.parse(), Ok(id));
        assert!(text.eq_ignore_ascii_case(&String::from_utf8_lossy(data)), "{text}");
    }
    if let Some(address) = bounded(0, || PciAddress::parse(data)) {
        assert_eq!(DeviceId::parse(data), Some(DeviceId::Pci(address)));
    }
    if let Ok(text) = std::str::from_utf8(data) {
        assert_eq!(text.parse().ok(), DeviceId::parse(data));
        if let Ok(group) = text.parse::<GroupId>() {
            assert_eq!(group.to_string().parse(), Ok(group));
        }
    }
}

/// A reader that returns one byte at a time.
struct ByteByByte<'a>(&'a [u8]);

impl Read for ByteByByte<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = buffer.len().min(1);
        self.0.read(&mut buffer[..length])
    }
}

/// A pci.ids file. What is found does not depend on how it is read.
pub fn pci_ids(data: &[u8]) {
    let wanted = [(0x10de, 0x2330), (0x8086, 0x0dc1), (0x0001, 0x0001), (0x10de, 0x2331)];
    let find = |file: &mut dyn Read| {
        let mut found = Vec::new();
        let result = names::find(file, &wanted, &mut |index, name| found.push((index, name.to_owned())));
        result.map(|()| found).expect("a file of this size is read")
    };
    let found = bounded((128 << 10) + 1024 + 64 * data.len(), || find(&mut { data }));
    for (index, name) in &found {
        assert!(*index < wanted.len() && !name.trim().is_empty() && !name.contains(char::is_control));
    }
    if data.len() < 1024 {
        assert_eq!(find(&mut ByteByByte(data)), found);
    }
}
