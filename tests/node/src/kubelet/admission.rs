//! Admits and removes pods as the scheduler and the device manager do, and calls a plugin's methods one by one.

use super::Kubelet;
use super::state::Capacity;
use kubelet_api::v1beta1::device_plugin_client::DevicePluginClient;
use kubelet_api::v1beta1::{
    AllocateRequest, ContainerAllocateRequest, ContainerAllocateResponse,
    ContainerPreferredAllocationRequest, ListAndWatchResponse, PreStartContainerRequest,
    PreferredAllocationRequest,
};
use std::fmt;
use tonic::transport::Channel;
use tonic::{Status, Streaming};

/// Why a pod was not admitted.
#[derive(Debug)]
pub enum AdmitError {
    /// The scheduler finds no room: `requested + wanted > allocatable` (fit.go). The pod stays pending.
    Unschedulable(Capacity),
    /// The device manager has too few devices left.
    Insufficient,
    /// The plugin refused. The pod is Failed with UnexpectedAdmissionError; the kubelet does not try again.
    Refused(Status),
}

/// An admitted pod.
#[derive(Clone, Debug)]
pub struct Admission {
    /// The pod's uid.
    pub pod_uid: String,
    /// The devices that the kubelet has allocated.
    pub devices: Vec<String>,
    /// The plugin's response.
    pub response: ContainerAllocateResponse,
}

impl fmt::Display for AdmitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Unschedulable(capacity) => write!(
                f,
                "unschedulable: allocatable {} - requested {} leaves too few",
                capacity.allocatable, capacity.requested
            ),
            Self::Insufficient => f.write_str("requested number of devices unavailable"),
            Self::Refused(status) => {
                write!(
                    f,
                    "UnexpectedAdmissionError: Allocate failed due to {:?}: {}",
                    status.code(),
                    status.message()
                )
            }
        }
    }
}

impl std::error::Error for AdmitError {}

impl Kubelet {
    /// Admits a pod that requests `count` devices, as the scheduler and then the device manager do.
    ///
    /// # Errors
    /// See [`AdmitError`].
    pub async fn admit(&self, name: &str, resource: &str, count: usize) -> Result<Admission, AdmitError> {
        let capacity = self.capacity(resource);
        if capacity.requested + count > capacity.allocatable {
            return Err(AdmitError::Unschedulable(capacity));
        }
        let available = self.inner.state.borrow().available(resource);
        if available.len() < count {
            return Err(AdmitError::Insufficient);
        }
        // The kubelet calls the method only if the plugin's options announce it. An error fails the pod.
        let has_preference = self.inner.state.borrow().has_preference(resource);
        let preferred = if has_preference {
            self.preferred(resource, &available, &[], count).await.map_err(AdmitError::Refused)?
        } else {
            Vec::new()
        };
        // The response is advice: it is intersected with the available devices and filled up (`devicesToAllocate`).
        let mut devices: Vec<String> =
            preferred.into_iter().filter(|id| available.contains(id)).take(count).collect();
        for id in available {
            if devices.len() < count && !devices.contains(&id) {
                devices.push(id);
            }
        }
        self.admit_with(name, resource, devices).await
    }

    /// Admits a pod with exactly these devices, without the scheduler's check.
    ///
    /// # Errors
    /// The plugin refused.
    pub async fn admit_with(
        &self,
        name: &str,
        resource: &str,
        devices: Vec<String>,
    ) -> Result<Admission, AdmitError> {
        let response = self.allocate(resource, &[&devices]).await.map_err(AdmitError::Refused)?;
        // `deviceManager.allocateContainerResources` sends one container request and expects at least one response.
        let missing = || AdmitError::Refused(Status::internal("empty response from the plugin"));
        let response = response.into_iter().next().ok_or_else(missing)?;
        let mut pod_uid = String::new();
        self.inner.change(|state| pod_uid = state.add_pod(name, resource, &devices, &response));
        Ok(Admission { pod_uid, devices, response })
    }

    /// Removes a pod. Its devices are available again at once, also while its VM runs.
    pub fn remove(&self, pod_uid: &str) {
        self.inner.change(|state| state.pods.retain(|pod| pod.uid != pod_uid));
    }

    /// Calls Allocate with one container request for each list of ids.
    ///
    /// # Errors
    /// The plugin's status.
    pub async fn allocate(
        &self,
        resource: &str,
        containers: &[&[String]],
    ) -> Result<Vec<ContainerAllocateResponse>, Status> {
        let container_requests =
            containers.iter().map(|ids| ContainerAllocateRequest { devices_ids: ids.to_vec() }).collect();
        let answer = self.client(resource)?.allocate(AllocateRequest { container_requests }).await?;
        Ok(answer.into_inner().container_responses)
    }

    /// Calls GetPreferredAllocation for one container.
    ///
    /// # Errors
    /// The plugin's status.
    pub async fn preferred(
        &self,
        resource: &str,
        available: &[String],
        must_include: &[String],
        count: usize,
    ) -> Result<Vec<String>, Status> {
        let request = ContainerPreferredAllocationRequest {
            available_device_i_ds: available.to_vec(),
            must_include_device_i_ds: must_include.to_vec(),
            allocation_size: i32::try_from(count).unwrap_or(i32::MAX),
        };
        let request = PreferredAllocationRequest { container_requests: vec![request] };
        let answer = self.client(resource)?.get_preferred_allocation(request).await?.into_inner();
        Ok(answer.container_responses.into_iter().next().unwrap_or_default().device_i_ds)
    }

    /// Calls PreStartContainer, as the kubelet does before it creates a container if the plugin's options ask for it
    /// (`callPreStartContainerIfNeeded`). Returns false if the options do not.
    ///
    /// # Errors
    /// The plugin's status. The kubelet does not create the container then, and tries again later.
    pub async fn pre_start(&self, resource: &str, ids: &[String]) -> Result<bool, Status> {
        let options = self.inner.state.borrow().resources.get(resource).map(|resource| resource.options);
        if !options.is_some_and(|options| options.pre_start_required) {
            return Ok(false);
        }
        let request = PreStartContainerRequest { devices_ids: ids.to_vec() };
        // `deviceManager` gives up after 30 s (`KubeletDevicePluginPreStartTimeoutInSecs`).
        let call = async { self.client(resource)?.pre_start_container(request).await };
        let answer = tokio::time::timeout(std::time::Duration::from_secs(30), call).await;
        answer.map_err(|_| Status::deadline_exceeded("PreStartContainer"))??;
        Ok(true)
    }

    /// Opens one more ListAndWatch stream to a plugin.
    ///
    /// # Errors
    /// The plugin's status.
    pub async fn extra_stream(&self, resource: &str) -> Result<Streaming<ListAndWatchResponse>, Status> {
        Ok(self.client(resource)?.list_and_watch(kubelet_api::v1beta1::Empty {}).await?.into_inner())
    }

    fn client(&self, resource: &str) -> Result<DevicePluginClient<Channel>, Status> {
        let state = self.inner.state.borrow();
        let client = state.resources.get(resource).and_then(|resource| resource.client.clone());
        client.ok_or_else(|| Status::not_found(format!("{resource}: no plugin has registered it")))
    }
}
