//! The DevicePlugin service of one resource: the kubelet's calls, and who answers them.

use crate::allocate::allocator::Allocator;
use crate::kubelet::list_and_watch::DeviceListStream;
use kubelet_api::v1beta1::device_plugin_server::DevicePlugin;
use kubelet_api::v1beta1::{
    AllocateRequest, AllocateResponse, ContainerPreferredAllocationResponse, DevicePluginOptions, Empty,
    PreStartContainerRequest, PreStartContainerResponse, PreferredAllocationRequest,
    PreferredAllocationResponse,
};
use tonic::{Request, Response, Status};
use vfio_plugin_policy::allocation::preferred;

/// One resource, served on one socket.
pub(crate) struct Service {
    /// Its Allocate, and its streams.
    pub(crate) allocator: Allocator,
}

#[tonic::async_trait]
impl DevicePlugin for Service {
    type ListAndWatchStream = DeviceListStream;

    async fn get_device_plugin_options(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<DevicePluginOptions>, Status> {
        Ok(Response::new(DevicePluginOptions {
            pre_start_required: false,
            get_preferred_allocation_available: true,
        }))
    }

    async fn list_and_watch(&self, _: Request<Empty>) -> Result<Response<DeviceListStream>, Status> {
        Ok(Response::new(self.allocator.broadcast.open()))
    }

    async fn get_preferred_allocation(
        &self,
        request: Request<PreferredAllocationRequest>,
    ) -> Result<Response<PreferredAllocationResponse>, Status> {
        let request = request.into_inner();
        let owners = self.allocator.assignments.current();
        tracing::debug!(resource = %self.allocator.resource, ?request, "asked for a preference");
        let answer = request.container_requests.into_iter().map(|container| {
            let size = usize::try_from(container.allocation_size).unwrap_or(0);
            let (available, must) = (&container.available_device_i_ds, &container.must_include_device_i_ds);
            let size = size.min(available.len());
            let snapshot = self.allocator.snapshot_with_new_peeks(available);
            ContainerPreferredAllocationResponse {
                device_i_ds: preferred::choose(&snapshot, &owners, available, must, size),
            }
        });
        Ok(Response::new(PreferredAllocationResponse { container_responses: answer.collect() }))
    }

    async fn allocate(
        &self,
        request: Request<AllocateRequest>,
    ) -> Result<Response<AllocateResponse>, Status> {
        self.allocator.allocate(&request.into_inner()).await.map(Response::new)
    }

    async fn pre_start_container(
        &self,
        _: Request<PreStartContainerRequest>,
    ) -> Result<Response<PreStartContainerResponse>, Status> {
        // Never called: the options do not ask for it.
        Ok(Response::new(PreStartContainerResponse {}))
    }
}
