//! Shows what a watch knows: the devices, and the state of each group.

use super::Watch;
use crate::device::Device;
use crate::error::Error;
use crate::id::GroupId;
use crate::occupancy::Occupancy;
use crate::peek::Peek;
use crate::snapshot::GroupSnapshot;

/// These calls read no file and open nothing. They return the state of the latest pass, which
/// [`Watch::next`] and the waits make.
impl Watch {
    /// Returns the records of the bound devices, ordered by id.
    pub fn devices(&self) -> impl Iterator<Item = &Device> {
        self.monitor().devices().iter().map(|tracked| &tracked.device)
    }

    /// Returns the numbers of the groups of the bound devices, in ascending order.
    pub fn groups(&self) -> impl Iterator<Item = GroupId> {
        self.monitor().groups().iter().map(|group| group.id)
    }

    /// Returns whether a group is held. None if no bound device is in the group. Allocates nothing.
    #[must_use]
    pub fn occupancy(&self, group: GroupId) -> Option<Occupancy> {
        self.monitor().group(group).map(|group| group.state.occupancy)
    }

    /// Returns everything about a group. None if no bound device is in the group. Allocates.
    ///
    /// `holders` lists the processes that were found so far; [`Watch::coverage`] says how much was
    /// searched.
    #[must_use]
    pub fn group(&self, id: GroupId) -> Option<GroupSnapshot> {
        let group = self.monitor().group(id)?;
        Some(GroupSnapshot {
            id,
            occupancy: group.state.occupancy,
            evidence: group.state.evidence,
            peek: group.peek.unwrap_or(Peek::Unavailable),
            members: group.members.clone(),
            viability: group.viability,
            holders: self.holders(id).to_vec(),
        })
    }

    /// Returns what could not be read: devices, and members of groups.
    #[must_use]
    pub fn errors(&self) -> &[Error] {
        self.monitor().errors()
    }
}
