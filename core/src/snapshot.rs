//! Reads everything about the bound devices at one moment: devices, groups, holders, and how much
//! of it could be read.

use crate::device::{Detail, Device};
use crate::error::{Error, Result};
use crate::group::{Member, Viability};
use crate::holders::{Holder, ScanCoverage};
use crate::id::{GroupId, unique};
use crate::occupancy::{Evidence, Occupancy, combine_with_holders};
use crate::peek::Peek;
use crate::prober::Prober;
use crate::root::{Buffer, Root};
use std::time::Duration;

/// All bound devices at one moment.
///
/// ```no_run
/// // Needs a host with devices that are bound to VFIO drivers.
/// use vfio_probe::{Detail, Occupancy, Root};
///
/// # fn main() -> vfio_probe::Result<()> {
/// let snapshot = Root::host()?.snapshot(Detail::Full, None)?;
/// let free = snapshot.groups.iter().filter(|group| group.occupancy == Occupancy::Free);
/// println!("{} of {} groups are free", free.count(), snapshot.groups.len());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct Snapshot {
    /// The devices that could be read, ordered by id.
    pub devices: Vec<Device>,
    /// Their groups, ordered by number.
    pub groups: Vec<GroupSnapshot>,
    /// How much the search for holders could see. `processes` is 0 if /proc could not be listed.
    pub coverage: ScanCoverage,
    /// What could not be read: devices, members of groups, /proc.
    pub errors: Vec<Error>,
}

/// An IOMMU group at one moment.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct GroupSnapshot {
    /// The number of the group.
    pub id: GroupId,
    /// Whether the group is held.
    pub occupancy: Occupancy,
    /// What the occupancy rests on.
    pub evidence: Evidence,
    /// The peek.
    pub peek: Peek,
    /// The members that could be read, ordered by name.
    pub members: Vec<Member>,
    /// Whether VFIO can use the group, by these members.
    pub viability: Viability,
    /// The processes that were found, ordered by pid. An empty list proves nothing unless the
    /// snapshot's coverage is complete.
    pub holders: Vec<Holder>,
}

/// Probes for a snapshot: who makes them, and how long one may take.
pub type Probes<'a> = (&'a Prober, Duration);

impl Snapshot {
    /// Returns a group by its number.
    #[must_use]
    pub fn group(&self, id: GroupId) -> Option<&GroupSnapshot> {
        let place = self.groups.binary_search_by_key(&id, |group| group.id).ok()?;
        self.groups.get(place)
    }
}

impl GroupSnapshot {
    /// Returns all members that keep the group from being viable.
    pub fn offenders(&self) -> impl Iterator<Item = &Member> {
        Viability::offenders(&self.members)
    }
}

impl Root {
    /// Reads the bound devices with their groups and holders.
    ///
    /// Without `probes` it opens no device node, and the occupancy rests on the holders in /proc and
    /// on a peek. With `probes` it opens each group after the search for holders, which can disturb
    /// a VM that starts (see [`Root::probe`]); the prober must be of this root. Reads /proc of all
    /// processes. Allocates. Blocks for as long as the probes may take, else never.
    ///
    /// # Errors
    /// The bound devices cannot be listed.
    pub fn snapshot(&self, detail: Detail, probes: Option<Probes<'_>>) -> Result<Snapshot> {
        let mut snapshot = Snapshot::default();
        let Snapshot { devices, errors, .. } = &mut snapshot;
        self.scan(detail, &mut Buffer::new(), |device| match device {
            Ok(device) => devices.push(device),
            Err(error) => errors.push(error),
        })?;
        devices.sort_unstable_by_key(|device| device.id);
        let ids: Vec<GroupId> = devices.iter().filter_map(|device| device.group).collect();
        (snapshot.groups, snapshot.coverage) = self.read_groups(&ids, probes, &mut snapshot.errors);
        Ok(snapshot)
    }

    /// Reads groups as [`Root::snapshot`] does, each once, ordered by number. What cannot be read is
    /// added to `errors`.
    #[doc(hidden)]
    pub fn read_groups(
        &self,
        ids: &[GroupId],
        probes: Option<Probes<'_>>,
        errors: &mut Vec<Error>,
    ) -> (Vec<GroupSnapshot>, ScanCoverage) {
        let ids = &unique(ids)[..];
        let mut found = Vec::new();
        let coverage = match ids {
            [] => ScanCoverage { pid_namespace: self.pid_namespace(), ..ScanCoverage::default() },
            ids => self.holders(ids, &mut |holder| found.push(holder)).unwrap_or_else(|error| {
                errors.push(error);
                ScanCoverage::default()
            }),
        };
        found.sort_unstable_by_key(|holder| (holder.group, holder.pid));
        // Without device nodes for groups a probe proves nothing.
        let probes = probes.filter(|_| self.has_group_nodes());
        let mut buffer = Buffer::new();
        let groups = ids.iter().map(|&id| {
            let first = found.partition_point(|holder| holder.group < id);
            let of_group = found.iter().skip(first).take_while(|holder| holder.group == id);
            let holders = of_group.copied().collect();
            self.read_group(id, holders, probes, &mut buffer, errors)
        });
        (groups.collect(), coverage)
    }

    fn read_group(
        &self,
        id: GroupId,
        mut holders: Vec<Holder>,
        probes: Option<Probes<'_>>,
        buffer: &mut Buffer,
        errors: &mut Vec<Error>,
    ) -> GroupSnapshot {
        let mut members = Vec::new();
        let listed = self.members(id, buffer, |member| match member {
            Ok(member) => members.push(member),
            Err(error) => errors.push(error),
        });
        errors.extend(listed.err());
        members.sort_unstable_by_key(|member| member.name);
        let peek = self.peek(id, buffer).unwrap_or(Peek::Unavailable);
        let probe = probes.map(|(prober, deadline)| prober.probe(id, deadline));
        let (occupancy, evidence) = combine_with_holders(peek, &holders, probe);
        if (occupancy, evidence) == (Occupancy::Free, Evidence::Open) {
            // These have closed the group since the search.
            holders.retain(|holder| !holder.via.is_exclusive());
        }
        let viability = Viability::of(&members);
        GroupSnapshot { id, occupancy, evidence, peek, members, viability, holders }
    }
}
