//! Pods, as the API server has them.

use kubelet_process::PodSpec;
use std::collections::BTreeMap;
use std::time::Instant;
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
    /// When it was admitted.
    pub(crate) came: Instant,
    /// The plugin has seen it listed.
    pub(crate) listed: bool,
    /// The kubelet has restarted, with its checkpoint, before that.
    pub(crate) restarted: bool,
    /// Its name and its uid were never seen together: the kubelet has lost its checkpoint before it was listed. While it
    /// runs, its cgroup tells that it is there; once it is deleted by force, nobody tells whose its machine is.
    pub(crate) untold: bool,
}
