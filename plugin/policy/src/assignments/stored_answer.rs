//! The kubelet's stored answers of Allocate, and [`stale`]: whether their device nodes are still those of the devices.
//!
//! The kubelet keeps Allocate's answer in its checkpoint (`AllocResp`) and uses it again whenever it creates a container of the
//! pod (`deviceRunContainerOptions`), also after a reboot. The kernel numbers groups and VFIO devices in the order in which they
//! appear, so after a reboot or a bind the number in the answer may be another device's.
//!
//! `/dev/vfio/vfio` and `/dev/iommu` are every container's, so they are never stale. A device that could not be read shows nothing.

pub mod stale;

use crate::cdi::names;
#[cfg(doc)]
use crate::device::NodeSnapshot;
use serde::{Deserialize, Serialize};
use std::collections::BTreeSet;
use std::fmt;
use vfio_probe::DeviceId;

/// Returns whether a host path in an answer is a VFIO device node of one device or group, or shared by all of them. Other paths
/// are of other plugins, or of another kind.
pub fn is_vfio_node(path: &str) -> bool {
    path.starts_with("/dev/vfio/") || path == "/dev/iommu" || path.starts_with("/dev/egm")
}

/// Returns whether an annotation in an answer can contain CDI names (`AnnotationPrefix` of
/// tags.cncf.io/container-device-interface). Its value is a list of names, separated by commas.
pub fn is_cdi_annotation(key: &str) -> bool {
    key.starts_with("cdi.k8s.io/")
}

/// What an answer names, if it is of one device or group. As text it is the path of the device node, or the CDI name.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum AnswerNode {
    /// `/dev/vfio/N`.
    Group(u32),
    /// `/dev/vfio/noiommu-N`.
    NoIommuGroup(u32),
    /// `/dev/vfio/devices/vfioN`.
    Cdev(u32),
    /// `/dev/egmN`: extended memory of a Grace system's GPUs.
    Memory(u32),
    /// A fully qualified CDI name.
    Cdi(String),
}

impl AnswerNode {
    /// Parses the path of a device node. Returns none for a node that all devices share, and for any other path.
    pub fn of_path(path: &str) -> Option<Self> {
        let number = |text: &str| -> Option<u32> {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse().ok()).flatten()
        };
        if let Some(memory) = path.strip_prefix("/dev/egm") {
            return number(memory).map(Self::Memory);
        }
        let name = path.strip_prefix("/dev/vfio/")?;
        if let Some(cdev) = name.strip_prefix("devices/vfio") {
            number(cdev).map(Self::Cdev)
        } else if let Some(group) = name.strip_prefix("noiommu-") {
            number(group).map(Self::NoIommuGroup)
        } else {
            number(name).map(Self::Group)
        }
    }

    fn group(&self) -> Option<u32> {
        match self {
            Self::Group(group) | Self::NoIommuGroup(group) => Some(*group),
            Self::Cdev(_) | Self::Memory(_) | Self::Cdi(_) => None,
        }
    }

    fn cdev(&self) -> Option<u32> {
        if let Self::Cdev(number) = self { Some(*number) } else { None }
    }

    /// Returns the device that a CDI name of the resource stands for. None for names of other kinds, which are of other plugins.
    fn cdi_device(&self, resource: &str) -> Option<DeviceId> {
        let Self::Cdi(name) = self else { return None };
        let (kind, device) = name.split_once('=')?;
        if kind == names::kind(resource) { device.parse().ok() } else { None }
    }
}

impl fmt::Display for AnswerNode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Group(group) => write!(f, "/dev/vfio/{group}"),
            Self::NoIommuGroup(group) => write!(f, "/dev/vfio/noiommu-{group}"),
            Self::Cdev(number) => write!(f, "/dev/vfio/devices/vfio{number}"),
            Self::Memory(number) => write!(f, "/dev/egm{number}"),
            Self::Cdi(name) => f.write_str(name),
        }
    }
}

impl From<AnswerNode> for String {
    fn from(node: AnswerNode) -> Self {
        node.to_string()
    }
}

impl TryFrom<String> for AnswerNode {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        match Self::of_path(&text) {
            Some(node) => Ok(node),
            None if text.contains('=') => Ok(Self::Cdi(text)),
            None => Err(format!("{text:?} is no VFIO device node and no CDI name")),
        }
    }
}

/// The nodes and names in the answers that the kubelet stores for one assignment. Several containers of a pod may have one each.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[serde(transparent)]
pub struct StoredAnswer(BTreeSet<AnswerNode>);

impl StoredAnswer {
    /// Adds the device nodes and the CDI names of one container's answer.
    pub fn add(&mut self, nodes: &BTreeSet<String>, cdi_names: &BTreeSet<String>) {
        self.0.extend(nodes.iter().filter_map(|path| AnswerNode::of_path(path)));
        self.0.extend(cdi_names.iter().cloned().map(AnswerNode::Cdi));
    }

    /// Returns whether it names nothing that could become stale.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Returns whether it can be compared only with [`NodeSnapshot::special`].
    pub fn names_special_nodes(&self) -> bool {
        self.0.iter().any(|node| matches!(node, AnswerNode::NoIommuGroup(_) | AnswerNode::Memory(_)))
    }
}

#[cfg(test)]
mod tests;
