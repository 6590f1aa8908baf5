//! Makes the CDI specs that the node's devices need.

use crate::node::device_nodes;
use vfio_plugin_policy::cdi::spec::Spec;
use vfio_plugin_policy::device::NodeSnapshot;
use vfio_plugin_policy::pools::backend;
use vfio_plugin_policy::pools::terms::Cdi;
use vfio_probe::Root;

/// Returns the specs for a snapshot's devices, with the device nodes that the kernel has now.
///
/// A spec has each bound device of its resource, free or held, if the device's pool uses CDI. A device that a pod is assigned keeps its
/// entry that way, and a restarted container finds it.
pub(crate) fn needed_specs(root: &Root, snapshot: &NodeSnapshot) -> Vec<Spec> {
    let mut specs: Vec<Spec> = Vec::new();
    for state in snapshot.devices.iter().filter(|state| state.terms.cdi != Cdi::None && !state.unbinding) {
        let Some(group) = state.device.group else { continue };
        let backend = state.terms.backend;
        let nodes = device_nodes::read(root, snapshot.container_node_missing, backend, group);
        let paths = backend::node_paths(backend, &[nodes]).paths;
        let place = specs.iter().position(|spec| spec.resource == state.resource);
        if let Some(spec) = place.and_then(|place| specs.get_mut(place)) {
            spec.add(state.device.id, paths);
        } else {
            let mut spec = Spec::of(&state.resource);
            spec.add(state.device.id, paths);
            specs.push(spec);
        }
    }
    specs.retain(|spec| !spec.is_empty());
    specs
}
