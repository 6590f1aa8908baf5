//! Describes pods as the API server sends them to the kubelet, and what the kubelet allocates to their containers.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A pod's name and requests.
#[derive(Clone, Debug, Serialize)]
pub struct PodSpec {
    /// The pod's uid.
    pub uid: String,
    /// The pod's name.
    pub name: String,
    /// The pod's namespace.
    pub namespace: String,
    /// Init containers.
    pub init: Vec<Container>,
    /// Containers.
    pub containers: Vec<Container>,
}

/// One container of a pod.
#[derive(Clone, Debug, Serialize)]
pub struct Container {
    /// The container's name.
    pub name: String,
    /// The requested numbers of devices, by resource.
    pub requests: BTreeMap<String, usize>,
}

/// What the kubelet has allocated to a container.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct ContainerAllocation {
    /// The container's environment variables from the plugin.
    pub envs: BTreeMap<String, String>,
}

impl ContainerAllocation {
    /// Returns the addresses in the variables `PCI_RESOURCE_*`, as KubeVirt reads them.
    pub fn addresses(&self) -> Vec<String> {
        let values = self.envs.iter().filter(|(name, _)| name.starts_with("PCI_RESOURCE_"));
        values.flat_map(|(_, value)| value.split(',')).map(str::to_owned).collect()
    }
}

/// The containers of a pod and the devices that they request.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PodShape {
    /// One container with one device.
    One,
    /// One container with two devices.
    Two,
    /// Two containers with one device each.
    TwoContainers,
    /// An init container with one device, which the kubelet reuses for the main container.
    InitThenMain,
}

impl PodShape {
    /// Returns the number of requested devices.
    pub fn count(self) -> usize {
        match self {
            Self::One | Self::InitThenMain => 1,
            Self::Two | Self::TwoContainers => 2,
        }
    }
}

impl PodSpec {
    /// Describes pod number `number`, `vm-NUMBER`.
    pub fn new(number: u32, shape: PodShape, resource: &str) -> Self {
        let container = |name: &str, count: usize| Container {
            name: name.to_owned(),
            requests: BTreeMap::from([(resource.to_owned(), count)]),
        };
        let (init, containers) = match shape {
            PodShape::One => (vec![], vec![container("compute", 1)]),
            PodShape::Two => (vec![], vec![container("compute", 2)]),
            PodShape::TwoContainers => (vec![], vec![container("compute", 1), container("second", 1)]),
            PodShape::InitThenMain => (vec![container("init", 1)], vec![container("compute", 1)]),
        };
        let uid = format!("4b5a1c7e-5b0a-4a57-9d3a-{number:012x}");
        Self { uid, name: format!("vm-{number}"), namespace: "default".to_owned(), init, containers }
    }

    /// Describes the plugin's own pod, which requests nothing.
    pub fn of_plugin() -> Self {
        let container = Container { name: "plugin".to_owned(), requests: BTreeMap::new() };
        Self {
            uid: "4b5a1c7e-5b0a-4a57-9d3a-ffffffffffff".to_owned(),
            name: "vfio-device-plugin".to_owned(),
            namespace: "kube-system".to_owned(),
            init: vec![],
            containers: vec![container],
        }
    }

    /// Returns what the scheduler counts: the largest init container or the sum of the others, whichever is larger
    /// (`PodRequests`).
    pub fn count(&self) -> usize {
        let of = |containers: &[Container]| -> Vec<usize> {
            containers.iter().map(|container| container.requests.values().sum()).collect()
        };
        let init = of(&self.init).into_iter().max().unwrap_or(0);
        init.max(of(&self.containers).into_iter().sum())
    }
}
