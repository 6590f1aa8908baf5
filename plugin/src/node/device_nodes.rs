//! Reads which device nodes the kernel has for a group, as far as a backend needs to know.

use vfio_plugin_policy::pools::backend::{Backend, GroupNodes};
use vfio_probe::{Buffer, GroupId, Root};

/// Returns the nodes of a group. Reads no more of sysfs than the backend needs: one file if the kernel has group nodes and the
/// backend prefers them.
///
/// If the container node /dev/vfio/vfio is missing, no group node is returned, because a group node is of no use without it.
pub(crate) fn read(root: &Root, container_node_missing: bool, backend: Backend, id: GroupId) -> GroupNodes {
    let group = if container_node_missing { None } else { root.group_node(id) };
    if group.is_some() && matches!(backend, Backend::Legacy | Backend::Auto) {
        return GroupNodes { id, group, iommu: false, cdevs: Vec::new() };
    }
    let cdevs = root.cdevs(id, &mut Buffer::new()).unwrap_or_default();
    let cdevs = cdevs.into_iter().map(|(_, number)| number).collect();
    GroupNodes { id, group, iommu: root.has_iommufd(), cdevs }
}
