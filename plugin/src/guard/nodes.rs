//! What a machine is given for its groups: the pool's backend, and the nodes that the kernel has at this moment.

use super::Guard;
use crate::allocate::{Plan, Wish};
use crate::pools::backend::{self, Backend, Nodes};
use vfio_probe::{Buffer, GroupId, Root};

impl Guard {
    /// The paths of each container's nodes. Reads no more of sysfs than the backend needs: one look a group where the kernel
    /// has group nodes and they are what is wanted.
    pub(super) fn nodes(&self, plan: &Plan<'_>) -> Vec<Vec<String>> {
        plan.containers.iter().map(|wish| self.nodes_of(wish)).collect()
    }

    fn nodes_of(&self, wish: &Wish<'_>) -> Vec<String> {
        // Of one resource, and so mostly of one pool.
        let backend = wish.views.first().map(|view| view.terms.backend).unwrap_or_default();
        let groups: Vec<Nodes> =
            wish.groups().into_iter().map(|(group, _)| look(&self.monitoring.root, backend, group)).collect();
        let given = backend::nodes(backend, &groups);
        if given.falls_back {
            tracing::warn!(
                resource = %self.resource, ?backend, nodes = ?given.paths, devices = ?wish.real(),
                "this host does not have the nodes of the pool's backend; others are given"
            );
        }
        given.paths
    }
}

fn look(root: &Root, backend: Backend, id: GroupId) -> Nodes {
    let group = root.group_node(id);
    if group.is_some() && matches!(backend, Backend::Legacy | Backend::Auto) {
        return Nodes { id, group, iommu: false, cdevs: Vec::new() };
    }
    let cdevs = root.cdevs(id, &mut Buffer::new()).unwrap_or_default();
    let cdevs = cdevs.into_iter().map(|(_, number)| number).collect();
    Nodes { id, group, iommu: root.has_iommufd(), cdevs }
}
