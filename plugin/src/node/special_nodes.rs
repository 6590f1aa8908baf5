//! Reads device nodes that few hosts have: of groups without an IOMMU, and of extended GPU memory.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use vfio_plugin_policy::device::{NodeSnapshot, SpecialNodes};
use vfio_probe::{Buffer, DeviceId, GroupId, Root, egm};

/// Returns the snapshot with its special nodes if they are `needed`, and as it is if they are not.
pub(crate) fn with_special_nodes<'a>(
    root: &Root,
    snapshot: &'a NodeSnapshot,
    needed: bool,
) -> Cow<'a, NodeSnapshot> {
    if !needed {
        return Cow::Borrowed(snapshot);
    }
    Cow::Owned(NodeSnapshot { special: Some(read(root, snapshot)), ..snapshot.clone() })
}

/// Reads the nodes of all groups and memories of the snapshot's devices. Costs two system calls a group; on Grace systems also some
/// for each GPU and memory.
fn read(root: &Root, snapshot: &NodeSnapshot) -> SpecialNodes {
    let groups: BTreeSet<GroupId> = snapshot.records().filter_map(|device| device.group).collect();
    let has_no_iommu =
        |group: &GroupId| root.group_node(*group).is_some_and(|name| name.starts_with("noiommu-"));
    let states = snapshot.devices.iter().filter(|state| egm::may_have(&state.device));
    let gpus: Vec<DeviceId> = states.map(|state| state.device.id).collect();
    SpecialNodes {
        no_iommu: groups.into_iter().filter(has_no_iommu).collect(),
        memories: memories(root, &gpus),
    }
}

/// Returns the memories whose GPUs are all among `gpus`, each with its GPUs: those without which the memory is not complete.
fn memories(root: &Root, gpus: &[DeviceId]) -> BTreeMap<u32, BTreeSet<DeviceId>> {
    let mut memories: BTreeMap<u32, BTreeSet<DeviceId>> = BTreeMap::new();
    if gpus.is_empty() {
        return memories;
    }
    let all = complete(root, gpus);
    for gpu in gpus {
        let others: Vec<DeviceId> = gpus.iter().copied().filter(|other| other != gpu).collect();
        for memory in all.difference(&complete(root, &others)) {
            memories.entry(*memory).or_default().insert(*gpu);
        }
    }
    memories
}

/// Returns the numbers of the memories whose GPUs are all among `gpus`.
fn complete(root: &Root, gpus: &[DeviceId]) -> BTreeSet<u32> {
    let mut found = BTreeSet::new();
    let read = root.egm_nodes(gpus, &mut Buffer::new(), |node| {
        let number: Option<u32> = node.ok().and_then(|name| name.as_str().strip_prefix("egm")?.parse().ok());
        found.extend(number);
    });
    if let Err(error) = read {
        tracing::debug!(%error, "cannot list extended memory");
    }
    found
}
