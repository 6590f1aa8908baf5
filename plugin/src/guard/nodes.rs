//! What a machine is given for its devices: by the pool's backend, of the nodes that the kernel has at this moment.

use super::Guard;
use crate::allocate::{Means, Plan, Wish};
use crate::cdi;
use crate::device_nodes::look;
use crate::pools::Terms;
use crate::pools::backend::{self, Nodes};
use crate::snapshot::DeviceView;
use vfio_probe::{Buffer, DeviceId, Root, egm};

impl Guard {
    /// What each container is given.
    pub(super) fn means(&self, plan: &Plan<'_>) -> Vec<Means> {
        plan.containers.iter().map(|wish| self.means_of(wish)).collect()
    }

    fn means_of(&self, wish: &Wish<'_>) -> Means {
        let Terms { backend, cdi, .. } = wish.terms();
        // As it is now: an open may have taken its time.
        let snapshot = self.snapshot();
        let look = |group| look(&self.monitoring.root, snapshot.lacks_container, backend, group);
        let groups: Vec<Nodes> = wish.groups().into_iter().map(|(group, _)| look(group)).collect();
        let given = backend::nodes(backend, &groups);
        if given.falls_back {
            tracing::warn!(
                resource = %self.resource, ?backend, nodes = ?given.paths, devices = ?wish.real(),
                "this host does not have the nodes of the pool's backend; others are given"
            );
        }
        let devices: Vec<DeviceId> = wish.views.iter().map(|view| view.device.id).collect();
        let on_disk = &snapshot.cdi;
        let request = cdi::request(cdi, on_disk, &devices, &given.paths);
        let request = request.filter(|request| request.names.is_empty() || cdi::is_there(on_disk, &devices));
        let cdi = request.unwrap_or_else(|| {
            tracing::warn!(
                resource = %self.resource, nodes = ?given.paths, devices = ?wish.real(),
                "no CDI spec that gives these devices by these nodes is on disk; the nodes are given without it"
            );
            self.monitoring.look_at_nodes();
            cdi::Request::default()
        });
        let mut nodes = given.paths;
        nodes.extend(extended_memory(&self.monitoring.root, &wish.views, &devices));
        Means { nodes, cdi }
    }
}

/// Memory of Grace systems of which the container has all GPUs, as NVIDIA's plugin gives it; no device's own, and so in no CDI
/// spec. Read each time, since the nodes come after the devices (nvgrace-egm is a module of its own), but only where one of the
/// devices is bound to the driver that has it: no other host pays for it.
fn extended_memory(root: &Root, views: &[&DeviceView], given: &[DeviceId]) -> Vec<String> {
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
