//! The CDI specs that the node's devices need now.

use crate::node::device_nodes::look;
use vfio_plugin_policy::cdi::spec::Spec;
use vfio_plugin_policy::device::NodeSnapshot;
use vfio_plugin_policy::pools::backend;
use vfio_plugin_policy::pools::terms::Cdi;
use vfio_probe::Root;

/// The specs for these devices, with the nodes that the kernel has now: each device that is bound and whose pool uses CDI, held
/// or not, so that an entry stays as long as its pod and a restarted container finds it.
pub(crate) fn wanted(root: &Root, snapshot: &NodeSnapshot) -> Vec<Spec> {
    let (devices, container_node_missing) = (&snapshot.devices, snapshot.container_node_missing);
    let mut specs: Vec<Spec> = Vec::new();
    for view in devices.iter().filter(|view| view.terms.cdi != Cdi::None && !view.unbinding) {
        let Some(group) = view.device.group else { continue };
        let backend = view.terms.backend;
        let nodes = backend::nodes(backend, &[look(root, container_node_missing, backend, group)]).paths;
        if let Some(spec) = specs.iter_mut().find(|spec| spec.resource == view.resource) {
            spec.add(view.device.id, nodes);
        } else {
            let mut spec = Spec::of(&view.resource);
            spec.add(view.device.id, nodes);
            specs.push(spec);
        }
    }
    specs.retain(|spec| !spec.is_empty());
    specs
}
