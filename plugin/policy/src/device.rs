//! What the monitor knew at one moment: the devices, their groups, and what could not be read. Immutable.

pub mod bound_devices;

use crate::cdi::request::SpecDevice;
use crate::pools::terms::{Offer, Terms};
use bound_devices::BoundDevices;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;
use vfio_probe::peek::Peek;
use vfio_probe::text::Text;
use vfio_probe::{
    Device, DeviceId, Evidence, GroupId, Holder, Kind, Member, Occupancy, ScanCoverage, Viability,
};

/// All offered devices at one moment.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct NodeSnapshot {
    /// The bound devices that a pool offers, in the order of their ids.
    pub devices: BoundDevices,
    /// Devices of this plugin's resources that are assigned to pods and are not bound, or do not exist. The record of a device that
    /// does not exist or could not be read has only its id ([`Device::new`]).
    pub unbound: Vec<DeviceState>,
    /// The records of the other devices that are assigned to pods and exist: those that no pool offers.
    pub not_offered: Vec<Device>,
    /// The devices that are assigned to pods and do not exist.
    pub missing: BTreeSet<DeviceId>,
    /// Read only where a stored answer names such a node, and none elsewhere.
    pub special: Option<SpecialNodes>,
    /// Whether the plugin can list /dev/vfio. If not, a missing device node is no evidence.
    pub vfio_visible: bool,
    /// Whether /dev/vfio/vfio is missing. A group's device node cannot be used without it.
    pub container_node_missing: bool,
    /// Whether the latest pass could not list the bound devices. Then `devices` may lack some of them.
    pub listing_failed: bool,
    /// What could not be read. A device with an error of its own may be missing in `devices`.
    pub errors: Vec<vfio_probe::Error>,
    /// The number of reports from outside the monitor, such as results of Allocate's probes, that the snapshot contains.
    pub reports_seen: u64,
    /// The devices of the CDI specs on disk, in the order of devices.
    pub cdi: Vec<SpecDevice>,
}

/// Device nodes that few hosts have.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct SpecialNodes {
    /// The groups whose node is `/dev/vfio/noiommu-N`.
    pub no_iommu: BTreeSet<GroupId>,
    /// N of each extended memory `/dev/egmN` of offered GPUs, with its GPUs.
    pub memories: BTreeMap<u32, BTreeSet<DeviceId>>,
}

/// One device at one moment.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct DeviceState {
    /// The device's record from sysfs.
    pub device: Device,
    /// The resource under which it is offered.
    pub resource: Arc<str>,
    /// The terms on which it is offered: policies, device nodes, CDI names.
    pub terms: Terms,
    /// Whether the kernel's unbind of the device waits until a holder closes it.
    pub unbinding: bool,
    /// Whether its `enable` count was raised before the bind and is not lowered by a close. Only a process that remembers
    /// the count at the last free probe, as `serve` does, can peek at such a device.
    pub stale_enable: bool,
    /// The state of its hardware, as far as the plugin checks it.
    pub hardware: HardwareHealth,
    /// Its group. None without an IOMMU group, and for a device of which only the record is known.
    pub group: Option<GroupState>,
}

/// A device's IOMMU group at one moment.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct GroupState {
    /// The group's number.
    pub id: GroupId,
    /// Whether a process holds the group.
    pub occupancy: Occupancy,
    /// What `occupancy` rests on.
    pub evidence: Evidence,
    /// Whether the kernel has device nodes for groups. Kernels without CONFIG_VFIO_GROUP have only those of devices.
    pub has_node: bool,
    /// Since when `occupancy` has its value.
    pub since: Instant,
    /// Whether VFIO can use the group, by the drivers of its members.
    pub viability: Viability,
    /// Whether the group has more than one member.
    pub has_peers: bool,
    /// All members that keep the group from being viable, by name.
    pub offenders: Vec<Member>,
    /// The latest peek.
    pub peek: Peek,
    /// The holders that the latest scan found.
    pub holders: Vec<Holder>,
    /// How complete that scan was. None before the first scan.
    pub coverage: Option<ScanCoverage>,
}

impl GroupState {
    /// Returns whether the group is free, its holders are known, or the search for them has made a first step.
    pub fn holders_were_searched(&self) -> bool {
        !self.occupancy.is_held() || !self.holders.is_empty() || self.coverage.is_some()
    }

    /// Returns whether the group is free, its holders are known, or the search for them has inspected every process.
    pub fn search_is_over(&self) -> bool {
        let is_whole = |coverage: ScanCoverage| coverage.unsearched == 0;
        !self.occupancy.is_held() || !self.holders.is_empty() || self.coverage.is_some_and(is_whole)
    }
}

impl NodeSnapshot {
    /// Returns a bound device by its id.
    pub fn get(&self, id: DeviceId) -> Option<&DeviceState> {
        self.devices.get(id)
    }

