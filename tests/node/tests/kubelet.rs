//! The kubelet stand-in behaves as the kubelet does, over real sockets.
#![allow(clippy::unwrap_used, reason = "a test's helper may fail loudly")]

use kubelet_api::podresources;
use kubelet_api::podresources::pod_resources_lister_client::PodResourcesListerClient;
use kubelet_api::v1beta1::device_plugin_server::{DevicePlugin, DevicePluginServer};
use kubelet_api::v1beta1::registration_client::RegistrationClient;
use kubelet_api::v1beta1::*;
use std::time::Duration;
use tokio::net::UnixListener;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};
use vfio_sim_node::Node;
use vfio_sim_node::kubelet::{Kubelet, KubeletState, PodResourcesMode};

const WAIT: Duration = Duration::from_secs(5);

/// A plugin with two devices, one of them Unhealthy.
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
        Err(Status::internal("called, although the options do not announce it"))
    }
    async fn allocate(
        &self,
        request: Request<AllocateRequest>,
    ) -> Result<Response<AllocateResponse>, Status> {
        let container_responses = request
            .into_inner()
            .container_requests
            .iter()
            .map(|container| ContainerAllocateResponse {
                envs: [("A".to_owned(), container.devices_ids.join(","))].into(),
                ..ContainerAllocateResponse::default()
            })
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
    let channel = Endpoint::from_shared(kubelet).unwrap().connect().await.unwrap();
    RegistrationClient::new(channel).register(request).await.map(drop)
}

#[tokio::test]
async fn state_follows_registrations_pods_and_restarts() {
    let node = Node::new().unwrap();
    let kubelet = Kubelet::start(&node.kubelet_dir(), &node.pod_resources_socket()).await.unwrap();
    assert!(register(&node, "v1", "x.com/two").await.is_err());
    assert!(register(&node, "v1beta1", "two").await.is_err());
    register(&node, "v1beta1", "x.com/two").await.unwrap();
    let wait = Duration::from_secs(5);
    kubelet.wait_for(wait, |state| state.capacity("x.com/two").capacity == 2).await.unwrap();
    let pod = kubelet.admit("vm", "x.com/two", 1).await.unwrap();
    assert_eq!(pod.devices, ["a"]);
    let capacity = kubelet.capacity("x.com/two");
    assert_eq!((capacity.capacity, capacity.allocatable, capacity.requested, capacity.left()), (2, 1, 1, 0));
    assert!(kubelet.admit("vm2", "x.com/two", 1).await.is_err());

    kubelet.drop_stream("x.com/two");
    kubelet.wait_for(wait, |state| state.capacity("x.com/two").allocatable == 0).await.unwrap();
    assert_eq!(kubelet.capacity("x.com/two").left(), -1);

    kubelet.restart(true).await.unwrap();
    assert!(!node.kubelet_dir().join("two.sock").exists(), "a kubelet removes every socket when it starts");
    assert_eq!(kubelet.capacity("x.com/two").requested, 1);
    kubelet.restart(false).await.unwrap();
    assert_eq!(kubelet.capacity("x.com/two").requested, 1, "the pod exists also without the checkpoint");
    let pods = list(&pod_resources(&node).await).await.unwrap();
    assert_eq!((pods[0].name.as_str(), pods[0].containers[0].devices.len()), ("vm", 0));
    kubelet.remove(&pod.pod_uid);
    assert_eq!(kubelet.capacity("x.com/two").requested, 0);
}

async fn pod_resources(node: &Node) -> PodResourcesListerClient<Channel> {
    let socket = format!("unix:{}", node.pod_resources_socket().display());
    PodResourcesListerClient::new(Endpoint::from_shared(socket).unwrap().connect().await.unwrap())
}

async fn list(client: &PodResourcesListerClient<Channel>) -> Result<Vec<podresources::PodResources>, Status> {
    let answer = client.clone().list(podresources::ListPodResourcesRequest {}).await?;
    Ok(answer.into_inner().pod_resources)
}

