//! The stand-in keeps its books as the kubelet does, over real sockets.
#![allow(clippy::unwrap_used, reason = "a test's helper may fail loudly")]

use kubelet_api::v1beta1::device_plugin_server::{DevicePlugin, DevicePluginServer};
use kubelet_api::v1beta1::registration_client::RegistrationClient;
use kubelet_api::v1beta1::*;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Request, Response, Status};
use vfio_sim_node::{Kubelet, Node};

/// A plugin of two devices, one of them unhealthy.
struct Two;

#[tonic::async_trait]
impl DevicePlugin for Two {
    type ListAndWatchStream = ReceiverStream<Result<ListAndWatchResponse, Status>>;
    async fn get_device_plugin_options(
        &self,
        _: Request<Empty>,
    ) -> Result<Response<DevicePluginOptions>, Status> {
        Ok(Response::new(DevicePluginOptions::default()))
    }
    async fn list_and_watch(&self, _: Request<Empty>) -> Result<Response<Self::ListAndWatchStream>, Status> {
        let (send, receive) = tokio::sync::mpsc::channel(1);
        let device = |id: &str, health: &str| Device { id: id.into(), health: health.into(), topology: None };
        let devices = vec![device("a", "Healthy"), device("b", "Unhealthy")];
        send.send(Ok(ListAndWatchResponse { devices })).await.unwrap();
        tokio::spawn(async move { send.closed().await });
        Ok(Response::new(ReceiverStream::new(receive)))
    }
    async fn get_preferred_allocation(
        &self,
        _: Request<PreferredAllocationRequest>,
    ) -> Result<Response<PreferredAllocationResponse>, Status> {
        Ok(Response::new(PreferredAllocationResponse::default()))
    }
    async fn allocate(
        &self,
        request: Request<AllocateRequest>,
    ) -> Result<Response<AllocateResponse>, Status> {
        let container_responses = request
            .into_inner()
            .container_requests
            .iter()
            .map(|_| ContainerAllocateResponse::default())
            .collect();
        Ok(Response::new(AllocateResponse { container_responses }))
    }
    async fn pre_start_container(
        &self,
        _: Request<PreStartContainerRequest>,
    ) -> Result<Response<PreStartContainerResponse>, Status> {
        Ok(Response::new(PreStartContainerResponse {}))
    }
}

async fn register(node: &Node, version: &str, resource: &str) -> Result<(), Status> {
    let socket = node.kubelet_dir().join("two.sock");
    if !socket.exists() {
        let listener = UnixListener::bind(&socket).unwrap();
        let server = tonic::transport::Server::builder().add_service(DevicePluginServer::new(Two));
        tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
    }
    let kubelet = format!("unix:{}", node.kubelet_dir().join("kubelet.sock").display());
    let request = RegisterRequest {
        version: version.into(),
        endpoint: "two.sock".into(),
        resource_name: resource.into(),
        options: None,
    };
    let channel = tonic::transport::Endpoint::from_shared(kubelet).unwrap().connect().await.unwrap();
    RegistrationClient::new(channel).register(request).await.map(drop)
}

#[tokio::test]
async fn books_follow_registration_pods_and_restarts() {
    let node = Node::new().unwrap();
    let kubelet = Kubelet::start(&node.kubelet_dir(), &node.pod_resources_socket()).await.unwrap();
    assert!(register(&node, "v1", "x.com/two").await.is_err());
    assert!(register(&node, "v1beta1", "two").await.is_err());
    register(&node, "v1beta1", "x.com/two").await.unwrap();
    let wait = Duration::from_secs(5);
    kubelet.wait_for(wait, |books| books.capacity("x.com/two").capacity == 2).await.unwrap();
    let pod = kubelet.admit("vm", "x.com/two", 1).await.unwrap();
    assert_eq!(pod.devices, ["a"]);
    let capacity = kubelet.capacity("x.com/two");
    assert_eq!((capacity.capacity, capacity.allocatable, capacity.requested, capacity.left()), (2, 1, 1, 0));
    assert!(kubelet.admit("vm2", "x.com/two", 1).await.is_err());

    kubelet.drop_stream("x.com/two");
    kubelet.wait_for(wait, |books| books.capacity("x.com/two").allocatable == 0).await.unwrap();
    assert_eq!(kubelet.capacity("x.com/two").left(), -1);

    kubelet.restart(true).await.unwrap();
    assert!(!node.kubelet_dir().join("two.sock").exists(), "a kubelet removes every socket when it starts");
    assert_eq!(kubelet.capacity("x.com/two").requested, 1);
    kubelet.restart(false).await.unwrap();
    assert_eq!(kubelet.capacity("x.com/two").requested, 0);
}
