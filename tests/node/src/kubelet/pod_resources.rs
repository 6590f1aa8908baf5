//! Serves the PodResourcesLister service from the kubelet's state.

use super::KubeletInner;
use super::state::Pod;
use kubelet_api::podresources::pod_resources_lister_server::PodResourcesLister;
use kubelet_api::podresources::{
    AllocatableResourcesRequest, AllocatableResourcesResponse, ContainerDevices, ContainerResources,
    GetPodResourcesRequest, GetPodResourcesResponse, ListPodResourcesRequest, ListPodResourcesResponse,
    PodResources,
};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use tonic::{Request, Response, Status};

/// How the service answers List.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum PodResourcesMode {
    /// With the kubelet's pods.
    #[default]
    Normal,
    /// Without any pod, as a kubelet that has not synced yet.
    Empty,
    /// With RESOURCE_EXHAUSTED, as the rate limit for all clients does (`LimiterUnaryServerInterceptor`).
    RateLimited,
    /// Not at all: the call hangs.
    Hang,
    /// With INTERNAL, as a kubelet whose device manager fails.
    Failing,
    /// With a pod whose name makes the list longer than the kubelet's own limit of 16 MiB.
    TooLong,
}

pub(super) struct Service(pub(super) Arc<KubeletInner>);

fn resources(pod: &Pod) -> PodResources {
    let allocated = ContainerDevices {
        resource_name: pod.resource.clone(),
        device_ids: pod.devices.clone(),
        topology: None,
    };
    // A pod without known devices is listed too.
    let devices = if pod.devices.is_empty() { Vec::new() } else { vec![allocated] };
    let container =
        ContainerResources { name: "compute".to_owned(), devices, ..ContainerResources::default() };
    PodResources { name: pod.name.clone(), namespace: "default".to_owned(), containers: vec![container] }
}

#[tonic::async_trait]
impl PodResourcesLister for Service {
    async fn list(
        &self,
        _: Request<ListPodResourcesRequest>,
    ) -> Result<Response<ListPodResourcesResponse>, Status> {
        self.0.pod_lists.fetch_add(1, Ordering::Relaxed);
        let mode = *self.0.pod_resources_mode.lock().unwrap_or_else(PoisonError::into_inner);
        match mode {
            PodResourcesMode::Normal => {}
            PodResourcesMode::Empty => return Ok(Response::new(ListPodResourcesResponse::default())),
            PodResourcesMode::RateLimited => {
                return Err(Status::resource_exhausted("rejected by rate limit"));
            }
            PodResourcesMode::Hang => std::future::pending().await,
            PodResourcesMode::Failing => return Err(Status::internal("device manager failed")),
            PodResourcesMode::TooLong => {
                let pod = PodResources { name: "n".repeat(17 << 20), ..PodResources::default() };
                return Ok(Response::new(ListPodResourcesResponse { pod_resources: vec![pod] }));
            }
        }
        let pod_resources = self.0.state.borrow().pods.iter().map(resources).collect();
        Ok(Response::new(ListPodResourcesResponse { pod_resources }))
    }

    async fn get_allocatable_resources(
        &self,
        _: Request<AllocatableResourcesRequest>,
    ) -> Result<Response<AllocatableResourcesResponse>, Status> {
        let state = self.0.state.borrow();
        let healthy = |devices: &[kubelet_api::v1beta1::Device]| {
            devices
                .iter()
                .filter(|device| device.health == kubelet_api::HEALTHY)
                .map(|device| device.id.clone())
                .collect()
        };
        let devices = state
            .resources
            .iter()
            .map(|(name, resource)| ContainerDevices {
                resource_name: name.clone(),
                device_ids: healthy(&resource.devices),
                topology: None,
            })
            .collect();
        Ok(Response::new(AllocatableResourcesResponse { devices, cpu_ids: Vec::new(), memory: Vec::new() }))
    }

    async fn get(
        &self,
        request: Request<GetPodResourcesRequest>,
    ) -> Result<Response<GetPodResourcesResponse>, Status> {
        let wanted = request.into_inner();
        let state = self.0.state.borrow();
        let pod =
            state.pods.iter().find(|pod| pod.name == wanted.pod_name && wanted.pod_namespace == "default");
        let pod = pod.ok_or_else(|| Status::not_found(format!("pod {} not found", wanted.pod_name)))?;
        Ok(Response::new(GetPodResourcesResponse { pod_resources: Some(resources(pod)) }))
    }
}
