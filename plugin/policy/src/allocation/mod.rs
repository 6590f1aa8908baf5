//! Whether a request of the kubelet can be granted.

mod error;
pub mod preferred;
pub mod substitute;

pub use error::AllocateError;

use crate::assignments::index::Assignments;
use crate::assignments::observation::CheckpointEntry;
use crate::assignments::record::Assignment;
use crate::device::{DeviceState, NodeSnapshot};
use crate::pools::terms::Terms;
use std::collections::BTreeSet;
use vfio_probe::{GroupId, Occupancy, Viability};

/// A request that can be granted if its groups can be opened.
#[derive(Debug)]
pub struct Plan<'a> {
    /// What each container of the request gets, in their order.
    pub containers: Vec<PlannedContainer<'a>>,
}

/// The devices of one container.
#[derive(Debug)]
pub struct PlannedContainer<'a> {
    /// The ids that the kubelet's checkpoint will name.
    pub ids: BTreeSet<String>,
    /// The devices, in the order of the request; after a substitution others than `ids`.
    pub views: Vec<&'a DeviceState>,
}

/// Checks a request against what is known, before any group is opened. `containers` are the device ids of each container.
///
/// # Errors
/// An invalid request for ids that are not this resource's or come twice; else why a device cannot be used. Each error names the
/// device.
pub fn plan<'a, 'r>(
    resource: &str,
    containers: impl IntoIterator<Item = &'r [String]>,
    snapshot: &'a NodeSnapshot,
    assignments: &Assignments,
) -> Result<Plan<'a>, AllocateError> {
    let mut seen = BTreeSet::new();
    let mut planned = Vec::new();
    for requested in containers {
        let mut views = Vec::new();
        for id in requested {
            let unknown = || AllocateError::UnknownDevice { id: id.clone(), resource: resource.to_owned() };
            let view = snapshot.device(id).filter(|view| &*view.resource == resource).ok_or_else(unknown)?;
            if !seen.insert(view.device.id) {
                return Err(AllocateError::RequestedTwice { id: id.clone() });
            }
            views.push(view);
        }
        let ids: BTreeSet<String> = views.iter().map(|view| view.device.id.to_string()).collect();
        planned.push(PlannedContainer { ids, views });
    }
    for view in planned.iter().flat_map(|container| &container.views) {
        usable(view)?;
        // A group goes to one pod only.
        let others = snapshot.devices.iter().filter(|other| !seen.contains(&other.device.id));
        if let Some((peer, assignment)) = assignments.blocker(view, others) {
            return Err(AllocateError::GroupAssigned {
                device: view.device.id,
                group: view.device.group.unwrap_or(GroupId(u32::MAX)),
                peer,
                pod: assignment.pod.to_string(),
            });
        }
    }
    Ok(Plan { containers: planned })
}

/// Checks that a device can be used as far as is known without opening it.
fn usable(view: &DeviceState) -> Result<(), AllocateError> {
    let device = view.device.id;
    let Some(group) = &view.group else {
        return Err(AllocateError::NoGroup { device, reason: view.without_group() });
    };
    if view.hardware.lost {
        return Err(AllocateError::Lost { device });
    }
    if view.unbinding || view.device.driver.is_none() {
        return Err(AllocateError::Unbinding { device });
    }
    if let Viability::NotViable { member, driver } = group.viability
        && !group.occupancy.is_held()
    {
        let offender = format!("{member} is bound to {driver}");
        return Err(AllocateError::NotViable { device, group: group.id, offender });
    }
    Ok(())
}

/// Returns whether the kubelet lost the checkpoint entry of the pod that the device is assigned to.
///
/// If the checkpoint still names the device, the kubelet knows that the pod has ended, or it would not ask for the device: the
/// file is then behind the kubelet's in-memory state (`UpdateAllocatedDevices`).
pub fn lost_by_the_kubelet(
    resource: &str,
    view: &DeviceState,
    assignments: &Assignments,
    checkpoint: Option<&[CheckpointEntry]>,
) -> bool {
    let id = view.device.id.to_string();
    let names = |entry: &CheckpointEntry| entry.resource == resource && entry.ids.contains(&id);
    assignments.counts_as_requested(view)
        && assignments.assignment(view).is_some_and(Assignment::may_be_lost)
        && checkpoint.is_some_and(|entries| !entries.iter().any(names))
}

/// What a probe means for an Allocate.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ProbeVerdict {
    /// The device can be allocated.
    Grant,
    /// A process holds the group.
    Held,
    /// The group does not exist.
    Absent,
}

/// Decides what a probe's result means.
///
/// `looks_held` says whether a peek finds the group held; it is called only where the probe does not tell.
/// `absent_is_sure` says that /dev/vfio can be listed and that sysfs has no such group.
pub fn judge(probed: Occupancy, looks_held: impl Fn() -> bool, absent_is_sure: bool) -> ProbeVerdict {
    match probed {
        Occupancy::Free => ProbeVerdict::Grant,
        Occupancy::Held => ProbeVerdict::Held,
        Occupancy::Absent if absent_is_sure => ProbeVerdict::Absent,
        // A denied or late probe says nothing; a count above its baseline does, and so does an EBUSY from before.
        Occupancy::Absent | Occupancy::Unknown(_) if looks_held() => ProbeVerdict::Held,
        Occupancy::Absent | Occupancy::Unknown(_) => ProbeVerdict::Grant,
    }
}

impl<'a> PlannedContainer<'a> {
    /// Returns the groups to open, each once, with a device to name it by.
    pub fn groups(&self) -> Vec<(GroupId, &'a DeviceState)> {
        let mut groups: Vec<(GroupId, &DeviceState)> = Vec::new();
        for &view in &self.views {
            if let Some(group) = view.device.group
                && !groups.iter().any(|(known, _)| *known == group)
            {
                groups.push((group, view));
            }
        }
        groups
    }

    /// Returns the terms of the first device: all devices are of one resource, and so mostly of one pool.
    pub fn terms(&self) -> Terms {
        self.views.first().map(|view| view.terms).unwrap_or_default()
    }

    /// Returns the ids of the devices that the container really gets.
    pub fn real(&self) -> BTreeSet<String> {
        self.views.iter().map(|view| view.device.id.to_string()).collect()
    }
}

#[cfg(test)]
mod tests;
