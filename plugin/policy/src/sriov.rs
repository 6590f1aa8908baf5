//! Finds physical functions that are offered to VMs while virtual functions of theirs are enabled.
//!
//! The kernel does not bind a function that has virtual functions (`vfio_pci_core_register_device` returns EBUSY), so these were
//! enabled through vfio-pci (`vfio_pci_core_sriov_configure`). A VM with the physical function has full control over the virtual
//! ones, so VFIO requires a shared secret: an open of a virtual function must pass the token that the physical function was
//! opened with, and an open of the physical function must pass it while a virtual one is open. An open without it fails with
//! EACCES (`vfio_pci_validate_vf_token`). QEMU takes the token as `vf-token`. Allocate therefore refuses nothing, and the plugin
//! only informs the operator.

use std::collections::BTreeSet;
use vfio_probe::{Device, DeviceId, PciAddress, Sriov};

/// Returns what `list` notes about a physical function with enabled virtual functions. None for any other device, and for a
/// device whose record does not have the count.
pub fn note(device: &Device) -> Option<String> {
    match device.sriov {
        Sriov::Physical(1) => Some("1 virtual function of it is on".to_owned()),
        Sriov::Physical(count) => Some(format!("{count} virtual functions of it are on")),
        _ => None,
    }
}

/// Returns the physical functions among devices that are bound to VFIO drivers and have virtual functions enabled.
///
/// A function counts if its own record has virtual functions, or if a bound virtual function names it as its parent. The
/// second rule is needed because a record may be older than the virtual functions: the kernel sends no event about the parent
/// when they appear.
pub fn shared<'a>(devices: impl Iterator<Item = &'a Device> + Clone) -> BTreeSet<PciAddress> {
    let bound: BTreeSet<DeviceId> = devices.clone().map(|device| device.id).collect();
    let shared = devices.filter_map(|device| match device.sriov {
        Sriov::Physical(_) => device.id.pci(),
        Sriov::Virtual => device.parent.filter(|parent| bound.contains(&DeviceId::Pci(*parent))),
        Sriov::None => None,
    });
    shared.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::device_state;
    use std::time::Instant;
    use vfio_probe::{Occupancy, Viability};

    #[test]
    fn physical_function_is_found_by_its_record_or_its_children() {
        let device = |address: &str, sriov: Sriov, parent: Option<&str>| {
            let now = Instant::now();
            let mut device = device_state(address, 51, Occupancy::Free, now, Viability::Viable, false).device;
            device.sriov = sriov;
            device.parent = parent.and_then(|parent| PciAddress::parse(parent.as_bytes()));
            device
        };
        let devices = [
            device("0000:01:00.0", Sriov::Physical(4), None),
            device("0000:02:00.0", Sriov::None, None),
            device("0000:02:00.1", Sriov::Virtual, Some("0000:02:00.0")),
            device("0000:02:00.2", Sriov::Virtual, Some("0000:02:00.0")),
            // Its physical function is bound to another driver.
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