#[tokio::test]
async fn connections_break_when_the_kubelet_stops() {
    let node = Node::new().unwrap();
    let kubelet = Kubelet::start(&node.kubelet_dir(), &node.pod_resources_socket()).await.unwrap();
    register(&node, "v1beta1", "x.com/two").await.unwrap();
    kubelet.wait_for(WAIT, |state| state.capacity("x.com/two").capacity == 2).await.unwrap();
    let mut extra = kubelet.extra_stream("x.com/two").await.unwrap();
    assert_eq!(extra.message().await.unwrap().unwrap().devices.len(), 2);
    let client = pod_resources(&node).await;
    assert!(list(&client).await.unwrap().is_empty());
    kubelet.stop();
    assert!(list(&client).await.is_err(), "an old connection is broken");
    assert!(!matches!(extra.message().await, Ok(Some(_))));
    assert!(node.kubelet_dir().join("kubelet.sock").exists(), "a process that ends leaves its socket behind");
    kubelet.run().await.unwrap();
    assert!(list(&pod_resources(&node).await).await.unwrap().is_empty());
}

#[tokio::test]
async fn pod_resources_can_be_empty_rate_limited_or_hang() {
    let node = Node::new().unwrap();
    let kubelet = Kubelet::start(&node.kubelet_dir(), &node.pod_resources_socket()).await.unwrap();
    register(&node, "v1beta1", "x.com/two").await.unwrap();
    kubelet.wait_for(WAIT, |state| state.capacity("x.com/two").capacity == 2).await.unwrap();
    kubelet.admit("vm", "x.com/two", 1).await.unwrap();
    let client = pod_resources(&node).await;
    assert_eq!(list(&client).await.unwrap()[0].containers[0].devices[0].device_ids, ["a"]);
    kubelet.set_pod_resources_mode(PodResourcesMode::Empty);
    assert!(list(&client).await.unwrap().is_empty());
    kubelet.set_pod_resources_mode(PodResourcesMode::RateLimited);
    assert_eq!(list(&client).await.unwrap_err().code(), tonic::Code::ResourceExhausted);
    kubelet.set_pod_resources_mode(PodResourcesMode::Hang);
    assert!(tokio::time::timeout(Duration::from_millis(50), list(&client)).await.is_err());
    kubelet.set_pod_resources_mode(PodResourcesMode::Normal);
    assert_eq!(list(&client).await.unwrap().len(), 1);
    assert_eq!(kubelet.pod_lists(), 5);
}

#[tokio::test]
async fn checkpoint_has_pods_devices_and_responses() {
    let node = Node::new().unwrap();
    let kubelet = Kubelet::start(&node.kubelet_dir(), &node.pod_resources_socket()).await.unwrap();
    register(&node, "v1beta1", "x.com/two").await.unwrap();
    kubelet.wait_for(WAIT, |state| state.capacity("x.com/two").capacity == 2).await.unwrap();
    let pod = kubelet.admit("vm", "x.com/two", 1).await.unwrap();
    let path = "var/lib/kubelet/device-plugins/kubelet_internal_checkpoint";
    assert_eq!(
        node.read(path).unwrap(),
        format!(
            "{{\"Data\":{{\"PodDeviceEntries\":[{{\"PodUID\":\"{}\",\"ContainerName\":\"compute\",\
             \"ResourceName\":\"x.com/two\",\"DeviceIDs\":{{\"-1\":[\"a\"]}},\"AllocResp\":\"CgYKAUESAWE=\"}}],\
             \"RegisteredDevices\":{{\"x.com/two\":[\"a\"]}}}},\"Checksum\":0}}",
            pod.pod_uid
        )
    );
    kubelet.restart(false).await.unwrap();
    assert!(node.read(path).is_err());
}

#[tokio::test]
async fn lists_and_registrations_are_kept_in_order() {
    let node = Node::new().unwrap();
    let kubelet = Kubelet::start(&node.kubelet_dir(), &node.pod_resources_socket()).await.unwrap();
    register(&node, "v1beta1", "x.com/two").await.unwrap();
    register(&node, "v1beta1", "x.com/other").await.unwrap();
    let listed = |state: &KubeletState| state.resources.values().all(|resource| resource.lists == 1);
    let state = kubelet.wait_for(WAIT, listed).await.unwrap();
    assert_eq!(state.registrations_of("x.com/two"), 1);
    assert_eq!(state.registrations[1].resource, "x.com/other");
    assert_eq!(state.resources["x.com/two"].history[0].1.len(), 2);
    assert_eq!(state.available("x.com/two"), ["a"]);
    kubelet.admit("vm", "x.com/two", 1).await.unwrap();
    assert_eq!(
        kubelet.state().available("x.com/other"),
        ["a"],
        "the same id of another resource is another device"
    );
}
