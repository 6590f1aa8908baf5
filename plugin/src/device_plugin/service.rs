//! The DevicePlugin service of one resource: the kubelet's five calls.
//!
//! | call | answered by |
//! | --- | --- |
//! | GetDevicePluginOptions | [`options`] |
//! | ListAndWatch | [`crate::kubelet::list_and_watch`], with the lists of [`crate::publisher`] |
//! | GetPreferredAllocation | [`crate::allocate::preferred`] |
//! | Allocate | [`crate::allocate`] |
//! | PreStartContainer | [`crate::allocate`]: refuses to start a container with a stale answer |

use crate::allocate::allocator::Allocator;
use crate::device_plugin::clients::Activity;
use crate::kubelet::list_and_watch::DeviceListStream;
use kubelet_api::v1beta1::device_plugin_server::DevicePlugin;
use kubelet_api::v1beta1::{
    AllocateRequest, AllocateResponse, DevicePluginOptions, Empty, PreStartContainerRequest,
    PreStartContainerResponse, PreferredAllocationRequest, PreferredAllocationResponse,
};
use tonic::{Request, Response, Status};

/// The longest request in bytes. One for 10,000 devices has 400 kB, and a decoded one takes up to 12 times its size.
pub(super) const MAX_REQUEST: usize = 1 << 20;

/// The service of one resource, on one socket.
pub(super) struct Service {
    /// Answers Allocate, and has the streams of ListAndWatch.
    pub(super) allocator: Allocator,
    /// Whether GetDevicePluginOptions fails, so that the kubelet's registration of this socket fails.
    pub(super) refuses: bool,
}

/// Returns the options that Register and GetDevicePluginOptions report to the kubelet.
pub(super) fn options() -> DevicePluginOptions {
    DevicePluginOptions { pre_start_required: true, get_preferred_allocation_available: true }
}

#[tonic::async_trait]
impl DevicePlugin for Service {
    type ListAndWatchStream = DeviceListStream;

    async fn get_device_plugin_options(
        &self,
        request: Request<Empty>,
    ) -> Result<Response<DevicePluginOptions>, Status> {
        Activity::called(request.extensions());
        if self.refuses {
            return Err(Status::unavailable(
                "this registration is meant to fail: the plugin is handing over",
            ));
        }
        Ok(Response::new(options()))
    }

    async fn list_and_watch(&self, request: Request<Empty>) -> Result<Response<DeviceListStream>, Status> {
        Activity::follows(request.extensions());
        Ok(Response::new(self.allocator.broadcast.open()))
    }

    async fn get_preferred_allocation(
        &self,
        request: Request<PreferredAllocationRequest>,
    ) -> Result<Response<PreferredAllocationResponse>, Status> {
        Activity::called(request.extensions());
        self.allocator.preferred(&request.into_inner()).map(Response::new)
    }

    async fn allocate(
        &self,
        request: Request<AllocateRequest>,
    ) -> Result<Response<AllocateResponse>, Status> {
        Activity::called(request.extensions());
        self.allocator.allocate(&request.into_inner()).await.map(Response::new)
    }

    async fn pre_start_container(
        &self,
        request: Request<PreStartContainerRequest>,
    ) -> Result<Response<PreStartContainerResponse>, Status> {
        Activity::called(request.extensions());
        self.allocator.pre_start(&request.into_inner().devices_ids)?;
        Ok(Response::new(PreStartContainerResponse {}))
    }
}
