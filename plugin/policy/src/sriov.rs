//! Pure: physical functions that are given to machines while virtual functions of theirs are on.
//!
//! The kernel binds none that has functions on (`vfio_pci_core_register_device` answers EBUSY), so these were made through
//! vfio-pci (`vfio_pci_core_sriov_configure`). Since a machine with the physical function can do to the others what it likes, they
//! share a secret: who opens a virtual function must give the token that the physical one was opened with, and who opens that
//! one must give it while a virtual one is open; else the open fails with EACCES (`vfio_pci_validate_vf_token`). QEMU takes one as
//! `vf-token`. So Allocate refuses nothing for it, and an operator had better know.

use std::collections::BTreeSet;
use vfio_probe::{Device, DeviceId, PciAddress, Sriov};

/// What a list says of such a device; none where it is none, or where its record was not read whole.
pub fn note(device: &Device) -> Option<String> {
    match device.sriov {
        Sriov::Physical(1) => Some("1 virtual function of it is on".to_owned()),
        Sriov::Physical(count) => Some(format!("{count} virtual functions of it are on")),
        _ => None,
    }
}

/// Such functions among devices that are bound to VFIO drivers: those that say so, and those that another one is a part of. A
/// record may be older than the functions, which come without an event of their parent's.
pub fn shared<'a>(devices: impl Iterator<Item = &'a Device> + Clone) -> BTreeSet<PciAddress> {
    let bound: BTreeSet<DeviceId> = devices.clone().map(|device| device.id).collect();
    let told = devices.filter_map(|device| match device.sriov {
        Sriov::Physical(_) => device.id.pci(),
        Sriov::Virtual => device.parent.filter(|parent| bound.contains(&DeviceId::Pci(*parent))),
        Sriov::None => None,
    });
    told.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::view;
    use std::time::Instant;
    use vfio_probe::{Occupancy, Viability};

    #[test]
    fn a_physical_function_is_told_by_itself_and_by_its_parts() {
        let device = |address: &str, sriov: Sriov, parent: Option<&str>| Device {
            sriov,
            parent: parent.and_then(|parent| PciAddress::parse(parent.as_bytes())),
            ..view(address, 51, Occupancy::Free, Instant::now(), Viability::Viable, false).device
        };
        let devices = [
            device("0000:01:00.0", Sriov::Physical(4), None),
            device("0000:02:00.0", Sriov::None, None),
            device("0000:02:00.1", Sriov::Virtual, Some("0000:02:00.0")),
            device("0000:02:00.2", Sriov::Virtual, Some("0000:02:00.0")),
            // Its physical function has a driver of its own.
            device("0000:03:00.1", Sriov::Virtual, Some("0000:03:00.0")),
            device("0000:04:00.0", Sriov::None, None),
        ];
        let found = shared(devices.iter());
        let expected = [b"0000:01:00.0", b"0000:02:00.0"].map(|address| PciAddress::parse(address).unwrap());
        assert_eq!(found, BTreeSet::from(expected));
        let notes = devices.each_ref().map(note);
        assert_eq!(notes[0].as_deref(), Some("4 virtual functions of it are on"));
        assert!(notes[1..].iter().all(Option::is_none), "{notes:?}");
    }
}
