//! What the monitor knew at one moment, immutable.

use crate::cdi::request::SpecDevice;
use crate::pools::terms::{Offer, Terms};
use std::sync::Arc;
use std::time::Instant;
use vfio_probe::peek::Peek;
use vfio_probe::{Device, DeviceId, Evidence, GroupId, Holder, Kind, Occupancy, ScanCoverage, Viability};

/// All offered devices.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct NodeSnapshot {
    /// By id.
    pub devices: Vec<DeviceState>,
    /// Devices that pods own and that are no longer bound.
    pub unbound: Vec<DeviceState>,
    /// Whether /dev/vfio can be listed.
    pub vfio_visible: bool,
    /// /dev/vfio/vfio is missing, without which a group's node is of no use.
    pub container_node_missing: bool,
    /// What could not be read.
    pub errors: Vec<vfio_probe::Error>,
    /// How many answers to opens made elsewhere it has taken in.
    pub reports_seen: u64,
    /// Which devices the CDI specs on disk have.
    pub cdi: Vec<SpecDevice>,
}

/// One device.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct DeviceState {
    /// Its record.
    pub device: Device,
    /// The resource that it belongs to.
    pub resource: Arc<str>,
    /// On what terms it is given.
    pub terms: Terms,
    /// The kernel's unbind of it waits for the holder.
    pub unbinding: bool,
    /// Its enable count is left over from before the bind, so that a look without serve's memory is misled.
    pub stale_enable: bool,
    /// Its hardware, as far as that is looked at.
    pub hardware: HardwareHealth,
    /// Its group.
    pub group: Option<GroupState>,
}

/// A device's group.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct GroupState {
    /// Its number.
    pub id: GroupId,
    /// Whether it is held.
    pub occupancy: Occupancy,
    /// What that rests on.
    pub evidence: Evidence,
    /// Whether the kernel has nodes for groups; without, its devices' own are all there is.
    pub has_node: bool,
    /// Since when.
    pub since: Instant,
    /// Whether VFIO can use it.
    pub viability: Viability,
    /// The latest look without opening.
    pub peek: Peek,
    /// Who holds it, as far as seen.
    pub holders: Vec<Holder>,
    /// How far that is.
    pub coverage: Option<ScanCoverage>,
}

impl NodeSnapshot {
    /// A device by the id that the kubelet knows it by.
    pub fn device(&self, id: &str) -> Option<&DeviceState> {
        self.of(id.parse().ok()?)
    }

    /// A device.
    pub fn of(&self, id: DeviceId) -> Option<&DeviceState> {
        let place = self.devices.binary_search_by_key(&id, |view| view.device.id).ok()?;
        self.devices.get(place)
    }
}

impl DeviceState {
    /// One of which only the record is known, as of one that is not bound.
    pub fn unbound(device: Device, offer: Offer) -> Self {
        let Offer { resource, terms } = offer;
        let hardware = HardwareHealth::default();
        Self { device, resource, terms, unbinding: false, stale_enable: false, hardware, group: None }
    }

    /// The node by which its group, or on a kernel without such nodes the device itself, is opened.
    pub fn node(&self) -> String {
        match (&self.group, self.device.cdev) {
            (Some(group), Some(number)) if !group.has_node => format!("/dev/vfio/devices/vfio{number}"),
            (Some(group), _) => format!("/dev/vfio/{}", group.id),
            (None, _) => "/dev/vfio".to_owned(),
        }
    }

    /// UnknownReason it may have no group.
    pub fn without_group(&self) -> &'static str {
        match self.device.kind {
            // Theirs are made by VFIO itself (`vfio_noiommu_group_alloc` of VFIO_EMULATED_IOMMU).
            Kind::Mdev => "no IOMMU group: a kernel without CONFIG_VFIO_GROUP has none for mediated devices",
            Kind::Pci | Kind::VendorVf => "no IOMMU group: is the IOMMU off?",
        }
    }

    /// Whether its group is held.
    pub fn is_held(&self) -> bool {
        self.group.as_ref().is_some_and(|group| group.occupancy.is_held())
    }
}

/// What a device's health is decided by.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct HardwareHealth {
    /// It has fallen off the bus.
    pub lost: bool,
    /// Fatal PCIe errors of late.
    pub fatal: u64,
}
