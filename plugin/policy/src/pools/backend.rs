//! Decides by which device nodes a container receives its devices, of the nodes that the kernel has.

use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use vfio_probe::GroupId;

/// Which device nodes a container receives.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Backend {
    /// `/dev/vfio/vfio` and `/dev/vfio/<group>`.
    Legacy,
    /// `/dev/iommu`, and `/dev/vfio/devices/vfioN` of each function of the group.
    Iommufd,
    /// All of these that exist, for QEMU, which uses the ones that it knows. Kata must not receive both kinds.
    Both,
    /// Legacy if the kernel has group nodes, else iommufd.
    #[default]
    Auto,
}

impl Backend {
    /// All backends, in the order of the documentation.
    pub const ALL: [Self; 4] = [Self::Legacy, Self::Iommufd, Self::Both, Self::Auto];

    /// Returns its word in pools files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Legacy => "legacy",
            Self::Iommufd => "iommufd",
            Self::Both => "both",
            Self::Auto => "auto",
        }
    }
}

/// The device nodes that the kernel has for one group.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct GroupNodes {
    /// The group.
    pub id: GroupId,
    /// The name of the group's own node in /dev/vfio; none on kernels without CONFIG_VFIO_GROUP.
    pub group: Option<String>,
    /// Whether `/dev/iommu` exists.
    pub iommu: bool,
    /// The N of `vfioN` for each function of the group that is bound to a VFIO driver; none for a function without a node.
    pub cdevs: Vec<Option<u32>>,
}

/// The device nodes for one container.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct NodePaths {
    /// The paths, each once.
    pub paths: Vec<String>,
    /// Whether the nodes of the pool's backend do not exist, so that the paths are of another backend.
    pub falls_back: bool,
}

impl GroupNodes {
    fn has_iommufd(&self) -> bool {
        self.iommu && !self.cdevs.is_empty() && self.cdevs.iter().all(Option::is_some)
    }

    fn legacy(&self) -> [String; 2] {
        let node = self.group.clone().unwrap_or_else(|| self.id.to_string());
        ["/dev/vfio/vfio".to_owned(), format!("/dev/vfio/{node}")]
    }

    fn iommufd(&self) -> impl Iterator<Item = String> {
        let cdevs = self.cdevs.iter().flatten().map(|number| format!("/dev/vfio/devices/vfio{number}"));
        std::iter::once("/dev/iommu".to_owned()).chain(cdevs)
    }
}

/// Returns the nodes for all groups of one container. All groups use the same backend, because a VM cannot mix the two.
///
/// If the host lacks nodes of the backend, those of the other backend are returned: a runtime does not even create a container
/// with a node that does not exist. If the host has neither, the legacy paths are returned.
pub fn node_paths(backend: Backend, groups: &[GroupNodes]) -> NodePaths {
    let has_legacy = groups.iter().all(|nodes| nodes.group.is_some());
    let has_iommufd = groups.iter().all(GroupNodes::has_iommufd);
    let (legacy, iommufd, falls_back) = match backend {
        Backend::Legacy => (has_legacy || !has_iommufd, !has_legacy && has_iommufd, !has_legacy),
        Backend::Iommufd => (!has_iommufd, has_iommufd, !has_iommufd),
        Backend::Both => (has_legacy || !has_iommufd, has_iommufd, !has_legacy || !has_iommufd),
        Backend::Auto => {
            (has_legacy || !has_iommufd, !has_legacy && has_iommufd, !has_legacy && !has_iommufd)
        }
    };
    let kinds = groups.iter().flat_map(|nodes| {
        nodes.legacy().into_iter().filter(|_| legacy).chain(nodes.iommufd().filter(|_| iommufd))
    });
    let mut known = BTreeSet::new();
    let paths = kinds.filter(|path| known.insert(path.clone())).collect();
    NodePaths { paths, falls_back }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(group: bool, cdevs: &[Option<u32>]) -> GroupNodes {
        let group = group.then(|| "51".to_owned());
        GroupNodes { id: GroupId(51), group, iommu: !cdevs.is_empty(), cdevs: cdevs.to_vec() }
    }

    #[test]
    fn only_existing_nodes_are_returned() {
        let old = host(true, &[]);
        let new = host(true, &[Some(3), Some(4)]);
        let half = host(true, &[Some(3), None]);
        let cdev_only = host(false, &[Some(3), Some(4)]);
        let nothing = host(false, &[]);
        let noiommu = GroupNodes { group: Some("noiommu-51".into()), ..old.clone() };
        let (legacy, iommufd) =
            ("/dev/vfio/vfio /dev/vfio/51", "/dev/iommu /dev/vfio/devices/vfio3 /dev/vfio/devices/vfio4");
        let both = format!("{legacy} {iommufd}");
        for (backend, host, expected, falls_back) in [
            (Backend::Legacy, &old, legacy, false),
            (Backend::Legacy, &new, legacy, false),
            (Backend::Legacy, &noiommu, "/dev/vfio/vfio /dev/vfio/noiommu-51", false),
            (Backend::Legacy, &cdev_only, iommufd, true),
            (Backend::Iommufd, &old, legacy, true),
            (Backend::Iommufd, &new, iommufd, false),
            (Backend::Iommufd, &half, legacy, true),
            (Backend::Iommufd, &cdev_only, iommufd, false),
            (Backend::Both, &old, legacy, true),
            (Backend::Both, &new, &both, false),
            (Backend::Both, &half, legacy, true),
            (Backend::Both, &cdev_only, iommufd, true),
            (Backend::Auto, &old, legacy, false),
            (Backend::Auto, &new, legacy, false),
            (Backend::Auto, &cdev_only, iommufd, false),
            (Backend::Auto, &nothing, legacy, true),
        ] {
            let paths = node_paths(backend, std::slice::from_ref(host));
            assert_eq!(
                (paths.paths.join(" ").as_str(), paths.falls_back),
                (expected, falls_back),
                "{backend:?} {host:?}"
            );
        }
    }

    #[test]
    fn all_groups_of_a_container_use_one_backend() {
        let new = host(true, &[Some(3)]);
        let old = GroupNodes { id: GroupId(52), group: Some("52".into()), iommu: true, cdevs: vec![None] };
        let paths = node_paths(Backend::Iommufd, &[new, old]);
        assert_eq!(paths.paths, ["/dev/vfio/vfio", "/dev/vfio/51", "/dev/vfio/52"]);
        assert!(paths.falls_back);
    }
}
