//! What a machine is given for its devices: by the pool's backend, of the nodes that the kernel has at this moment.

use super::Guard;
use crate::allocate::{Plan, Wish};
use crate::pools::backend::{self, Backend, Nodes};
use crate::snapshot::DeviceView;
use vfio_probe::{Buffer, DeviceId, GroupId, Root, egm};

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
        let mut paths = given.paths;
        paths.extend(extended_memory(&self.monitoring.root, &wish.views));
        paths
    }
}

/// Memory of Grace systems of which the container has all GPUs, as NVIDIA's plugin gives it. Read each time, since the nodes
/// come after the devices (nvgrace-egm is a module of its own), but only where one of the devices is bound to the driver that has
/// it: no other host pays for it.
fn extended_memory(root: &Root, views: &[&DeviceView]) -> Vec<String> {
    let mut paths = Vec::new();
    if !views.iter().any(|view| egm::may_have(&view.device)) {
        return paths;
    }
    let given: Vec<DeviceId> = views.iter().map(|view| view.device.id).collect();
    let told = root.egm_nodes(&given, &mut Buffer::new(), |node| match node {
        Ok(name) => paths.push(format!("/dev/{name}")),
        Err(error) => tracing::warn!(%error, "extended memory is left out"),
    });
    if let Err(error) = told {
        tracing::warn!(%error, "no extended memory is given");
    }
    paths
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
