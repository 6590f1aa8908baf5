//! Pure: by which device nodes a machine is given its devices, of those that exist.

use serde::{Deserialize, Serialize};
use vfio_probe::GroupId;

/// Kinds of nodes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Backend {
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
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Nodes {
    /// Which group.
    pub id: GroupId,
    /// The name of its own node in /dev/vfio (kernels with CONFIG_VFIO_GROUP).
    pub group: Option<String>,
    /// `/dev/iommu`.
    pub iommu: bool,
    /// N of each function of the group that is bound to a VFIO driver and has a node; `None` for one that has none.
    pub cdevs: Vec<Option<u32>>,
}

/// What a container is given.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Assignment {
    /// Paths of device nodes, each once.
    pub paths: Vec<String>,
    /// Whether it is not what the pool's backend says, because that is not there.
    pub falls_back: bool,
}

impl Nodes {
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

/// The nodes for all groups of one container, of one kind for all of them: a machine cannot mix the two. What this host
/// does not have falls back to what it has, for a container with a node that does not exist is not even created.
pub fn nodes(backend: Backend, groups: &[Nodes]) -> Assignment {
    let has_legacy = groups.iter().all(|nodes| nodes.group.is_some());
    let has_iommufd = groups.iter().all(Nodes::has_iommufd);
    let (legacy, iommufd, falls_back) = match backend {
        Backend::Legacy => (has_legacy || !has_iommufd, !has_legacy && has_iommufd, !has_legacy),
        Backend::Iommufd => (!has_iommufd, has_iommufd, !has_iommufd),
        Backend::Both => (has_legacy || !has_iommufd, has_iommufd, !has_legacy || !has_iommufd),
        Backend::Auto => {
            (has_legacy || !has_iommufd, !has_legacy && has_iommufd, !has_legacy && !has_iommufd)
        }
    };
    let mut paths: Vec<String> = Vec::new();
    for nodes in groups {
        let kinds = nodes.legacy().into_iter().filter(|_| legacy).chain(nodes.iommufd().filter(|_| iommufd));
        for path in kinds {
            if !paths.contains(&path) {
                paths.push(path);
            }
        }
    }
    Assignment { paths, falls_back }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn host(group: bool, cdevs: &[Option<u32>]) -> Nodes {
        let group = group.then(|| "51".to_owned());
        Nodes { id: GroupId(51), group, iommu: !cdevs.is_empty(), cdevs: cdevs.to_vec() }
    }

    #[test]
    fn only_nodes_that_exist_are_given() {
        let old = host(true, &[]);
        let new = host(true, &[Some(3), Some(4)]);
        let half = host(true, &[Some(3), None]);
        let cdev_only = host(false, &[Some(3), Some(4)]);
        let nothing = host(false, &[]);
        let noiommu = Nodes { group: Some("noiommu-51".into()), ..old.clone() };
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
            let given = nodes(backend, std::slice::from_ref(host));
            assert_eq!(
                (given.paths.join(" ").as_str(), given.falls_back),
                (expected, falls_back),
                "{backend:?} {host:?}"
            );
        }
    }

    #[test]
    fn groups_of_one_container_are_given_by_nodes_of_one_kind() {
        let new = host(true, &[Some(3)]);
        let old = Nodes { id: GroupId(52), group: Some("52".into()), iommu: true, cdevs: vec![None] };
        let given = nodes(Backend::Iommufd, &[new, old]);
        assert_eq!(given.paths, ["/dev/vfio/vfio", "/dev/vfio/51", "/dev/vfio/52"]);
        assert!(given.falls_back);
    }
}
