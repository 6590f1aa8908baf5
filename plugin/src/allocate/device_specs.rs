//! Determines the device nodes and CDI names of a container: by the backend of its pool, and by the nodes that exist now.

use crate::allocate::allocator::Allocator;
use crate::allocate::response::ContainerDevices;
use crate::node::device_nodes;
use vfio_plugin_policy::allocation::{Plan, PlannedContainer};
use vfio_plugin_policy::cdi::request::{CdiRequest, request};
use vfio_plugin_policy::device::{DeviceState, NodeSnapshot};
use vfio_plugin_policy::pools::backend;
use vfio_plugin_policy::pools::backend::GroupNodes;
use vfio_plugin_policy::pools::terms::{Cdi, Terms};
use vfio_probe::{Buffer, DeviceId, Root, egm};

impl Allocator {
    /// Returns what each container of the plan receives.
    pub(super) fn container_devices(&self, plan: &Plan<'_>) -> Vec<ContainerDevices> {
        // The latest snapshot: the probes may have taken long.
        let snapshot = self.snapshot();
        plan.containers.iter().map(|container| self.devices_of(container, &snapshot)).collect()
    }

    fn devices_of(&self, container: &PlannedContainer<'_>, snapshot: &NodeSnapshot) -> ContainerDevices {
        let Terms { backend, cdi, .. } = container.terms();
        let read =
            |group| device_nodes::read(&self.monitor.root, snapshot.container_node_missing, backend, group);
        let groups: Vec<GroupNodes> = container.groups().into_iter().map(|(group, _)| read(group)).collect();
        let chosen = backend::node_paths(backend, &groups);
        if chosen.falls_back {
            tracing::warn!(
                resource = %self.resource, ?backend, nodes = ?chosen.paths, devices = ?container.device_ids(),
                "this host lacks the device nodes of the pool's backend; allocated others"
            );
        }
        let devices: Vec<DeviceId> = container.devices.iter().map(|device| device.device.id).collect();
        let names_only = cdi == Cdi::Names;
        let cdi = self.cdi_request(cdi, snapshot, &devices, &chosen.paths).unwrap_or_else(|| {
            tracing::warn!(
                resource = %self.resource, nodes = ?chosen.paths, devices = ?container.device_ids(),
                "found no CDI spec with these device nodes; allocated the nodes without CDI"
            );
            self.monitor.refresh_cdi_specs();
            CdiRequest::default()
        });
        // Without a spec, the nodes are what there is: the container must start.
        let mut nodes = if names_only && !cdi.names.is_empty() { Vec::new() } else { chosen.paths };
        nodes.extend(extended_memory(&self.monitor.root, &container.devices, &devices));
        ContainerDevices { nodes, cdi }
    }

    /// Returns the CDI names of the devices. None if no spec on disk has exactly these device nodes.
    fn cdi_request(
        &self,
        cdi: Cdi,
        snapshot: &NodeSnapshot,
        devices: &[DeviceId],
        nodes: &[String],
    ) -> Option<CdiRequest> {
        let on_disk = &snapshot.cdi;
        request(cdi, on_disk, devices, nodes).filter(|request| {
            request.names.is_empty() || self.monitor.cdi_files.has_unchanged(on_disk, devices)
        })
    }
}

/// Returns the nodes of extended GPU memory (EGM) of Grace systems of which the container has all GPUs, as NVIDIA's plugin does.
///
/// The memory belongs to no single device, so no CDI spec has it. It is read in each call, because its nodes appear after the
/// devices (nvgrace-egm is a kernel module of its own), but only if a device is bound to a driver with EGM.
pub(crate) fn extended_memory(root: &Root, devices: &[&DeviceState], ids: &[DeviceId]) -> Vec<String> {
    let mut paths = Vec::new();
    if !devices.iter().any(|device| egm::may_have(&device.device)) {
        return paths;
    }
    let read = root.egm_nodes(ids, &mut Buffer::new(), |node| match node {
        Ok(name) => paths.push(format!("/dev/{name}")),
        Err(error) => tracing::warn!(%error, "extended memory is left out"),
    });
    if let Err(error) = read {
        tracing::warn!(%error, "cannot list extended memory; allocated none");
    }
    paths
}
