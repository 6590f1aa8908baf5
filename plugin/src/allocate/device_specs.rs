//! What a machine is given for its devices: by the pool's backend, of the nodes that the kernel has at this moment.

use crate::allocate::Allocator;
use crate::allocate::response::ContainerDevices;
use crate::node::device_nodes::look;
use vfio_plugin_policy::allocation::{Plan, PlannedContainer};
use vfio_plugin_policy::cdi::request::{CdiRequest, request};
use vfio_plugin_policy::device::DeviceState;
use vfio_plugin_policy::pools::backend;
use vfio_plugin_policy::pools::backend::Nodes;
use vfio_plugin_policy::pools::terms::Terms;
use vfio_probe::{Buffer, DeviceId, Root, egm};

impl Allocator {
    /// What each container is given.
    pub(super) fn means(&self, plan: &Plan<'_>) -> Vec<ContainerDevices> {
        plan.containers.iter().map(|container| self.means_of(container)).collect()
    }

    fn means_of(&self, container: &PlannedContainer<'_>) -> ContainerDevices {
        let Terms { backend, cdi, .. } = container.terms();
        // As it is now: an open may have taken its time.
        let snapshot = self.snapshot();
        let look = |group| look(&self.monitor.root, snapshot.container_node_missing, backend, group);
        let groups: Vec<Nodes> = container.groups().into_iter().map(|(group, _)| look(group)).collect();
        let given = backend::nodes(backend, &groups);
        if given.falls_back {
            tracing::warn!(
                resource = %self.resource, ?backend, nodes = ?given.paths, devices = ?container.real(),
                "this host does not have the nodes of the pool's backend; others are given"
            );
        }
        let devices: Vec<DeviceId> = container.views.iter().map(|view| view.device.id).collect();
        let on_disk = &snapshot.cdi;
        let request = request(cdi, on_disk, &devices, &given.paths);
        let request = request.filter(|request| {
            request.names.is_empty() || self.monitor.cdi_files.are_there(on_disk, &devices)
        });
        let cdi = request.unwrap_or_else(|| {
            tracing::warn!(
                resource = %self.resource, nodes = ?given.paths, devices = ?container.real(),
                "no CDI spec that gives these devices by these nodes is on disk; the nodes are given without it"
            );
            self.monitor.refresh_cdi_specs();
            CdiRequest::default()
        });
        let mut nodes = given.paths;
        nodes.extend(extended_memory(&self.monitor.root, &container.views, &devices));
        ContainerDevices { nodes, cdi }
    }
}

/// Memory of Grace systems of which the container has all GPUs, as NVIDIA's plugin gives it; no device's own, and so in no CDI
/// spec. Read each time, since the nodes come after the devices (nvgrace-egm is a module of its own), but only where one of the
/// devices is bound to the driver that has it: no other host pays for it.
fn extended_memory(root: &Root, views: &[&DeviceState], given: &[DeviceId]) -> Vec<String> {
    let mut paths = Vec::new();
    if !views.iter().any(|view| egm::may_have(&view.device)) {
        return paths;
    }
    let told = root.egm_nodes(given, &mut Buffer::new(), |node| match node {
        Ok(name) => paths.push(format!("/dev/{name}")),
        Err(error) => tracing::warn!(%error, "extended memory is left out"),
    });
    if let Err(error) = told {
        tracing::warn!(%error, "no extended memory is given");
    }
    paths
}
