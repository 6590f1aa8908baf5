//! Faults of the kubelet: it does not answer, it is too old, or it does not show the assignments.

use crate::common::{H100, PATIENCE, Serve, expect, kubelet};
use crate::{examine, has, wait_for_finding};
use kubelet_api::v1beta1::registration_server::{Registration, RegistrationServer};
use kubelet_api::v1beta1::{Empty, RegisterRequest};
use std::os::unix::net::UnixListener;
use std::time::Instant;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};
use vfio_sim_node::Node;
use vfio_sim_node::kubelet::PodResourcesMode;

#[tokio::test]
async fn kubelet_without_answers_is_reported() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    // It has no pods and no checkpoint yet, which is no fault.
    let (code, findings) = examine(&node);
    assert_eq!((code, findings.len()), (1, 1), "serve alone is missing: {findings:#?}");
    kubelet.set_pod_resources_mode(PodResourcesMode::Hang);
    let began = Instant::now();
    let (code, findings) = examine(&node);
    assert_eq!(code, 2);
    has(&findings, "broken pod resources: assignments are unknown", "no held device becomes Unhealthy");
    assert!(began.elapsed() < PATIENCE);
    kubelet.set_pod_resources_mode(PodResourcesMode::RateLimited);
    let serve = Serve::start(&node, &[]);
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 8).await;
    kubelet.admit("vm-1", H100, 1).await.unwrap();
    let (code, findings) = examine(&node);
    assert_eq!(code, 1, "the checkpoint names them: {findings:#?}");
    has(&findings, "warning pod resources: cannot be listed", "checkpoint only");
    has(&findings, "rejected by rate limit", "");
    kubelet.set_pod_resources_mode(PodResourcesMode::Normal);
    let checkpoint = format!("var/lib/kubelet/device-plugins/{}", kubelet_api::CHECKPOINT);
    node.write(&checkpoint, "{\"Data\":{\"PodDeviceEntries\":[{").unwrap();
    let (code, findings) = examine(&node);
    assert_eq!(code, 1, "{findings:#?}");
    has(&findings, "is not a checkpoint that this version understands", "init containers");
    drop(serve);
    kubelet.stop();
    let (_, findings) = examine(&node);
    has(&findings, "kubelet.sock: the kubelet does not answer", "start it");
}

#[tokio::test]
async fn garbage_instead_of_pod_resources_is_reported() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    // A gRPC server without this service.
    let registration = node.kubelet_dir().join(kubelet_api::KUBELET_SOCKET);
    std::fs::remove_file(node.pod_resources_socket()).unwrap();
    std::os::unix::fs::symlink(registration, node.pod_resources_socket()).unwrap();
    let (code, findings) = examine(&node);
    assert_eq!(code, 2);
    has(&findings, "broken kubelet: is too old: ", "1.26");
    std::fs::remove_file(node.pod_resources_socket()).unwrap();
    let listener = UnixListener::bind(node.pod_resources_socket()).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = std::io::Write::write_all(&mut stream.unwrap(), b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let (code, findings) = examine(&node);
    assert_eq!(code, 2);
    has(&findings, "broken pod resources: assignments are unknown", "--pod-resources");
    drop(kubelet);
}

/// A kubelet before 1.26 as a plugin sees it: it accepts registrations, and its first call to the plugin
/// fails because it sends a socket path as HTTP/2 authority.
struct OldKubelet;

#[tonic::async_trait]
impl Registration for OldKubelet {
    async fn register(&self, _: Request<RegisterRequest>) -> Result<Response<Empty>, Status> {
        Ok(Response::new(Empty {}))
    }
}

#[test]
fn kubelet_that_never_opens_a_stream_is_too_old() {
    let node = Node::with_eight_gpus().unwrap();
    let listener = UnixListener::bind(node.kubelet_dir().join(kubelet_api::KUBELET_SOCKET)).unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = UnixListenerStream::new(tokio::net::UnixListener::from_std(listener).unwrap());
            let server = tonic::transport::Server::builder().add_service(RegistrationServer::new(OldKubelet));
            server.serve_with_incoming(listener).await
        })
    });
    let serve = Serve::start(&node, &[]);
    let finding = "broken kubelet: accepted the registration of nvidia.com/2330";
    assert_eq!(wait_for_finding(&node, finding, "1.26"), 2);
    wait_for_finding(&node, "in a row and never opened a stream", "1.26");
    let (_, _, log) = serve.terminate();
    assert!(log.contains("is it older than 1.26?"), "{log}");
}
