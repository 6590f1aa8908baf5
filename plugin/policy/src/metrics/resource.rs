//! The values of a resource: sums over its devices.

use crate::metrics::Pass;
use crate::metrics::device::{DeviceValues, State};
use std::collections::BTreeMap;
use vfio_probe::DeviceId;

/// The values of one resource, in devices.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct ResourceValues {
    /// Listed devices.
    pub capacity: u64,
    /// Listed devices that were reported as Healthy.
    pub allocatable: u64,
    /// Devices that the scheduler counts as requested.
    pub assigned: u64,
    /// Devices that are not assigned and that no process holds.
    pub free: u64,
    /// Devices that are held by a process of no pod they are assigned to.
    pub foreign_held: u64,
    /// Devices that are not assigned, and of which nothing shows whether a new VM could open them.
    pub unknown: u64,
    /// Devices that a new VM could open now.
    pub openable: u64,
}

impl ResourceValues {
    /// Returns how many devices the scheduler can still give to pods: allocatable - assigned. Below 0 if assigned devices are
    /// Unhealthy.
    pub fn schedulable(&self) -> i64 {
        let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
        signed(self.allocatable) - signed(self.assigned)
    }

    fn add(&mut self, device: &DeviceValues<'_>) {
        self.capacity += 1;
        self.allocatable += u64::from(device.report.unhealthy.is_none());
        self.assigned += u64::from(device.is_requested);
        self.free += u64::from(!device.is_requested && device.state == State::Free);
        self.foreign_held += u64::from(device.foreign_held == Some(true));
        self.unknown += u64::from(device.unknown);
        self.openable += u64::from(device.openable);
    }
}

/// Returns the values of each resource with listed devices.
pub(super) fn sums<'a>(pass: &'a Pass, devices: &[DeviceValues<'a>]) -> BTreeMap<&'a str, ResourceValues> {
    let mut resources: BTreeMap<&str, ResourceValues> = BTreeMap::new();
    for device in devices {
        resources.entry(&device.device.resource).or_default().add(device);
    }
    // The scheduler counts devices as requested that are listed under another resource or not at all.
    let listed: BTreeMap<DeviceId, &str> =
        devices.iter().map(|values| (values.device.device.id, &*values.device.resource)).collect();
    for (id, resource) in pass.assignments.devices() {
        if let Some(values) = resources.get_mut(resource)
            && listed.get(&id) != Some(&resource)
        {
            values.assigned += 1;
        }
    }
    resources
}
