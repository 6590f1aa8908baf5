//! The PodResourcesLister service: what the books say of pods.

use super::Inner;
use super::books::Pod;
use kubelet_api::podresources::pod_resources_lister_server::PodResourcesLister;
use kubelet_api::podresources::{
    AllocatableResourcesRequest, AllocatableResourcesResponse, ContainerDevices, ContainerResources,
    GetPodResourcesRequest, GetPodResourcesResponse, ListPodResourcesRequest, ListPodResourcesResponse,
    PodResources,
};
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use tonic::{Request, Response, Status};

/// How the service answers a List.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Answer {
    /// From the books.
    #[default]
    Books,
    /// With no pod at all, as a kubelet that has not synced yet.
    Empty,
    /// With RESOURCE_EXHAUSTED, as the rate limit of all clients together does (`LimiterUnaryServerInterceptor`).
    Refuse,
    /// Never.
    Hang,
}

pub(super) struct Service(pub(super) Arc<Inner>);

fn resources(pod: &Pod) -> PodResources {
    let given = ContainerDevices {
        resource_name: pod.resource.clone(),
        device_ids: pod.devices.clone(),
        topology: None,
    };
    // A pod of which no device is known is listed all the same.
    let devices = if pod.devices.is_empty() { Vec::new() } else { vec![given] };
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
        let answer = *self.0.answer.lock().unwrap_or_else(PoisonError::into_inner);
        match answer {
            Answer::Books => {}
            Answer::Empty => return Ok(Response::new(ListPodResourcesResponse::default())),
            Answer::Refuse => return Err(Status::resource_exhausted("rejected by rate limit")),
            Answer::Hang => std::future::pending().await,
        }
        let pod_resources = self.0.books.borrow().pods.iter().map(resources).collect();
        Ok(Response::new(ListPodResourcesResponse { pod_resources }))
    }

    async fn get_allocatable_resources(
        &self,
        _: Request<AllocatableResourcesRequest>,
    ) -> Result<Response<AllocatableResourcesResponse>, Status> {
        let books = self.0.books.borrow();
        let healthy = |devices: &[kubelet_api::v1beta1::Device]| {
            devices
                .iter()
                .filter(|device| device.health == kubelet_api::HEALTHY)
                .map(|device| device.id.clone())
                .collect()
        };
        let devices = books
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
        let books = self.0.books.borrow();
        let pod =
            books.pods.iter().find(|pod| pod.name == wanted.pod_name && wanted.pod_namespace == "default");
        let pod = pod.ok_or_else(|| Status::not_found(format!("pod {} not found", wanted.pod_name)))?;
        Ok(Response::new(GetPodResourcesResponse { pod_resources: Some(resources(pod)) }))
    }
}
