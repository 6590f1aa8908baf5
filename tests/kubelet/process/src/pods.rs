//! Pods, as the API server sends them to the kubelet, and what it gives them.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// What a pod asks for.
#[derive(Clone, Debug, Serialize)]
pub struct PodSpec {
    /// Its uid.
    pub uid: String,
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Init containers.
    pub init: Vec<Container>,
    /// Containers.
    pub containers: Vec<Container>,
}

/// One container of a pod.
#[derive(Clone, Debug, Serialize)]
pub struct Container {
    /// Its name.
    pub name: String,
    /// Numbers of devices by resource.
    pub requests: BTreeMap<String, usize>,
}

/// What a container was given.
#[derive(Clone, Debug, Default, Deserialize)]
pub struct Given {
    /// Its environment.
    pub envs: BTreeMap<String, String>,
}

impl Given {
    /// The addresses that it was told, as KubeVirt reads them.
    pub fn addresses(&self) -> Vec<String> {
        let values = self.envs.iter().filter(|(name, _)| name.starts_with("PCI_RESOURCE_"));
        values.flat_map(|(_, value)| value.split(',')).map(str::to_owned).collect()
    }
}

/// Kinds of pods.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PodShape {
    /// One container with one device.
    One,
    /// One container with two.
    Two,
    /// Two containers with one each.
    TwoContainers,
    /// An init container whose device the container is given after it.
    HandsOn,
}

impl PodShape {
    /// How many devices it asks for.
    pub fn count(self) -> usize {
        match self {
            Self::One | Self::HandsOn => 1,
            Self::Two | Self::TwoContainers => 2,
        }
    }
}

impl PodSpec {
    /// The `number`th.
    pub fn new(number: u32, shape: PodShape, resource: &str) -> Self {
        let container = |name: &str, count: usize| Container {
            name: name.to_owned(),
            requests: BTreeMap::from([(resource.to_owned(), count)]),
        };
        let (init, containers) = match shape {
            PodShape::One => (vec![], vec![container("compute", 1)]),
            PodShape::Two => (vec![], vec![container("compute", 2)]),
            PodShape::TwoContainers => (vec![], vec![container("compute", 1), container("second", 1)]),
            PodShape::HandsOn => (vec![container("init", 1)], vec![container("compute", 1)]),
        };
        let uid = format!("4b5a1c7e-5b0a-4a57-9d3a-{number:012x}");
        Self { uid, name: format!("vm-{number}"), namespace: "default".to_owned(), init, containers }
    }

    /// The plugin's own pod, which asks for nothing.
    pub fn of_the_plugin() -> Self {
        let container = Container { name: "plugin".to_owned(), requests: BTreeMap::new() };
        Self {
            uid: "4b5a1c7e-5b0a-4a57-9d3a-ffffffffffff".to_owned(),
            name: "vfio-device-plugin".to_owned(),
            namespace: "kube-system".to_owned(),
            init: vec![],
            containers: vec![container],
        }
    }

    /// What the scheduler counts: the larger of the largest init container and the sum of the others (`PodRequests`).
    pub fn count(&self) -> usize {
        let of = |containers: &[Container]| -> Vec<usize> {
            containers.iter().map(|container| container.requests.values().sum()).collect()
        };
        let init = of(&self.init).into_iter().max().unwrap_or(0);
        init.max(of(&self.containers).into_iter().sum())
    }
}
