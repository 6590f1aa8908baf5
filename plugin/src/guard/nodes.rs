//! What a machine is given for its groups: the pool's backend, and the nodes that the kernel has at this moment.

use super::Guard;
use crate::allocate::Plan;
use crate::pools::backend::{self, Backend, Nodes};
use std::collections::BTreeMap;
use vfio_probe::{Buffer, GroupId, Root};

impl Guard {
    /// The paths of each group's nodes. Reads no more of sysfs than the backend needs: nothing for legacy, one look where
    /// the kernel has group nodes.
    pub(super) fn nodes(&self, plan: &Plan<'_>) -> BTreeMap<GroupId, Vec<String>> {
        let mut paths = BTreeMap::new();
        for wish in &plan.containers {
            for (group, view) in wish.groups() {
                let given =
                    backend::nodes(view.backend, group, &look(&self.monitoring.root, view.backend, group));
                if let Some(warning) = given.warning {
                    tracing::warn!(device = %view.device.id, %group, "gives the legacy nodes: {warning}");
                }
                paths.insert(group, given.paths);
            }
        }
        paths
    }
}

fn look(root: &Root, backend: Backend, group: GroupId) -> Nodes {
    let has_group = backend == Backend::Legacy || root.has_group_node(group);
    if backend == Backend::Legacy || (backend == Backend::Auto && has_group) {
        return Nodes { group: has_group, ..Nodes::default() };
    }
    let cdevs = root.cdevs(group, &mut Buffer::new()).unwrap_or_default();
    Nodes {
        group: has_group,
        iommu: root.has_iommufd(),
        cdevs: cdevs.into_iter().map(|(_, number)| number).collect(),
    }
}
