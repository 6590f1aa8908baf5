//! Compares the device nodes in stored answers with those that the devices have now.
//!
//! A device that could not be read shows nothing: its answer is not compared.

use super::{AnswerNode, StoredAnswer};
use crate::assignments::record::{Assignment, PodRef};
use crate::device::NodeSnapshot;
use std::collections::BTreeSet;
use vfio_probe::{Device, DeviceId, GroupId};

/// One difference between a stored answer and the node as it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Mismatch {
    /// The assigned device.
    pub device: DeviceId,
    /// What the answer names.
    pub stored: AnswerNode,
    /// The device's node now. None if the device has none, or is not there.
    pub now: Option<AnswerNode>,
    /// The offered devices that `stored` belongs to now: other devices than those of the assignment. Empty if it belongs to none.
    pub owners: Vec<DeviceId>,
}

/// A stale answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StaleAnswer<'a> {
    /// The assignment that the kubelet stores the answer of.
    pub assignment: &'a Assignment,
    /// The difference.
    pub mismatch: Mismatch,
}

impl StaleAnswer<'_> {
    /// Returns the pod that the kubelet gives the answer to.
    pub fn pod(&self) -> &PodRef {
        &self.assignment.pod
    }
}

/// Returns all differences between the stored answers of the assignments and the node. Time grows with the number of assigned
/// devices.
pub fn stale_answers<'a>(
    assignments: impl IntoIterator<Item = &'a Assignment>,
    snapshot: &NodeSnapshot,
) -> Vec<StaleAnswer<'a>> {
    let mut found = Vec::new();
    for assignment in assignments {
        let mismatches = compare(&assignment.answer, &assignment.device_ids, &assignment.resource, snapshot);
        found.extend(mismatches.into_iter().map(|mismatch| StaleAnswer { assignment, mismatch }));
    }
    found
}

/// Returns whether the kubelet is known to store an answer for an assignment in which every node is of its devices.
pub fn has_current_answer(assignment: &Assignment, snapshot: &NodeSnapshot) -> bool {
    let Assignment { answer, device_ids, resource, .. } = assignment;
    !answer.is_empty()
        && !answer.names_special_nodes()
        && compare(answer, device_ids, resource, snapshot).is_empty()
}

/// Compares the stored answer of the devices `ids`, which are of `resource`, with the nodes that they have now.
///
/// Ids that are no addresses, as the group numbers of older plugins, are not compared. Nothing is compared if a device could not be
/// read.
pub fn compare(
    answer: &StoredAnswer,
    ids: &BTreeSet<String>,
    resource: &str,
    snapshot: &NodeSnapshot,
) -> Vec<Mismatch> {
    if answer.is_empty() || is_plainly_current(answer, ids, snapshot) {
        return Vec::new();
    }
    let Some(now) = DevicesNow::new(ids, snapshot) else { return Vec::new() };
    now.compare(answer, resource)
}

/// Returns whether an answer is current by the most usual rules alone: each node is that of a device, and each device has a node.
/// Allocates nothing, because it runs for each assignment in each pass. False means that [`DevicesNow`] decides.
fn is_plainly_current(answer: &StoredAnswer, ids: &BTreeSet<String>, snapshot: &NodeSnapshot) -> bool {
    let mut records: [Option<&Device>; 8] = [None; 8];
    if ids.len() > records.len() {
        return false;
    }
    for (slot, id) in records.iter_mut().zip(ids) {
        *slot = id.parse().ok().and_then(|id| snapshot.get(id)).map(|state| &state.device);
        if slot.is_none() {
            return false;
        }
    }
    let records = || records.iter().copied().flatten();
    let has_group = |group: u32| records().any(|device| device.group == Some(GroupId(group)));
    let (mut by_group, mut by_cdev) = (false, false);
    for node in &answer.0 {
        let is_current = match node {
            AnswerNode::Group(group) if snapshot.special.is_none() => has_group(*group),
            AnswerNode::Cdev(number) => records().any(|device| device.cdev == Some(*number)),
            AnswerNode::Cdi(name) => {
                let device = name.rsplit_once('=').and_then(|(_, device)| device.parse().ok());
                device.is_some_and(|device| records().any(|record| record.id == device))
            }
            AnswerNode::Group(_) | AnswerNode::NoIommuGroup(_) | AnswerNode::Memory(_) => false,
        };
        if !is_current {
            return false;
        }
        by_group |= node.group().is_some();
        by_cdev |= node.cdev().is_some();
    }
    records().all(|device| {
        let names = |node: Option<AnswerNode>| node.is_some_and(|node| answer.0.contains(&node));
        (!by_group || names(device.group.map(|group| AnswerNode::Group(group.0))))
            && (!by_cdev || names(device.cdev.map(AnswerNode::Cdev)))
    })
}

/// The devices of one assignment as they are now.
struct DevicesNow<'a> {
    snapshot: &'a NodeSnapshot,
    /// Each device with its record. None if it does not exist.
    devices: Vec<(DeviceId, Option<&'a Device>)>,
    ids: BTreeSet<DeviceId>,
    groups: BTreeSet<u32>,
    cdevs: BTreeSet<u32>,
}

