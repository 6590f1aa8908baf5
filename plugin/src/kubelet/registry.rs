//! The registrations of all resources, as the status socket shows them.

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::Arc;

/// One resource's registration.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct ResourceStatus {
    /// The resource's name.
    pub(crate) name: String,
    /// Whether the kubelet has accepted the registration.
    pub(crate) registered: bool,
    /// Whether a list went out through a stream of this registration.
    #[serde(default)]
    pub(crate) first_list_sent: bool,
    /// ListAndWatch streams open now.
    pub(crate) streams: usize,
    /// The file name of the plugin's socket in the kubelet's plugin directory.
    pub(crate) endpoint: String,
    /// Registrations in a row that the kubelet accepted without opening a stream: kubelets before 1.26 do that, which put the
    /// socket's path into `:authority`, where HTTP/2 allows none.
    #[serde(default)]
    pub(crate) unfollowed: u32,
}

/// The registration of one resource, written by its task and read by the status socket.
pub(crate) type SharedStatus = Arc<Mutex<ResourceStatus>>;

/// The registrations of the resources that are served now.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    resources: Mutex<BTreeMap<Arc<str>, SharedStatus>>,
}

impl Registry {
    /// Replaces the set of resources.
    pub(crate) fn set(&self, resources: BTreeMap<Arc<str>, SharedStatus>) {
        *self.resources.lock() = resources;
    }

    /// Returns each resource's registration, by name.
    pub(crate) fn resources(&self) -> Vec<ResourceStatus> {
        let resources = self.resources.lock();
        resources.values().map(|status| status.lock().clone()).collect()
    }
}
