//! Which device nodes the kernel has for a group at this moment, as far as a backend needs to know.

use vfio_plugin_policy::pools::backend::{Backend, Nodes};
use vfio_probe::{Buffer, GroupId, Root};

/// Reads no more of sysfs than the backend needs: one look where the kernel has group nodes and they are what is wanted. Without a
/// container's node groups count as if they had none.
pub(crate) fn look(root: &Root, container_node_missing: bool, backend: Backend, id: GroupId) -> Nodes {
    let group = if container_node_missing { None } else { root.group_node(id) };
    if group.is_some() && matches!(backend, Backend::Legacy | Backend::Auto) {
        return Nodes { id, group, iommu: false, cdevs: Vec::new() };
    }
    let cdevs = root.cdevs(id, &mut Buffer::new()).unwrap_or_default();
    let cdevs = cdevs.into_iter().map(|(_, number)| number).collect();
    Nodes { id, group, iommu: root.has_iommufd(), cdevs }
}