impl<'a> DevicesNow<'a> {
    /// Returns none without devices, or if one of them could not be read.
    fn new(ids: &BTreeSet<String>, snapshot: &'a NodeSnapshot) -> Option<Self> {
        let mut now = Self {
            snapshot,
            devices: Vec::new(),
            ids: BTreeSet::new(),
            groups: BTreeSet::new(),
            cdevs: BTreeSet::new(),
        };
        for id in ids.iter().filter_map(|id| id.parse::<DeviceId>().ok()) {
            let record = snapshot.record(id);
            if record.is_none() && !snapshot.missing.contains(&id) {
                return None;
            }
            now.ids.insert(id);
            now.devices.push((id, record));
            now.groups.extend(record.and_then(|device| device.group).map(|group| group.0));
            now.cdevs.extend(record.and_then(|device| device.cdev));
        }
        (!now.devices.is_empty()).then_some(now)
    }

    fn compare(&self, answer: &StoredAnswer, resource: &str) -> Vec<Mismatch> {
        let (mut without_group, mut without_cdev) = (self.without_group(answer), self.without_cdev(answer));
        let mut found = Vec::new();
        for stored in answer.0.iter().filter(|stored| !self.is_current(stored, resource)) {
            let owners = self.owners(stored, resource);
            if owners.is_empty() && !self.certainly_differs(stored) {
                continue;
            }
            let moved = if stored.cdev().is_some() { without_cdev.pop() } else { without_group.pop() };
            let device = moved.or_else(|| self.devices.first().map(|(id, _)| *id));
            let Some(device) = device else { continue };
            found.push(Mismatch {
                device,
                stored: stored.clone(),
                now: self.node_of(device, stored),
                owners,
            });
        }
        // Devices whose node the answer lacks beside that, as after the split of a group.
        let of_groups = without_group.into_iter().map(|device| (device, false));
        for (device, by_cdev) in of_groups.chain(without_cdev.into_iter().map(|device| (device, true))) {
            let like = |stored: &&AnswerNode| {
                if by_cdev { stored.cdev().is_some() } else { stored.group().is_some() }
            };
            let foreign = answer.0.iter().filter(like).find(|stored| !self.is_current(stored, resource));
            let Some(stored) = foreign.or_else(|| answer.0.iter().find(like)) else { continue };
            let owners = if foreign.is_some() { self.owners(stored, resource) } else { Vec::new() };
            found.push(Mismatch {
                device,
                stored: stored.clone(),
                now: self.node_of(device, stored),
                owners,
            });
        }
        found
    }

    /// Returns the devices whose group's node the answer lacks, last first. None if it names no groups.
    fn without_group(&self, answer: &StoredAnswer) -> Vec<DeviceId> {
        let stored: BTreeSet<u32> = answer.0.iter().filter_map(AnswerNode::group).collect();
        let lacks = |device: &Device| device.group.is_some_and(|group| !stored.contains(&group.0));
        self.last_first(|device| !stored.is_empty() && lacks(device))
    }

    /// Returns the devices of whose group the answer has no cdev, last first. None if it names no cdevs.
    fn without_cdev(&self, answer: &StoredAnswer) -> Vec<DeviceId> {
        let stored: BTreeSet<u32> = answer.0.iter().filter_map(AnswerNode::cdev).collect();
        let is_stored = |device: &Device| device.cdev.is_some_and(|number| stored.contains(&number));
        let groups: BTreeSet<GroupId> = self
            .snapshot
            .records()
            .filter(|device| is_stored(device))
            .filter_map(|device| device.group)
            .collect();
        let has_peer = |device: &Device| device.group.is_some_and(|group| groups.contains(&group));
        self.last_first(|device| {
            !stored.is_empty() && device.cdev.is_some() && !is_stored(device) && !has_peer(device)
        })
    }

    fn last_first(&self, wanted: impl Fn(&Device) -> bool) -> Vec<DeviceId> {
        let devices = self.devices.iter().rev().filter(|(_, record)| record.is_some_and(&wanted));
        devices.map(|(id, _)| *id).collect()
    }

    /// Returns whether what the answer names is still of these devices, or of another function of their groups.
    fn is_current(&self, stored: &AnswerNode, resource: &str) -> bool {
        match stored {
            AnswerNode::Group(group) | AnswerNode::NoIommuGroup(group) => {
                self.groups.contains(group) && self.exists_as(stored, *group)
            }
            AnswerNode::Cdev(number) => {
                let is_peer = |device: &Device| {
                    device.cdev == Some(*number)
                        && device.group.is_some_and(|group| self.groups.contains(&group.0))
                };
                self.cdevs.contains(number) || self.snapshot.records().any(is_peer)
            }
            AnswerNode::Memory(number) => {
                let gpus = self.snapshot.special.as_ref().map(|special| special.memories.get(number));
                gpus.is_none_or(|gpus| gpus.is_some_and(|gpus| gpus.is_subset(&self.ids)))
            }
            AnswerNode::Cdi(_) => stored.cdi_device(resource).is_none_or(|device| self.ids.contains(&device)),
        }
    }

