//! Decides whether the kubelet's Allocate request can be granted.
//!
//! [`plan`] checks a request against what is known. The plugin then probes the plan's groups, and [`judge`] says what each
//! result means.

mod error;
pub mod preferred;
pub mod request;
pub mod substitute;

pub use error::{AllocateError, NoSubstitute};

use crate::assignments::index::Assignments;
use crate::assignments::observation::CheckpointEntry;
use crate::assignments::record::Assignment;
use crate::device::{DeviceState, NodeSnapshot};
use crate::kubelet_id::KubeletDeviceId;
use crate::pools::terms::{OfferBy, Terms};
use request::Request;
use std::collections::BTreeSet;
use vfio_probe::{GroupId, Occupancy, Viability};

/// A request that can be granted if its groups are free.
#[derive(Debug)]
pub struct Plan<'a> {
    /// The devices of each container, in the order of the request.
    pub containers: Vec<PlannedContainer<'a>>,
}

/// The devices of one container.
#[derive(Debug)]
pub struct PlannedContainer<'a> {
    /// The ids that the kubelet's checkpoint will name.
    pub ids: BTreeSet<String>,
    /// The devices, in the order of the request. After a substitution they differ from `ids`.
    pub devices: Vec<&'a DeviceState>,
}

/// Checks a request against what is known, before any group is probed. Reads only the requested devices and their groups.
///
/// # Errors
/// An invalid request if an id is not a device of the resource or comes twice. Otherwise why a device cannot be allocated. Each
/// error names the device.
pub fn plan<'a>(
    resource: &str,
    request: &Request,
    snapshot: &'a NodeSnapshot,
    assignments: &Assignments,
) -> Result<Plan<'a>, AllocateError> {
    let mut requested = BTreeSet::new();
    let mut planned = Vec::with_capacity(request.containers.len());
    for ids in &request.containers {
        let mut devices = Vec::with_capacity(ids.len());
        for id in ids {
            // No group is a device of a resource: older plugins listed groups, this one does not.
            let device = id.device().and_then(|id| snapshot.get(id));
            let Some(device) = device.filter(|device| &*device.resource == resource) else {
                return Err(AllocateError::UnknownDevice {
                    id: id.to_string(),
                    resource: resource.to_owned(),
                });
            };
            if !requested.insert(device.device.id) {
                return Err(AllocateError::RequestedTwice { id: id.to_string() });
            }
            devices.push(device);
        }
        let ids: BTreeSet<String> = ids.iter().map(KubeletDeviceId::to_string).collect();
        planned.push(PlannedContainer { ids, devices });
    }
    for device in planned.iter().flat_map(|container| &container.devices) {
        if let Some(claim) = assignments.claim(device) {
            return Err(AllocateError::Claimed { device: device.device.id, claim: claim.to_string() });
        }
        if device.terms.offer != OfferBy::DevicePlugin {
            return Err(AllocateError::OfferedByDra { device: device.device.id });
        }
        check_usable(device)?;
        // All devices of a group go to one pod.
        let others = snapshot.in_group_of(device).filter(|other| !requested.contains(&other.device.id));
        if let Some((peer, assignment)) = assignments.blocker(device, others) {
            return Err(AllocateError::GroupAssigned {
                device: device.device.id,
                group: device.device.group.unwrap_or(GroupId(u32::MAX)),
                peer,
                pod: assignments.describe(assignment),
            });
        }
    }
    Ok(Plan { containers: planned })
}

/// Checks that a device can be used, as far as is known without a probe.
///
/// # Errors
/// The device has no group, is lost, not bound, or in a group that is not viable.
pub fn check_usable(device: &DeviceState) -> Result<(), AllocateError> {
    let id = device.device.id;
    let Some(group) = &device.group else {
        return Err(AllocateError::NoGroup { device: id, reason: device.no_group_text() });
    };
    if device.hardware.lost {
        return Err(AllocateError::Lost { device: id });
    }
    if device.unbinding || device.device.driver.is_none() {
        return Err(AllocateError::Unbinding { device: id });
    }
    if let Viability::NotViable { member, driver } = group.viability
        && !group.occupancy.is_held()
    {
        let offender = format!("{member} is bound to {driver}");
        return Err(AllocateError::NotViable { device: id, group: group.id, offender });
    }
    Ok(())
}

/// Returns whether the kubelet lost the checkpoint entry of the pod that the device is assigned to.
///
/// If the checkpoint still names the device, the kubelet knows that the pod has ended, or it would not ask for the device: the
/// file is then behind the kubelet's in-memory state (`UpdateAllocatedDevices`).
pub fn lost_by_the_kubelet(
    resource: &str,
    device: &DeviceState,
    assignments: &Assignments,
    checkpoint: Option<&[CheckpointEntry]>,
) -> bool {
    let id = device.device.id.to_string();
    let names = |entry: &CheckpointEntry| entry.resource == resource && entry.ids.contains(&id);
    assignments.counts_as_requested(device)
        && assignments.assignment(device).is_some_and(Assignment::may_be_lost)
        && checkpoint.is_some_and(|entries| !entries.iter().any(names))
}

/// What a probe's result means for an Allocate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProbeVerdict {
    /// The group can be allocated.
    Grant,
    /// A process holds the group.
    Held,
    /// The group does not exist.
    Absent,
}

/// Decides what a probe's result means.
///
/// `looks_held` returns whether a peek finds the group held. It is called only where the probe does not decide.
/// `absent_is_sure` is whether /dev/vfio can be listed and sysfs has no such group.
pub fn judge(probed: Occupancy, looks_held: impl Fn() -> bool, absent_is_sure: bool) -> ProbeVerdict {
    match probed {
        Occupancy::Free => ProbeVerdict::Grant,
        Occupancy::Held => ProbeVerdict::Held,
        Occupancy::Absent if absent_is_sure => ProbeVerdict::Absent,
        // A denied or late probe shows nothing. An `enable` count above its baseline does, and so does an earlier EBUSY.
        Occupancy::Absent | Occupancy::Unknown(_) if looks_held() => ProbeVerdict::Held,
        Occupancy::Absent | Occupancy::Unknown(_) => ProbeVerdict::Grant,
    }
}

impl<'a> Plan<'a> {
    /// Returns the devices of all containers.
    pub fn devices(&self) -> impl Iterator<Item = &'a DeviceState> {
        self.containers.iter().flat_map(|container| container.devices.iter().copied())
    }
}

impl<'a> PlannedContainer<'a> {
    /// Returns the groups to probe, each once, with the first device of each, in the order of these devices.
    pub fn groups(&self) -> Vec<(GroupId, &'a DeviceState)> {
        let with_group = self.devices.iter().enumerate();
        let mut groups: Vec<(GroupId, usize, &DeviceState)> =
            with_group.filter_map(|(place, &device)| Some((device.device.group?, place, device))).collect();
        groups.sort_unstable_by_key(|(group, place, _)| (*group, *place));
        groups.dedup_by_key(|(group, ..)| *group);
        groups.sort_unstable_by_key(|(_, place, _)| *place);
        groups.into_iter().map(|(group, _, device)| (group, device)).collect()
    }

    /// Returns the terms of the first device. All devices are of one resource, and so usually of one pool.
    pub fn terms(&self) -> Terms {
        self.devices.first().map(|device| device.terms).unwrap_or_default()
    }

    /// Returns the ids of the devices that the container gets. After a substitution they differ from those in the kubelet's
    /// checkpoint.
    pub fn device_ids(&self) -> BTreeSet<String> {
        self.devices.iter().map(|device| device.device.id.to_string()).collect()
    }
}

#[cfg(test)]
mod tests;