    /// Returns the bound devices of the device's group, with the device itself. Returns none for a device without a group.
    pub fn in_group_of(&self, device: &DeviceState) -> impl Iterator<Item = &DeviceState> {
        device.device.group.into_iter().flat_map(|group| self.devices.in_group(group))
    }

    /// Returns the record of an offered or assigned device. None if it does not exist or could not be read.
    pub fn record(&self, id: DeviceId) -> Option<&Device> {
        let known = self.get(id).map(|state| &state.device);
        let unbound = || self.unbound.iter().map(|state| &state.device).chain(&self.not_offered);
        known.or_else(|| unbound().find(|device| device.id == id && **device != Device::new(id)))
    }

    /// Returns the records of all offered and assigned devices that exist.
    pub fn records(&self) -> impl Iterator<Item = &Device> {
        let states = self.devices.iter().chain(&self.unbound).map(|state| &state.device);
        states.chain(&self.not_offered).filter(|device| **device != Device::new(device.id))
    }

    /// Returns whether a device that is not in `devices` may be bound all the same, because its record or the list of
    /// bound devices could not be read.
    pub fn may_lack(&self, id: DeviceId) -> bool {
        // An error that names no device and no group is about an entry that may be any device.
        let concerns = |error: &vfio_probe::Error| match error.device {
            Some(device) => device == id,
            None => error.group.is_none(),
        };
        // The monitor keeps no more errors than this: the device's own may be among the others.
        let may_have_more = self.errors.len() >= vfio_probe::monitor::MAX_ERRORS;
        self.listing_failed || may_have_more || self.errors.iter().any(concerns)
    }
}

impl DeviceState {
    /// Creates the state of a device of which only the record is known, such as one that is not bound.
    pub fn unbound(device: Device, offer: Offer) -> Self {
        let Offer { resource, terms } = offer;
        let hardware = HardwareHealth::default();
        Self { device, resource, terms, unbinding: false, stale_enable: false, hardware, group: None }
    }

    /// Returns the path of the device node by which the device is opened: that of its group, or its own on a kernel
    /// without device nodes for groups. `/dev/vfio` without a group.
    pub fn node_path(&self) -> String {
        match (&self.group, self.device.cdev) {
            (Some(group), Some(number)) if !group.has_node => format!("/dev/vfio/devices/vfio{number}"),
            (Some(group), _) => format!("/dev/vfio/{}", group.id),
            (None, _) => "/dev/vfio".to_owned(),
        }
    }

    /// Returns the likely cause why the device has no IOMMU group, for people.
    pub fn no_group_text(&self) -> &'static str {
        no_group_text(self.device.kind)
    }

    /// Returns whether a process holds the device's group.
    pub fn is_held(&self) -> bool {
        self.group.as_ref().is_some_and(|group| group.occupancy.is_held())
    }
}

/// Returns the likely cause why a device of this kind has no IOMMU group, for people.
pub fn no_group_text(kind: Kind) -> &'static str {
    match kind {
        // VFIO itself creates their groups (`vfio_noiommu_group_alloc` with VFIO_EMULATED_IOMMU).
        Kind::Mdev => "no IOMMU group: a kernel without CONFIG_VFIO_GROUP has none for mediated devices",
        _ => "no IOMMU group: is the IOMMU off?",
    }
}

/// The confirmed state of a device's hardware.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct HardwareHealth {
    /// Whether the device has fallen off the bus.
    pub lost: bool,
    /// The number of fatal PCIe errors since the first check. 0 again after ten minutes without another.
    pub fatal: u64,
    /// What uses its memory besides VFIO, such as a boot framebuffer. None also while the check `framebuffer` is off.
    pub bar_user: Option<Text<32>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_may_be_missing_for_its_own_error_or_an_unclear_one() {
        let (own, other) = ("0000:01:00.0".parse().unwrap(), "0000:02:00.0".parse().unwrap());
        let error = || vfio_probe::Error::malformed("uevent");
        let may_lack = |errors: &[vfio_probe::Error], listing_failed| {
            NodeSnapshot { errors: errors.to_vec(), listing_failed, ..NodeSnapshot::default() }.may_lack(own)
        };
        assert!(!may_lack(&[], false) && may_lack(&[], true));
        assert!(!may_lack(&[error().of_device(other), error().of_group(GroupId(51))], false));
        assert!(may_lack(&[error().of_device(other), error().of_device(own)], false));
        assert!(may_lack(&[error().of_entry(b"vfio0")], false), "the entry may be any device");
        let full = vec![error().of_device(other); vfio_probe::monitor::MAX_ERRORS];
        assert!(may_lack(&full, false) && !may_lack(&full[1..], false), "further errors are not kept");
    }
}