    /// Returns whether a group's node has the form that the answer names: with an IOMMU or without. True if that was not read.
    fn exists_as(&self, stored: &AnswerNode, group: u32) -> bool {
        let special = self.snapshot.special.as_ref();
        let without_iommu = matches!(stored, AnswerNode::NoIommuGroup(_));
        special.is_none_or(|special| special.no_iommu.contains(&GroupId(group)) == without_iommu)
    }

    /// Returns the offered devices that the node belongs to, each with the other offered functions of its group.
    fn owners(&self, stored: &AnswerNode, resource: &str) -> Vec<DeviceId> {
        let offered = || self.snapshot.devices.iter().map(|state| &state.device);
        let by_id = stored.cdi_device(resource);
        let special = self.snapshot.special.as_ref();
        let is_owner = |device: &&Device| match stored {
            AnswerNode::Group(group) | AnswerNode::NoIommuGroup(group) => {
                device.group == Some(GroupId(*group)) && self.exists_as(stored, *group)
            }
            AnswerNode::Cdev(number) => device.cdev == Some(*number),
            AnswerNode::Memory(number) => {
                let gpus = special.and_then(|special| special.memories.get(number));
                gpus.is_some_and(|gpus| gpus.contains(&device.id))
            }
            AnswerNode::Cdi(_) => Some(device.id) == by_id,
        };
        let groups: BTreeSet<GroupId> =
            offered().filter(is_owner).filter_map(|device| device.group).collect();
        let owns =
            |device: &&Device| is_owner(device) || device.group.is_some_and(|group| groups.contains(&group));
        let others = offered().filter(owns).filter(|device| !self.ids.contains(&device.id));
        others.map(|device| device.id).collect()
    }

    /// Returns whether a node that belongs to no offered device is certainly not of these devices. The kernel shows no number of a
    /// device that is not bound, and a CDI name that no spec has is refused by the runtime.
    fn certainly_differs(&self, stored: &AnswerNode) -> bool {
        let mut records = self.devices.iter().map(|(_, record)| *record);
        match stored {
            AnswerNode::Group(_) | AnswerNode::NoIommuGroup(_) | AnswerNode::Memory(_) => {
                records.all(|record| record.is_some())
            }
            AnswerNode::Cdev(_) => records.all(|record| record.is_some_and(|device| device.cdev.is_some())),
            AnswerNode::Cdi(_) => false,
        }
    }

    /// Returns a device's node of the same kind as `stored`.
    fn node_of(&self, device: DeviceId, stored: &AnswerNode) -> Option<AnswerNode> {
        let record = self.snapshot.record(device)?;
        let special = self.snapshot.special.as_ref();
        let by_group = |device: &Device| {
            let group = device.group?;
            let without_iommu = special.is_some_and(|special| special.no_iommu.contains(&group));
            Some(if without_iommu { AnswerNode::NoIommuGroup(group.0) } else { AnswerNode::Group(group.0) })
        };
        match stored {
            AnswerNode::Memory(_) => None,
            AnswerNode::Cdev(_) => record.cdev.map(AnswerNode::Cdev).or_else(|| by_group(record)),
            _ => by_group(record),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::device_state;
    use proptest::prelude::*;
    use std::time::Instant;
    use vfio_probe::{Occupancy, Viability};

    fn node_of(kind: u8, number: u32) -> AnswerNode {
        match kind {
            0 => AnswerNode::Group(number),
            1 => AnswerNode::Cdev(number),
            _ => AnswerNode::Cdi(format!("nvidia.com/GPU=0000:{number:02x}:00.0")),
        }
    }

    proptest! {
        #[test]
        fn plainly_current_answer_has_no_mismatch(
            devices in prop::collection::vec((0_u32..4, prop::option::of(0_u32..4)), 1..4),
            nodes in prop::collection::btree_set((0_u8..3, 0_u32..4), 0..4),
            assigned in prop::collection::btree_set(0_usize..4, 1..3),
        ) {
            let mut snapshot = NodeSnapshot::default();
            for (index, (group, cdev)) in devices.into_iter().enumerate() {
                let address = format!("0000:{index:02x}:00.0");
                let (free, viable) = (Occupancy::Free, Viability::Viable);
                let mut state = device_state(&address, group, free, Instant::now(), viable, false);
                state.device.cdev = cdev;
                snapshot.devices.push(state);
            }
            let answer = StoredAnswer(nodes.into_iter().map(|(kind, number)| node_of(kind, number)).collect());
            let ids: BTreeSet<String> = assigned.iter().map(|bus| format!("0000:{bus:02x}:00.0")).collect();
            if is_plainly_current(&answer, &ids, &snapshot) {
                let now = DevicesNow::new(&ids, &snapshot).unwrap();
                prop_assert_eq!(now.compare(&answer, "nvidia.com/GPU"), []);
            }
        }
    }
}
