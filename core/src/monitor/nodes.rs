//! Finds which device nodes exist in /dev/vfio.

use super::bound::Tracked;
use super::groups::Group;
use super::pass::{Pass, Scratch};
use crate::error::is_shortage;
use crate::id::GroupId;
use crate::occupancy::GroupNode;
use crate::root::KeptDirectory;
use crate::scan::class_number;
use rustix::io::Errno;

/// What the latest listing of /dev/vfio has shown.
pub(super) struct VisibleNodes {
    /// /dev/vfio can be listed.
    pub(super) visible: bool,
    /// The kernel has device nodes for groups. True until a missing node shows otherwise.
    pub(super) for_groups: bool,
    /// /dev/vfio can be listed and does not contain /dev/vfio/vfio.
    pub(super) container_missing: bool,
    /// /dev/vfio.
    directory: KeptDirectory,
}

impl VisibleNodes {
    pub(super) fn new() -> Self {
        Self {
            visible: false,
            for_groups: true,
            container_missing: false,
            directory: KeptDirectory::default(),
        }
    }

    /// Sets the node of each group. One listing is enough for all groups. A second one follows only
    /// if a node is missing because the kernel has no device nodes for groups.
    pub(super) fn update(&mut self, groups: &mut [Group], devices: &[Tracked], pass: &mut Pass<'_>) {
        let Scratch { buffer, group_nodes, .. } = &mut *pass.scratch;
        group_nodes.clear();
        let mut container = false;
        let listed = self.directory.list(pass.root, format_args!("dev/vfio"), buffer, |name, _| {
            container |= name == b"vfio";
            group_nodes.extend(GroupId::parse(name.strip_prefix(b"noiommu-").unwrap_or(name)));
        });
        if listed.is_err_and(is_shortage) {
            // This process has no descriptor left, which says nothing about the nodes.
            return;
        }
        group_nodes.sort_unstable();
        self.visible = listed.is_ok();
        self.container_missing = listed.is_ok() && !container;
        for group in &mut *groups {
            group.node = match listed {
                Ok(()) if group_nodes.binary_search(&group.id).is_ok() => GroupNode::Present,
                Ok(()) => GroupNode::Missing,
                Err(_) => GroupNode::Hidden,
            };
        }
        let missing = groups.iter().any(|group| group.node == GroupNode::Missing);
        self.for_groups = !missing || pass.root.has_group_nodes();
        if !self.for_groups {
            find_device_nodes(groups, devices, pass);
        }
    }
}

/// Sets the node of each group by the device nodes of its bound devices.
fn find_device_nodes(groups: &mut [Group], devices: &[Tracked], pass: &mut Pass<'_>) {
    let Scratch { buffer, device_nodes, .. } = &mut *pass.scratch;
    device_nodes.clear();
    let listed = pass.root.list(format_args!("dev/vfio/devices"), buffer, |name| {
        device_nodes.extend(class_number(name));
    });
    device_nodes.sort_unstable();
    if listed.is_err_and(is_shortage) {
        return;
    }
    let has_node = |tracked: &Tracked| {
        tracked.device.cdev.is_some_and(|number| device_nodes.binary_search(&number).is_ok())
    };
    for group in groups {
        let mut members = devices.iter().filter(|tracked| tracked.device.group == Some(group.id));
        group.node = match listed {
            // The kernel removes the node of a device first when it unbinds the device
            // (`vfio_unregister_group_dev`).
            Ok(()) if members.all(|tracked| tracked.unbinding || has_node(tracked)) => GroupNode::DevicesOnly,
            // The kernel creates the directory with the first node in it.
            Ok(()) | Err(Errno::NOENT) => GroupNode::Missing,
            Err(_) => GroupNode::Hidden,
        };
    }
}
