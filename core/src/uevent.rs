//! Parses the kernel's uevent messages about devices and drivers. Performs no I/O.

use crate::id::DeviceId;

/// The action of an event.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Action {
    /// A driver was bound (`KOBJ_BIND`, drivers/base/dd.c).
    Bind,
    /// A driver was unbound, after its last user closed the device (`KOBJ_UNBIND`).
    Unbind,
    /// A device was added.
    Add,
    /// A device was removed.
    Remove,
}

/// One event of the subsystem pci, vfio, vfio-dev or mdev.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Uevent {
    /// The action.
    pub action: Action,
    /// The device that the event's path names. None if it names no device.
    pub device: Option<DeviceId>,
}

/// Parses a message: `ACTION@DEVPATH`, then `KEY=VALUE` parts, each ended by a zero byte
/// (`kobject_uevent_env`, lib/kobject_uevent.c).
///
/// Returns none for other subsystems, for other actions, and for a message that the kernel would
/// not send.
#[must_use]
pub fn parse(message: &[u8]) -> Option<Uevent> {
    let mut parts = message.split(|&byte| byte == 0);
    parts.next().filter(|head| head.contains(&b'@'))?;
    let (mut action, mut path, mut ours) = (None, None, false);
    for part in parts {
        if let Some(value) = part.strip_prefix(b"ACTION=") {
            action = Some(match value {
                b"bind" => Action::Bind,
                b"unbind" => Action::Unbind,
                b"add" => Action::Add,
                b"remove" => Action::Remove,
                _ => return None,
            });
        } else if let Some(value) = part.strip_prefix(b"DEVPATH=") {
            path = Some(value);
        } else if let Some(value) = part.strip_prefix(b"SUBSYSTEM=") {
            ours = matches!(value, b"pci" | b"vfio" | b"vfio-dev" | b"mdev");
        }
    }
    let device = path?.rsplit(|&byte| byte == b'/').find_map(DeviceId::parse);
    ours.then_some(Uevent { action: action?, device })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn kernel_messages_are_parsed() {
        let bind = b"bind@/devices/pci0000:00/0000:00:02.0\0ACTION=bind\0DEVPATH=/devices/pci0000:00/0000:00:02.0\0\
            SUBSYSTEM=pci\0DRIVER=vfio-pci\0PCI_CLASS=FF0010\0PCI_ID=1234:11E8\0PCI_SLOT_NAME=0000:00:02.0\0SEQNUM=1189\0";
        let event = parse(bind).unwrap();
        assert_eq!((event.action, event.device), (Action::Bind, DeviceId::parse(b"0000:00:02.0")));
        let add = b"add@/devices/virtual/vfio/2\0ACTION=add\0DEVPATH=/devices/virtual/vfio/2\0SUBSYSTEM=vfio\0MAJOR=245\0";
        assert_eq!(parse(add), Some(Uevent { action: Action::Add, device: None }));
        let dev = b"remove@/devices/pci0000:00/0000:00:02.0/vfio-dev/vfio0\0ACTION=remove\0\
            DEVPATH=/devices/pci0000:00/0000:00:02.0/vfio-dev/vfio0\0SUBSYSTEM=vfio-dev\0";
        assert_eq!(parse(dev).unwrap().device, DeviceId::parse(b"0000:00:02.0"));
    }

    #[test]
    fn other_messages_are_ignored() {
        assert_eq!(parse(b"add@/devices/x\0ACTION=add\0DEVPATH=/devices/x\0SUBSYSTEM=block\0"), None);
        assert_eq!(parse(b"change@/devices/x\0ACTION=change\0DEVPATH=/x\0SUBSYSTEM=pci\0"), None);
        assert_eq!(parse(b"libudev\0ACTION=bind\0SUBSYSTEM=pci\0DEVPATH=/x\0"), None);
        assert_eq!(parse(b""), None);
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            let _ = parse(&bytes);
        }
    }
}
