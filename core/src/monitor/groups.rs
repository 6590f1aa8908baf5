//! Follows the groups of the bound devices: members, viability, and which are assigned to pods.

use super::Change;
use super::bound::{BoundDevices, Tracked};
use super::pass::{Pass, ReadErrors};
use crate::error::{Error, Result};
use crate::group::{Member, Viability};
use crate::id::{DeviceId, GroupId};
use crate::occupancy::{GroupNode, GroupState};
use crate::peek::Peek;
use std::time::{Duration, Instant};

/// An IOMMU group with at least one tracked device.
#[derive(Debug)]
pub struct Group {
    /// The number of the group.
    pub id: GroupId,
    /// All members, tracked or not.
    pub members: Vec<Member>,
    /// Whether VFIO can use the group.
    pub viability: Viability,
    /// Whether the group is held, with the evidence.
    pub state: GroupState,
    /// The latest peek. None before the first.
    pub peek: Option<Peek>,
    pub(super) node: GroupNode,
    /// A member is bound to no VFIO driver.
    pub(super) has_untracked: bool,
    /// Whether the group is peeked at and probed. See [`Monitor::set_watched`](super::Monitor::set_watched).
    pub(super) watched: bool,
    /// The changes contained the group since it is watched.
    pub(super) reported: bool,
    /// When the outstanding probe was requested. None if no probe is outstanding.
    pub(super) probe_since: Option<Instant>,
}

impl Group {
    fn new(id: GroupId, state: GroupState) -> Self {
        Self {
            id,
            members: Vec::new(),
            viability: Viability::Viable,
            state,
            peek: None,
            node: GroupNode::Hidden,
            has_untracked: false,
            watched: true,
            reported: false,
            probe_since: None,
        }
    }
}

/// The devices that are assigned to pods, and the groups where only the group is known.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Assigned {
    /// Devices, in any order.
    pub devices: Vec<DeviceId>,
    /// Groups, in any order.
    pub groups: Vec<GroupId>,
}

impl Assigned {
    /// Returns whether a group, or one of its tracked devices, is assigned. Both lists
    /// must be sorted.
    pub(super) fn includes(&self, group: GroupId, bound: &BoundDevices) -> bool {
        let is_assigned = |tracked: &Tracked| self.devices.binary_search(&tracked.device.id).is_ok();
        self.groups.binary_search(&group).is_ok()
            || !self.devices.is_empty() && bound.devices_of(group).any(is_assigned)
    }
}

/// Adds the groups of new devices, drops groups without a device, and reads the members of all
/// groups again.
///
/// `at_start` means that new groups existed before the monitor started. `interval` is the shortest
/// time between two probes.
pub(super) fn regroup(
    groups: &mut Vec<Group>,
    devices: &[Tracked],
    at_start: bool,
    interval: Duration,
    pass: &mut Pass<'_>,
) {
    groups.retain(|group| devices.iter().any(|tracked| tracked.device.group == Some(group.id)));
    for id in devices.iter().filter_map(|tracked| tracked.device.group) {
        if let Err(place) = groups.binary_search_by_key(&id, |group| group.id) {
            groups.insert(place, Group::new(id, GroupState::new(pass.now, at_start, interval)));
        }
    }
    for group in groups {
        read_members(group, devices, pass);
    }
}

/// Reads the members of a group. What cannot be read is kept as an error.
fn read_members(group: &mut Group, devices: &[Tracked], pass: &mut Pass<'_>) {
    let mut members = std::mem::take(&mut pass.scratch.members);
    let listed = list_members(group.id, devices, pass, &mut members, ReadErrors::add);
    match listed {
        // This process has no descriptor left, which says nothing about the members.
        Err(error) if error.is_shortage() => {}
        Err(error) => {
            pass.errors.add(error);
            set_members(group, &members, pass);
        }
        Ok(()) => set_members(group, &members, pass),
    }
    pass.scratch.members = members;
}

/// Lists the members of a group again. If anything cannot be read, the group stays as it was until
/// the next refresh. Allocates nothing unless there are more members than before.
pub(super) fn relist(group: &mut Group, devices: &[Tracked], pass: &mut Pass<'_>) {
    let mut members = std::mem::take(&mut pass.scratch.members);
    let mut is_whole = true;
    let listed = list_members(group.id, devices, pass, &mut members, |_, _| is_whole = false);
    if listed.is_ok() && is_whole {
        set_members(group, &members, pass);
    }
    pass.scratch.members = members;
}

/// Lists the members of a group into a buffer. Passes what is wrong with a single member to `failed`.
fn list_members(
    group: GroupId,
    devices: &[Tracked],
    pass: &mut Pass<'_>,
    members: &mut Vec<Member>,
    mut failed: impl FnMut(&mut ReadErrors, Error),
) -> Result<()> {
    // The driver of a tracked device has just been read.
    let known = |name: &[u8]| find(DeviceId::parse(name)?, devices)?.device.driver;
    members.clear();
    let Pass { root, scratch, errors, .. } = pass;
    root.members_with(group, &mut scratch.buffer, known, |member| match member {
        Ok(member) => members.push(member),
        Err(error) => failed(errors, error),
    })
}

/// Takes the members that were listed.
fn set_members(group: &mut Group, members: &[Member], pass: &mut Pass<'_>) {
    if *members == group.members {
        return;
    }
    let change = Change::Changed(group.id);
    if !group.members.is_empty() && !pass.changes.contains(&change) {
        pass.changes.push(change);
    }
    group.viability = Viability::of(members);
    group.has_untracked = members.iter().any(|member| !member.vfio);
    group.members.clear();
    group.members.extend_from_slice(members);
}

fn find(id: DeviceId, devices: &[Tracked]) -> Option<&Tracked> {
    let place = devices.binary_search_by_key(&id, |tracked| tracked.device.id).ok()?;
    devices.get(place)
}
