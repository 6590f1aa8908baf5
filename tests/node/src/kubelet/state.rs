//! Keeps the device manager's in-memory state: the devices that each plugin has listed, and the pods with allocated
//! devices.

use kubelet_api::v1beta1::device_plugin_client::DevicePluginClient;
use kubelet_api::v1beta1::{ContainerAllocateResponse, Device, DevicePluginOptions};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

/// Everything that the kubelet knows.
#[derive(Clone, Debug, Default)]
pub struct KubeletState {
    /// By name.
    pub resources: BTreeMap<String, Resource>,
    /// Admitted pods.
    pub pods: Vec<Pod>,
    /// Every registration so far, in order.
    pub registrations: Vec<Registration>,
    /// How often all devices of a resource became Unhealthy because its stream ended.
    pub gaps: u64,
    /// The clients of each resource's name, of a kubelet with a [`Version`](super::Version).
    pub(crate) clients: BTreeMap<String, Vec<Client>>,
    /// The connections that the kubelet keeps open though their streams have ended.
    pub(crate) kept: Vec<DevicePluginClient<Channel>>,
    pods_so_far: u64,
}

/// One resource.
#[derive(Clone, Debug, Default)]
pub struct Resource {
    /// The file name of the plugin's socket.
    pub endpoint: String,
    /// True while the stream to the plugin is open.
    pub connected: bool,
    /// The latest list.
    pub devices: Vec<Device>,
    /// The number of lists since the registration.
    pub lists: u64,
    /// The time of the latest list.
    pub listed_at: Option<Instant>,
    /// Every list since the registration, with its time.
    pub history: Vec<(Instant, Vec<Device>)>,
    /// The options that the plugin has announced.
    pub options: DevicePluginOptions,
    pub(crate) client: Option<DevicePluginClient<Channel>>,
    pub(crate) stream: CancellationToken,
}

/// A pod with devices of one resource.
#[derive(Clone, Debug)]
pub struct Pod {
    /// The pod's uid.
    pub uid: String,
    /// The pod's name.
    pub name: String,
    /// The resource.
    pub resource: String,
    /// The ids of the allocated devices; empty after the checkpoint was lost.
    pub devices: Vec<String>,
    /// The number of requested devices. The scheduler counts it also after the checkpoint was lost.
    pub requested: usize,
    /// The plugin's response to Allocate.
    pub response: ContainerAllocateResponse,
}

/// A client, as the kubelet's `server` keeps it.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub(crate) endpoint: String,
    /// Ends its stream and closes its connection.
    pub(crate) disconnect: CancellationToken,
}

/// One call of Register.
#[derive(Clone, Debug)]
pub struct Registration {
    /// The resource.
    pub resource: String,
    /// The socket's file name.
    pub endpoint: String,
    /// The time of the call.
    pub at: Instant,
}

/// The numbers that the node object shows and that the scheduler counts with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Capacity {
    /// Healthy and unhealthy devices.
    pub capacity: usize,
    /// Healthy devices (`GetCapacity`).
    pub allocatable: usize,
    /// Devices that all pods have requested, whatever the health of the allocated devices.
    pub requested: usize,
}

impl Capacity {
    /// Returns what the scheduler sees as free; negative if devices of pods became Unhealthy.
    #[must_use]
    pub fn left(&self) -> i64 {
        i64::try_from(self.allocatable).unwrap_or(0) - i64::try_from(self.requested).unwrap_or(0)
    }
}

impl Resource {
    /// Returns a device's health in the latest list; `None` if the list does not have the device.
    #[must_use]
    pub fn health(&self, id: &str) -> Option<&str> {
        self.devices.iter().find(|device| device.id == id).map(|device| device.health.as_str())
    }

    /// Takes a new list. Each list is the complete set (`genericDeviceUpdateCallback`).
    pub(crate) fn set_devices(&mut self, devices: Vec<Device>) {
        let now = Instant::now();
        self.history.push((now, devices.clone()));
        self.devices = devices;
        self.lists += 1;
        self.listed_at = Some(now);
    }

