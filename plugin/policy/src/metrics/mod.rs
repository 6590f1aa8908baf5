//! The values of the gauges, from the facts of one finished pass.
//!
//! [`Pass`] is what the publisher hands over after a pass. [`Pass::values`] makes the values of one scrape from it: [`device`] has
//! the rules for one device, [`resource`] the sums. [`history`] remembers which devices stayed held after their pods had ended.
//! docs/metrics.md explains every value.

pub mod device;
pub mod history;
pub mod resource;

use crate::assignments::index::Assignments;
use crate::device::{DeviceState, NodeSnapshot};
#[cfg(feature = "dra")]
use crate::dra::taints::Withheld;
use crate::health::Decision;
use crate::health::reason::Reason;
use crate::health::tracker::HealthTracker;
use device::DeviceValues;
use resource::ResourceValues;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use vfio_probe::{DeviceId, GroupId};

/// The facts of one finished pass of the publisher. Immutable, and cheap to replace: an Allocate changes the assignments alone.
#[derive(Clone, Debug)]
pub struct Pass {
    /// The node that the pass decided on.
    pub snapshot: Arc<NodeSnapshot>,
    /// The assignments that it decided on.
    pub assignments: Arc<Assignments>,
    /// What was reported to the kubelet.
    pub reported: Arc<Reported>,
    /// The groups that Allocate refused ([`HealthTracker::contested`]): the kubelet counts their devices as free.
    pub contested: BTreeSet<GroupId>,
    /// The devices that are still held though their pods have ended ([`history::HeldAfterPod`]).
    pub held_after_pod: Arc<BTreeSet<DeviceId>>,
}

/// What was reported to the kubelet about each device.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Reported {
    /// The reports of all listed devices.
    devices: BTreeMap<DeviceId, Report>,
    /// The listed devices that are assigned and no longer bound, as last seen.
    unbound: Vec<DeviceState>,
}

/// The report of one device. The texts are the codes of reasons.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Report {
    /// Why the device is Unhealthy. None if it is Healthy.
    pub unhealthy: Option<&'static str>,
    /// What is wrong with a device that is Healthy because it is assigned.
    pub warning: Option<&'static str>,
    /// Whether it is Unhealthy because another pod may open it by a stale answer.
    keeps_new_pods_out: bool,
    /// The name of the taint for that reason.
    #[cfg(feature = "dra")]
    taint: Option<&'static str>,
}

/// The values of one scrape.
#[derive(Debug)]
pub struct Values<'a> {
    /// The listed devices: the bound ones in the order of ids, then the others.
    pub devices: Vec<DeviceValues<'a>>,
    /// The resources with listed devices.
    pub resources: BTreeMap<&'a str, ResourceValues>,
}

impl Reported {
    /// Returns what the tracker decided last on each listed device.
    pub fn new(tracker: &HealthTracker, snapshot: &NodeSnapshot) -> Self {
        let devices = tracker.listed(snapshot).map(|(device, decision)| (device.device.id, decision.into()));
        Self { devices: devices.collect(), unbound: tracker.unbound(snapshot).cloned().collect() }
    }
}

impl From<&Decision> for Report {
    fn from(decision: &Decision) -> Self {
        let reason = decision.health.reason();
        Self {
            unhealthy: reason.map(Reason::code),
            warning: decision.warning.as_deref().map(Reason::code),
            #[cfg(feature = "dra")]
            taint: reason.map(Withheld::name_of),
            keeps_new_pods_out: matches!(reason, Some(Reason::StaleAnswerOfAnotherPod { .. })),
        }
    }
}

impl Pass {
    /// Returns the values of all series that describe devices and resources.
    pub fn values(&self) -> Values<'_> {
        let devices: Vec<DeviceValues<'_>> =
            self.listed().map(|(device, report)| DeviceValues::new(self, device, report)).collect();
        let resources = resource::sums(self, &devices);
        Values { devices, resources }
    }

    /// Returns the listed devices with their reports.
    fn listed(&self) -> impl Iterator<Item = (&DeviceState, Report)> {
        let unbound =
            self.reported.unbound.iter().filter(|device| self.snapshot.get(device.device.id).is_none());
        let devices = self.snapshot.devices.iter().chain(unbound);
        devices.filter_map(|device| Some((device, *self.reported.devices.get(&device.device.id)?)))
    }

    /// Returns whether the scheduler counts the device as requested of its resource.
    fn is_requested(&self, device: &DeviceState) -> bool {
        let is_contested = device.device.group.is_some_and(|group| self.contested.contains(&group));
        self.assignments.counts_as_requested(device) && !is_contested
    }
}

#[cfg(test)]
mod tests;
