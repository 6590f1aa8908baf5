//! The peak memory of the program with the largest inputs that it accepts: at most 64 MiB, whatever they contain.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail loudly")]

#[path = "../common/mod.rs"]
mod common;
mod inputs;

use common::{Serve, expect, program};
use kubelet_api::podresources::pod_resources_lister_server::{PodResourcesLister, PodResourcesListerServer};
use kubelet_api::podresources::{
    AllocatableResourcesRequest, AllocatableResourcesResponse, GetPodResourcesRequest,
    GetPodResourcesResponse, ListPodResourcesRequest, ListPodResourcesResponse,
};
use std::fs;
use std::io::{Read, Write};
use std::os::unix::net::UnixListener;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};
use vfio_sim_node::{Kubelet, Node};

/// The limit for a process, in KiB.
const LIMIT: u64 = 64 << 10;

/// Returns the peak of a process's resident memory in KiB (`VmHWM`, proc_pid_status(5)).
fn peak(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    line.trim().trim_end_matches(" kB").parse().unwrap()
}

fn assert_bounded(pid: u32, input: &str) {
    let peak = peak(pid);
    println!("peak of {} MiB with {input}", peak >> 10);
    assert!(peak <= LIMIT, "{peak} KiB with {input}");
}

/// A kubelet that lists the same pods at every call.
struct Pods {
    list: Arc<ListPodResourcesResponse>,
    calls: Arc<AtomicU32>,
}

#[tonic::async_trait]
impl PodResourcesLister for Pods {
    async fn list(
        &self,
        _: Request<ListPodResourcesRequest>,
    ) -> Result<Response<ListPodResourcesResponse>, Status> {
        self.calls.fetch_add(1, Ordering::SeqCst);
        Ok(Response::new(ListPodResourcesResponse::clone(&self.list)))
    }

    async fn get_allocatable_resources(
        &self,
        _: Request<AllocatableResourcesRequest>,
    ) -> Result<Response<AllocatableResourcesResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn get(
        &self,
        _: Request<GetPodResourcesRequest>,
    ) -> Result<Response<GetPodResourcesResponse>, Status> {
        Err(Status::unimplemented(""))
    }
}

/// Serves `list` at the node's pod resources socket, and a kubelet beside it. Returns the number of calls so far.
async fn kubelet_with_pods(node: &Node, list: ListPodResourcesResponse) -> (Kubelet, Arc<AtomicU32>) {
    let other = node.root().join("other.sock");
    let kubelet = Kubelet::start(&node.kubelet_dir(), &other).await.unwrap();
    let calls = Arc::new(AtomicU32::new(0));
    let service = Pods { list: Arc::new(list), calls: Arc::clone(&calls) };
    let listener = tokio::net::UnixListener::bind(node.pod_resources_socket()).unwrap();
    let server = tonic::transport::Server::builder()
        .add_service(PodResourcesListerServer::new(service).max_encoding_message_size(64 << 20));
    tokio::spawn(server.serve_with_incoming(UnixListenerStream::new(listener)));
    (kubelet, calls)
}

/// The first list waits for the first poll, which reads the checkpoint.
async fn wait_for_first_poll(kubelet: &Kubelet) {
    expect(kubelet, "first list", |state| state.capacity(common::H100).allocatable > 0).await;
}

#[tokio::test]
async fn serve_is_bounded_with_any_checkpoint() {
    for (name, text) in inputs::checkpoints() {
        let node = Node::with_eight_gpus().unwrap();
        let kubelet = common::kubelet(&node).await;
        fs::write(node.kubelet_dir().join(kubelet_api::CHECKPOINT), text).unwrap();
        let serve = Serve::start(&node, &[]);
        wait_for_first_poll(&kubelet).await;
        assert_bounded(serve.0.id(), name);
    }
}

#[tokio::test]
async fn doctor_is_bounded_with_the_largest_checkpoints() {
    for (name, text) in inputs::checkpoints().into_iter().rev().take(3) {
        let node = Node::with_eight_gpus().unwrap();
        fs::write(node.kubelet_dir().join(kubelet_api::CHECKPOINT), text).unwrap();
        assert_output_is_bounded(&node, "doctor", name);
    }
}

/// Runs a command to its end. Its peak is read between its output and its end, which waits for a full pipe.
fn assert_output_is_bounded(node: &Node, command: &str, input: &str) {
    // The peak of a child that has ended is in getrusage(RUSAGE_CHILDREN) only, as the maximum over all children.
    let mut child = program(node, &[command]);
    let child = child.stdout(Stdio::piped()).stderr(Stdio::null());
    let script = "exec \"$@\" >/dev/null 2>&1";
    let words: Vec<_> = std::iter::once(child.get_program()).chain(child.get_args()).collect();
    let mut time = std::process::Command::new("python3");
    let measure = "import os,resource,sys; pid = os.spawnvp(os.P_NOWAIT, sys.argv[1], sys.argv[1:]); os.wait(); \
                   print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)";
    let output = time.args(["-c", measure, "sh", "-c", script, "sh"]).args(words).output().unwrap();
    let peak: u64 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    println!("peak of {} MiB of {command} with {input}", peak >> 10);
    assert!(peak <= LIMIT, "{peak} KiB of {command} with {input}");
}

