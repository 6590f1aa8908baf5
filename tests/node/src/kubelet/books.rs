//! The device manager's books: which devices each plugin listed, and which pods were given some.

use kubelet_api::v1beta1::device_plugin_client::DevicePluginClient;
use kubelet_api::v1beta1::{ContainerAllocateResponse, Device, DevicePluginOptions};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::transport::Channel;

/// Everything the kubelet knows.
#[derive(Clone, Debug, Default)]
pub struct Books {
    /// By resource name.
    pub resources: BTreeMap<String, Resource>,
    /// Admitted pods.
    pub pods: Vec<Pod>,
    /// Every registration so far, in order.
    pub registrations: Vec<Registration>,
    pods_so_far: u64,
}

/// One resource.
#[derive(Clone, Debug, Default)]
pub struct Resource {
    /// The plugin's socket, by its file name.
    pub endpoint: String,
    /// Whether the stream to the plugin stands.
    pub connected: bool,
    /// The latest list.
    pub devices: Vec<Device>,
    /// How many lists came since the registration, and when the latest did.
    pub lists: u64,
    /// When the latest list came.
    pub listed_at: Option<Instant>,
    /// Every list since the registration, and when it came.
    pub history: Vec<(Instant, Vec<Device>)>,
    /// What the plugin says it can do.
    pub options: DevicePluginOptions,
    pub(crate) client: Option<DevicePluginClient<Channel>>,
    pub(crate) stream: CancellationToken,
}

/// A pod with devices of one resource.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Its uid.
    pub uid: String,
    /// Its name.
    pub name: String,
    /// The resource.
    pub resource: String,
    /// Its devices' ids, as far as the kubelet knows.
    pub devices: Vec<String>,
    /// How many it asked for: what the scheduler counts, whatever the kubelet forgot.
    pub requested: usize,
    /// What the plugin answered to Allocate.
    pub response: ContainerAllocateResponse,
}

/// One call of Register.
#[derive(Clone, Debug)]
pub struct Registration {
    /// The resource.
    pub resource: String,
    /// The socket's file name.
    pub endpoint: String,
    /// When it was called.
    pub at: Instant,
}

/// The numbers that the node object shows and the scheduler counts with.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Capacity {
    /// Healthy and unhealthy devices.
    pub capacity: usize,
    /// Healthy devices (`GetCapacity`).
    pub allocatable: usize,
    /// What all pods have asked for, whatever the health of what they were given.
    pub requested: usize,
}

impl Capacity {
    /// What the scheduler thinks is left; negative when pods have devices that are now unhealthy.
    #[must_use]
    pub fn left(&self) -> i64 {
        i64::try_from(self.allocatable).unwrap_or(0) - i64::try_from(self.requested).unwrap_or(0)
    }
}

impl Resource {
    /// A device's health as listed.
    #[must_use]
    pub fn health(&self, id: &str) -> Option<&str> {
        self.devices.iter().find(|device| device.id == id).map(|device| device.health.as_str())
    }

    /// Takes a list, which is the whole set each time (`genericDeviceUpdateCallback`).
    pub(crate) fn listed(&mut self, devices: Vec<Device>) {
        let now = Instant::now();
        self.history.push((now, devices.clone()));
        self.devices = devices;
        self.lists += 1;
        self.listed_at = Some(now);
    }

    /// All its devices are unhealthy, and it keeps them (`markResourceUnhealthy`).
    fn lost(&mut self) {
        self.connected = false;
        for device in &mut self.devices {
            device.health = kubelet_api::UNHEALTHY.to_owned();
        }
    }

    /// Whether a device is listed as healthy.
    #[must_use]
    pub fn is_healthy(&self, id: &str) -> bool {
        self.health(id) == Some(kubelet_api::HEALTHY)
    }
}

impl Books {
    /// A resource's numbers.
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

    /// Healthy devices that no pod has.
    #[must_use]
    pub fn available(&self, resource: &str) -> Vec<String> {
        let given: BTreeSet<&String> = self.pods_of(resource).flat_map(|pod| &pod.devices).collect();
        let devices =
            self.resources.get(resource).map(|resource| resource.devices.as_slice()).unwrap_or_default();
        devices
            .iter()
            .filter(|device| device.health == kubelet_api::HEALTHY && !given.contains(&device.id))
            .map(|device| device.id.clone())
            .collect()
    }

    /// How often a resource was registered.
    #[must_use]
    pub fn registrations_of(&self, resource: &str) -> usize {
        self.registrations.iter().filter(|registration| registration.resource == resource).count()
    }

    fn pods_of(&self, resource: &str) -> impl Iterator<Item = &Pod> {
        self.pods.iter().filter(move |pod| pod.resource == resource)
    }

    /// Whether the plugin said that it answers GetPreferredAllocation.
    pub(crate) fn has_advice(&self, resource: &str) -> bool {
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

    /// `markResourceUnhealthy`: the stream ended.
    pub(crate) fn disconnected(&mut self, resource: &str, endpoint: &str) {
        if let Some(resource) =
            self.resources.get_mut(resource).filter(|resource| resource.endpoint == endpoint)
        {
            resource.lost();
        }
    }

    /// The kubelet is gone: no stream stands, and no plugin can be called.
    pub(crate) fn stopped(&mut self) {
        for resource in self.resources.values_mut() {
            resource.lost();
            resource.client = None;
        }
    }

    /// `readCheckpoint`: known resources come back without devices. The pods are the API server's, and stay.
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
