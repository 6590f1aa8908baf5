//! Builds devices, nodes and assignments for tests.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use crate::allocation::request::Request;
use crate::assignments::index::Assignments;
use crate::assignments::ledger::Ledger;
use crate::assignments::record::Assignment;
use crate::device::{DeviceState, GroupState, HardwareHealth, NodeSnapshot};
use crate::kubelet_id::KubeletDeviceId;
use crate::pools::terms::{PinnedTerms, Terms};
use std::collections::BTreeSet;
use std::time::Instant;
use vfio_probe::peek::Peek;
use vfio_probe::text::Text;
use vfio_probe::{Device, Evidence, GroupId, Holder, Member, Occupancy, Viability};

/// Returns the state of a bound GPU. If it is held, the holder is pid 7 with the command `qemu`.
pub fn device_state(
    address: &str,
    group: u32,
    occupancy: Occupancy,
    since: Instant,
    viability: Viability,
    unbinding: bool,
) -> DeviceState {
    let mut device = Device::new(address.parse().unwrap());
    (device.vendor, device.device, device.class) = (0x10de, 0x2330, 0x03_0200);
    device.driver = Text::new(b"vfio-pci");
    device.group = Some(GroupId(group));
    device.numa_node = Some(0);
    let id = GroupId(group);
    let mut holder = Holder::new(id, 7);
    (holder.start_time, holder.command) = (1, Text::lossy(b"qemu"));
    let holders = if occupancy.is_held() { vec![holder] } else { Vec::new() };
    let peek = if occupancy.is_held() { Peek::LooksHeld } else { Peek::LooksFree };
    let evidence = Evidence::Open;
    let has_node = true;
    let offenders = match viability {
        Viability::NotViable { member, driver } => {
            let mut offender = Member::new(member);
            offender.driver = Some(driver);
            vec![offender]
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
        has_peers: false,
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

/// Returns a node with this many free GPUs, at most 65,536. Each one has an IOMMU group of its own.
pub fn node_of(count: u32) -> NodeSnapshot {
    #[expect(clippy::disallowed_methods, reason = "any moment")]
    let since = Instant::now();
    let device = |index: u32| {
        let address = format!("0000:{:02x}:{:02x}.{}", index >> 8, index >> 3 & 31, index & 7);
        device_state(&address, index, Occupancy::Free, since, Viability::Viable, false)
    };
    NodeSnapshot { devices: (0..count).map(device).collect(), vfio_visible: true, ..NodeSnapshot::default() }
}

/// Returns the assignments of a node of which every device was allocated, each by an Allocate of its own that the kubelet does not
/// show yet.
pub fn allocated(snapshot: &NodeSnapshot) -> Assignments {
    let allocates = snapshot.devices.iter().map(allocate);
    let mut ledger = Ledger::default();
    ledger.add_allocates(allocates);
    Assignments::new(true, &ledger)
}

/// Returns the assignment of an Allocate of one device.
pub fn allocate(device: &DeviceState) -> Assignment {
    let ids = BTreeSet::from([device.device.id.to_string()]);
    let since = device.group.as_ref().unwrap().since;
    Assignment::allocated(&device.resource, ids.clone(), ids, PinnedTerms::default(), since)
}

/// Returns the kubelet's request for these devices in one container.
pub fn request<'a>(devices: impl IntoIterator<Item = &'a DeviceState>) -> Request {
    let ids = devices.into_iter().map(|device| KubeletDeviceId::Device(device.device.id));
    Request { containers: vec![ids.collect()] }
}
