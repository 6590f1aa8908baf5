//! The state of all registrations, for the status socket.

use crate::driver_status::{DriverStatus, SharedDriverStatus};
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
    /// The number of registrations in a row that the kubelet accepted without opening a stream. Kubelets before 1.26 do that:
    /// they send the socket's path as `:authority`, which HTTP/2 does not allow.
    #[serde(default)]
    pub(crate) unfollowed: u32,
}

/// The state of one registration, written by its task and read by the status socket.
pub(crate) type SharedStatus = Arc<Mutex<ResourceStatus>>;

/// The state of the registrations of all resources that are served.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    /// None until the first device lists show which resources there are.
    resources: Mutex<Option<BTreeMap<Arc<str>, SharedStatus>>>,
    /// None without the DRA driver.
    driver: Mutex<Option<SharedDriverStatus>>,
}

impl Registry {
    /// Replaces the set of resources.
    pub(crate) fn set(&self, resources: BTreeMap<Arc<str>, SharedStatus>) {
        *self.resources.lock() = Some(resources);
    }

    /// Returns whether the set of resources is known. An empty set before that says nothing about the node.
    pub(crate) fn is_set(&self) -> bool {
        self.resources.lock().is_some()
    }

    /// Sets the state of the DRA driver.
    #[cfg(feature = "dra")]
    pub(crate) fn set_driver(&self, driver: SharedDriverStatus) {
        *self.driver.lock() = Some(driver);
    }

    /// Returns the state of the DRA driver. None if it does not run.
    pub(crate) fn driver(&self) -> Option<DriverStatus> {
        self.driver.lock().as_ref().map(|status| status.lock().clone())
    }

    /// Returns the state of each registration, in the order of the resources' names.
    pub(crate) fn resources(&self) -> Vec<ResourceStatus> {
        let resources = self.resources.lock();
        resources.iter().flat_map(BTreeMap::values).map(|status| status.lock().clone()).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registry_without_resources_is_set_once_that_is_known() {
        let registry = Registry::default();
        assert!(!registry.is_set() && registry.resources().is_empty());
        registry.set(BTreeMap::new());
        assert!(registry.is_set() && registry.resources().is_empty());
    }
}
