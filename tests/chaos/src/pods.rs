//! Pods, as the API server has them.

use kubelet_process::PodSpec;
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
