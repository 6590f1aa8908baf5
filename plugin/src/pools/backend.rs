//! Pure: by which device nodes a machine is given its devices, of those that exist.

use serde::Deserialize;
use vfio_probe::GroupId;

/// Kinds of nodes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub(crate) enum Backend {
    /// `/dev/vfio/vfio` and `/dev/vfio/<group>`.
    Legacy,
    /// `/dev/iommu` and `/dev/vfio/devices/vfioN` of each function of the group.
    Iommufd,
    /// All of them that exist; QEMU takes what it knows, Kata must not be given both.
    Both,
    /// Legacy where the kernel has group nodes, else iommufd.
    #[default]
    Auto,
}

/// What the kernel has for one group.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Nodes {
    /// The group's own node (kernels with CONFIG_VFIO_GROUP).
    pub(crate) group: bool,
    /// `/dev/iommu`.
    pub(crate) iommu: bool,
    /// N of each function of the group that is bound to a VFIO driver and has a node; `None` for one that has none.
    pub(crate) cdevs: Vec<Option<u32>>,
}

/// What a machine is given for one group, and what it should have been given and could not.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Given {
    /// Paths of device nodes, each once.
    pub(crate) paths: Vec<String>,
    /// Why the pool's backend could not be had.
    pub(crate) warning: Option<&'static str>,
}

impl Nodes {
    fn has_iommufd(&self) -> bool {
        self.iommu && !self.cdevs.is_empty() && self.cdevs.iter().all(Option::is_some)
    }
}

/// The nodes for one group. A backend that this host does not have falls back to the one that it has, with a warning: a
/// machine that gets a node which does not exist is not even created.
pub(crate) fn nodes(backend: Backend, group: GroupId, nodes: &Nodes) -> Given {
    let legacy = || vec!["/dev/vfio/vfio".to_owned(), format!("/dev/vfio/{group}")];
    let iommufd = || {
        let cdevs = nodes.cdevs.iter().flatten().map(|number| format!("/dev/vfio/devices/vfio{number}"));
        std::iter::once("/dev/iommu".to_owned()).chain(cdevs).collect::<Vec<_>>()
    };
    let (paths, warning) = match backend {
        Backend::Legacy => (legacy(), None),
        Backend::Iommufd if nodes.has_iommufd() => (iommufd(), None),
        Backend::Iommufd => {
            (legacy(), Some("this host has no /dev/iommu, or no node in /dev/vfio/devices for each function"))
        }
        Backend::Both if nodes.has_iommufd() && nodes.group => {
            (legacy().into_iter().chain(iommufd()).collect(), None)
        }
        Backend::Both | Backend::Auto if nodes.has_iommufd() && !nodes.group => (iommufd(), None),
        Backend::Both | Backend::Auto => (legacy(), None),
    };
    Given { paths, warning }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_nodes_that_exist_are_given() {
        let old = Nodes { group: true, iommu: false, cdevs: vec![None] };
        let new = Nodes { group: true, iommu: true, cdevs: vec![Some(3), Some(4)] };
        let cdev_only = Nodes { group: false, ..new.clone() };
        let half = Nodes { cdevs: vec![Some(3), None], ..new.clone() };
        let (legacy, iommufd) =
            ("/dev/vfio/vfio /dev/vfio/51", "/dev/iommu /dev/vfio/devices/vfio3 /dev/vfio/devices/vfio4");
        let both = format!("{legacy} {iommufd}");
        for (backend, host, expected, warns) in [
            (Backend::Legacy, &old, legacy, false),
            (Backend::Legacy, &new, legacy, false),
            (Backend::Iommufd, &old, legacy, true),
            (Backend::Iommufd, &new, iommufd, false),
            (Backend::Iommufd, &half, legacy, true),
            (Backend::Iommufd, &cdev_only, iommufd, false),
            (Backend::Both, &old, legacy, false),
            (Backend::Both, &new, &both, false),
            (Backend::Both, &half, legacy, false),
            (Backend::Both, &cdev_only, iommufd, false),
            (Backend::Auto, &old, legacy, false),
            (Backend::Auto, &new, legacy, false),
            (Backend::Auto, &cdev_only, iommufd, false),
        ] {
            let given = nodes(backend, GroupId(51), host);
            assert_eq!(
                (given.paths.join(" ").as_str(), given.warning.is_some()),
                (expected, warns),
                "{backend:?} {host:?}"
            );
        }
    }
}
