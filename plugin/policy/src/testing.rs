//! Builds devices for tests.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use crate::device::{DeviceState, GroupState, HardwareHealth};
use crate::pools::terms::Terms;
use std::time::Instant;
use vfio_probe::holders::Via;
use vfio_probe::peek::Peek;
use vfio_probe::text::Text;
use vfio_probe::{Device, Evidence, GroupId, Holder, Kind, Member, Occupancy, Sriov, Viability};

/// Returns the state of a bound GPU. If it is held, the holder is pid 7 with the command `qemu`.
pub fn device_state(
    address: &str,
    group: u32,
    occupancy: Occupancy,
    since: Instant,
    viability: Viability,
    unbinding: bool,
) -> DeviceState {
    let device = Device {
        id: address.parse().unwrap(),
        vendor: 0x10de,
        device: 0x2330,
        subsystem_vendor: 0,
        subsystem_device: 0,
        class: 0x03_0200,
        driver: Text::new(b"vfio-pci"),
        group: Some(GroupId(group)),
        numa_node: Some(0),
        sriov: Sriov::None,
        cdev: None,
        kind: Kind::Pci,
        vgpu_type: None,
        parent: None,
    };
    let id = GroupId(group);
    let command = Text::lossy(b"qemu");
    let holder =
        Holder { group: id, pid: 7, start_time: 1, command, via: Via::Group, container: Default::default() };
    let holders = if occupancy.is_held() { vec![holder] } else { Vec::new() };
    let peek = if occupancy.is_held() { Peek::LooksHeld } else { Peek::LooksFree };
    let evidence = Evidence::Open;
    let has_node = true;
    let offenders = match viability {
        Viability::NotViable { member, driver } => {
            vec![Member { name: member, driver: Some(driver), vfio: false }]
        }
        Viability::Viable => Vec::new(),
    };
    let coverage = None;
    let group = GroupState {
        id,
        occupancy,
        evidence,
        has_node,
        since,
        viability,
        offenders,
        peek,
        holders,
        coverage,
    };
    DeviceState {
        device,
        resource: "nvidia.com/GPU".into(),
        terms: Terms::default(),
        unbinding,
        stale_enable: false,
        hardware: HardwareHealth::default(),
        group: Some(group),
    }
}