    /// Marks all devices Unhealthy and keeps them (`markResourceUnhealthy`).
    pub(crate) fn mark_unhealthy(&mut self) {
        self.connected = false;
        for device in &mut self.devices {
            device.health = kubelet_api::UNHEALTHY.to_owned();
        }
    }

    /// Returns true if the latest list has the device as healthy.
    #[must_use]
    pub fn is_healthy(&self, id: &str) -> bool {
        self.health(id) == Some(kubelet_api::HEALTHY)
    }
}

impl KubeletState {
    /// Returns the numbers of a resource.
    #[must_use]
    pub fn capacity(&self, resource: &str) -> Capacity {
        let requested =
            self.pods.iter().filter(|pod| pod.resource == resource).map(|pod| pod.requested).sum();
        let Some(resource) = self.resources.get(resource) else {
            return Capacity { requested, ..Capacity::default() };
        };
        let healthy = resource.devices.iter().filter(|device| device.health == kubelet_api::HEALTHY).count();
        Capacity { capacity: resource.devices.len(), allocatable: healthy, requested }
    }

    /// Returns the healthy devices that are not allocated.
    #[must_use]
    pub fn available(&self, resource: &str) -> Vec<String> {
        let allocated: BTreeSet<&String> = self.pods_of(resource).flat_map(|pod| &pod.devices).collect();
        let devices =
            self.resources.get(resource).map(|resource| resource.devices.as_slice()).unwrap_or_default();
        devices
            .iter()
            .filter(|device| device.health == kubelet_api::HEALTHY && !allocated.contains(&device.id))
            .map(|device| device.id.clone())
            .collect()
    }

    /// Returns how often a resource was registered.
    #[must_use]
    pub fn registrations_of(&self, resource: &str) -> usize {
        self.registrations.iter().filter(|registration| registration.resource == resource).count()
    }

    fn pods_of(&self, resource: &str) -> impl Iterator<Item = &Pod> {
        self.pods.iter().filter(move |pod| pod.resource == resource)
    }

    /// Returns true if the plugin has announced GetPreferredAllocation.
    pub(crate) fn has_preference(&self, resource: &str) -> bool {
        self.resources
            .get(resource)
            .is_some_and(|resource| resource.options.get_preferred_allocation_available)
    }

    pub(crate) fn add_pod(
        &mut self,
        name: &str,
        resource: &str,
        devices: &[String],
        response: &ContainerAllocateResponse,
    ) -> String {
        self.pods_so_far += 1;
        let uid = format!("4b5a1c7e-5b0a-4a57-9d3a-{:012x}", self.pods_so_far);
        self.pods.push(Pod {
            uid: uid.clone(),
            name: name.to_owned(),
            resource: resource.to_owned(),
            devices: devices.to_vec(),
            requested: devices.len(),
            response: response.clone(),
        });
        uid
    }

    /// Handles the end of a plugin's stream (`markResourceUnhealthy`). An endpoint that was replaced meanwhile is
    /// ignored.
    pub(crate) fn disconnect(&mut self, resource: &str, endpoint: &str) {
        if let Some(resource) =
            self.resources.get_mut(resource).filter(|resource| resource.endpoint == endpoint)
        {
            resource.mark_unhealthy();
            self.gaps += 1;
        }
    }

    /// Handles the end of the kubelet: no stream is open, and no plugin can be called.
    pub(crate) fn disconnect_all(&mut self) {
        for resource in self.resources.values_mut() {
            resource.mark_unhealthy();
            resource.client = None;
        }
        self.clients.values().flatten().for_each(|client| client.disconnect.cancel());
        self.clients.clear();
        self.kept.clear();
    }

    /// Handles a new start (`readCheckpoint`): the known resources have no devices. The pods stay, since the API
    /// server has them.
    pub(crate) fn restart(&mut self, keep_checkpoint: bool) {
        for resource in self.resources.values_mut() {
            *resource = Resource::default();
        }
        if !keep_checkpoint {
            for pod in &mut self.pods {
                pod.devices.clear();
            }
        }
    }
}