#[tokio::test]
async fn serve_is_bounded_with_any_allocate() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = common::kubelet(&node).await;
    let serve = Serve::start(&node, &[]);
    wait_for_first_poll(&kubelet).await;
    let code =
        async |containers: &[&[String]]| kubelet.allocate(common::H100, containers).await.unwrap_err().code();
    assert_eq!(code(&vec![&[][..]; 400_000]).await, tonic::Code::InvalidArgument);
    assert_eq!(code(&vec![&[][..]; 2 << 20]).await, tonic::Code::OutOfRange);
    assert_eq!(code(&[&vec![String::new(); 500_000]]).await, tonic::Code::InvalidArgument);
    assert_eq!(code(&[&["x".repeat(3 << 20)]]).await, tonic::Code::OutOfRange);
    assert_bounded(serve.0.id(), "any Allocate");
    let granted = kubelet.allocate(common::H100, &[&["0000:1b:00.0".to_owned()]]).await;
    assert!(granted.is_ok(), "it goes on: {granted:?}");
}

#[tokio::test]
async fn serve_is_bounded_with_any_pod_list() {
    for (name, list) in inputs::pod_lists() {
        let node = Node::with_eight_gpus().unwrap();
        let (kubelet, calls) = kubelet_with_pods(&node, list).await;
        let serve = Serve::start(&node, &[]);
        wait_for_first_poll(&kubelet).await;
        // While something is allocated, the kubelet is polled again. A later poll begins when the earlier one was taken in.
        kubelet.allocate(common::H100, &[&["0000:1b:00.0".to_owned()]]).await.unwrap();
        while calls.load(Ordering::SeqCst) < 3 {
            tokio::time::sleep(common::INTERVAL).await;
        }
        assert_bounded(serve.0.id(), name);
    }
}

#[tokio::test]
async fn serve_is_bounded_with_both_sources_at_their_limits() {
    let node = Node::with_eight_gpus().unwrap();
    let (text, list) = inputs::both_at_their_limits();
    let (kubelet, calls) = kubelet_with_pods(&node, list).await;
    let path = node.kubelet_dir().join(kubelet_api::CHECKPOINT);
    fs::write(&path, &text).unwrap();
    let serve = Serve::start(&node, &[]);
    wait_for_first_poll(&kubelet).await;
    // The kubelet's own checkpoint replaced the first one.
    fs::write(&path, &text).unwrap();
    let before = calls.load(Ordering::SeqCst);
    while calls.load(Ordering::SeqCst) < before + 3 {
        tokio::time::sleep(common::INTERVAL).await;
    }
    assert_bounded(serve.0.id(), "both sources at their limits");
}

#[tokio::test]
async fn serve_is_bounded_with_any_state_file() {
    for (name, text) in inputs::state_files() {
        for file in ["assignments.json", "health.json", "cdi.json", "types.json"] {
            let node = Node::with_eight_gpus().unwrap();
            let kubelet = common::kubelet(&node).await;
            fs::create_dir_all(node.run_dir()).unwrap();
            fs::write(node.run_dir().join(file), &text).unwrap();
            let serve = Serve::start(&node, &[]);
            wait_for_first_poll(&kubelet).await;
            assert_bounded(serve.0.id(), &format!("{name} as {file}"));
        }
    }
}

#[tokio::test]
async fn serve_is_bounded_with_any_pools_file() {
    for (name, text) in inputs::pools_files() {
        let node = Node::with_eight_gpus().unwrap();
        let kubelet = common::kubelet(&node).await;
        let pools = common::write_pools(&node, "pools: [{select: [{}]}]\n");
        let mut serve = Serve::start(&node, &["--pools", &pools]);
        wait_for_first_poll(&kubelet).await;
        common::write_pools(&node, &text);
        // The former pools stay in use, or the new ones are taken over: one of the two is logged.
        let mut log = std::io::BufReader::new(serve.0.stderr.take().unwrap());
        let mut line = String::new();
        while !line.contains("pools") || line.contains("registered") {
            line.clear();
            assert_ne!(std::io::BufRead::read_line(&mut log, &mut line).unwrap(), 0, "the log ended");
        }
        assert_bounded(serve.0.id(), name);
    }
}

#[tokio::test]
async fn serve_is_bounded_with_any_pci_ids() {
    for (name, text) in inputs::pci_ids() {
        let node = Node::with_eight_gpus().unwrap();
        let kubelet = common::kubelet(&node).await;
        let path = node.root().join("pci.ids");
        fs::write(&path, text).unwrap();
        let serve = Serve::start(&node, &["--pci-ids", path.to_str().unwrap()]);
        wait_for_first_poll(&kubelet).await;
        assert_bounded(serve.0.id(), name);
    }
}

#[tokio::test]
async fn clients_are_bounded_with_any_answer_of_the_status_socket() {
    for (name, text) in inputs::answers() {
        for command in ["list", "ready", "doctor"] {
            let node = Node::with_eight_gpus().unwrap();
            fs::create_dir_all(node.run_dir()).unwrap();
            let listener = UnixListener::bind(node.run_dir().join("status.sock")).unwrap();
            let text = text.clone();
            std::thread::spawn(move || {
                while let Ok((mut stream, _)) = listener.accept() {
                    let _ = stream.write_all(&text);
                    let _ = stream.shutdown(std::net::Shutdown::Write);
                    let _ = stream.read(&mut [0]);
                }
            });
            assert_output_is_bounded(&node, command, name);
        }
    }
}
