//! Pods, as the API server has them.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use vfio_sim_node::Vm;

/// A pod that the API server knows.
#[derive(Debug)]
pub(crate) struct Pod {
    pub(crate) spec: PodSpec,
    /// What each container has been told, by address.
    pub(crate) given: BTreeMap<String, Vec<String>>,
    /// Its machine, if it runs.
    pub(crate) vm: Option<Vm>,
    /// The kubelet knows what it was given; not so one that has lost its checkpoint, until the container is created anew.
    pub(crate) in_books: bool,
}

/// What a pod asks for.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PodSpec {
    /// Its uid.
    pub(crate) uid: String,
    /// Its name.
    pub(crate) name: String,
    /// Its namespace.
    pub(crate) namespace: String,
    /// Init containers.
    pub(crate) init: Vec<Container>,
    /// Containers.
    pub(crate) containers: Vec<Container>,
}

/// One container of a pod.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Container {
    /// Its name.
    pub(crate) name: String,
    /// Numbers of devices by resource.
    pub(crate) requests: BTreeMap<String, usize>,
}

/// What a container was given.
#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct Given {
    /// Its environment.
    pub(crate) envs: BTreeMap<String, String>,
}

impl Given {
    /// The addresses that it was told, as KubeVirt reads them.
    pub(crate) fn addresses(&self) -> Vec<String> {
        let values = self.envs.iter().filter(|(name, _)| name.starts_with("PCI_RESOURCE_"));
        values.flat_map(|(_, value)| value.split(',')).map(str::to_owned).collect()
    }
}

/// Kinds of pods.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum PodShape {
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
    pub(crate) fn count(self) -> usize {
        match self {
            Self::One | Self::HandsOn => 1,
            Self::Two | Self::TwoContainers => 2,
        }
    }
}

impl PodSpec {
    /// The `number`th.
    pub(crate) fn new(number: u32, shape: PodShape, resource: &str) -> Self {
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
    pub(crate) fn of_the_plugin() -> Self {
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
    pub(crate) fn count(&self) -> usize {
        let of = |containers: &[Container]| -> Vec<usize> {
            containers.iter().map(|container| container.requests.values().sum()).collect()
        };
        let init = of(&self.init).into_iter().max().unwrap_or(0);
        init.max(of(&self.containers).into_iter().sum())
    }
}
