//! Clients and neighbours that do not behave: idle clients, stopped processes, sockets of other programs, no descriptors.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail loudly")]

mod common;

use common::{H100, PATIENCE, Serve, expect, kubelet, offered, program, run, wait_for_problem};
use rustix::process::{Pid, Resource, Rlimit, Signal, kill_process, prlimit};
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use tokio::net::UnixSocket;
use vfio_sim_node::Node;

fn signal(serve: &Serve, signal: Signal) {
    kill_process(Pid::from_child(&serve.0), signal).unwrap();
}

/// Connects until no further connection fits.
async fn fill(path: &Path) -> Vec<tokio::net::UnixStream> {
    let mut waiting = Vec::new();
    while let Ok(stream) = UnixSocket::new_stream().unwrap().connect(path).await {
        waiting.push(stream);
    }
    waiting
}

/// Waits until `ready` exits with 0.
fn wait_until_ready(node: &Node) {
    let deadline = Instant::now() + PATIENCE;
    while run(node, &["ready"]).0 != 0 {
        assert!(Instant::now() < deadline, "{}", run(node, &["ready"]).2);
    }
}

#[tokio::test]
async fn stopped_predecessor_keeps_lock_and_sockets_until_it_ends() {
    let (node, kubelet, mut first) = offered(&[]).await;
    let endpoint = node.kubelet_dir().join(&kubelet.state().resources[H100].endpoint);
    signal(&first, Signal::STOP);
    // A blocking connect to either socket waits without end now.
    let waiting = (fill(&endpoint).await, fill(&node.run_dir().join("status.sock")).await);
    assert!(waiting.0.len() > 1 && waiting.1.len() > 1);
    let second = Serve::start(&node, &[]);
    // Longer than the two checks of a socket. It may answer Allocates when it is continued.
    tokio::time::sleep(Duration::from_millis(1500)).await;
    assert!(endpoint.exists() && kubelet.state().registrations_of(H100) == 1);
    first.0.kill().unwrap();
    first.0.wait().unwrap();
    drop(waiting);
    expect(&kubelet, "the second registers", |state| state.registrations_of(H100) == 2).await;
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 8).await;
    let (code, _, log) = second.terminate();
    assert!(code == 0 && log.contains("waiting for the process that serves"), "{code}: {log}");
}

#[tokio::test]
async fn sockets_of_a_killed_predecessor_are_removed_and_no_others() {
    let (node, kubelet, mut first) = offered(&[]).await;
    let endpoint = node.kubelet_dir().join(&kubelet.state().resources[H100].endpoint);
    first.0.kill().unwrap();
    first.0.wait().unwrap();
    assert!(endpoint.exists());
    let path = |name: &str| node.kubelet_dir().join(name);
    drop(UnixListener::bind(path("nvidia-1a-2b.sock")).unwrap());
    drop(UnixListener::bind(path("vfio-manager.sock")).unwrap());
    let _datagrams = UnixDatagram::bind(path("vfio-1a-2b.sock")).unwrap();
    let _listener = UnixListener::bind(path("vfio-3c-4d.sock")).unwrap();
    fs::write(path("vfio-5e-6f.sock"), "precious").unwrap();
    let _second = Serve::start(&node, &[]);
    let deadline = Instant::now() + PATIENCE;
    while endpoint.exists() {
        assert!(Instant::now() < deadline, "the stale socket stays");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    wait_until_ready(&node);
    for name in
        ["nvidia-1a-2b.sock", "vfio-manager.sock", "vfio-1a-2b.sock", "vfio-3c-4d.sock", "vfio-5e-6f.sock"]
    {
        assert!(path(name).exists(), "{name}");
    }
}

#[tokio::test]
async fn idle_status_clients_keep_no_other_waiting() {
    let (node, _kubelet, serve) = offered(&[]).await;
    wait_until_ready(&node);
    let idle: Vec<UnixStream> =
        (0..200).map(|_| UnixStream::connect(node.run_dir().join("status.sock")).unwrap()).collect();
    assert_eq!(run(&node, &["ready"]), (0, String::new(), String::new()));
    // Each has got its answer, or was disconnected for another one: none has a descriptor of serve for long.
    let descriptors = || fs::read_dir(format!("/proc/{}/fd", serve.0.id())).unwrap().count();
    let deadline = Instant::now() + PATIENCE;
    while descriptors() > 100 {
        assert!(Instant::now() < deadline, "{} descriptors", descriptors());
    }
    drop(idle);
    assert_eq!(serve.terminate().0, 0);
}

#[tokio::test]
async fn idle_plugin_clients_do_not_keep_the_kubelet_waiting() {
    let (node, kubelet, serve) = offered(&[]).await;
    let socket = node.kubelet_dir().join(&kubelet.state().resources[H100].endpoint);
    let idle: Vec<UnixStream> = (0..40).map(|_| UnixStream::connect(&socket).unwrap()).collect();
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(kubelet.extra_stream(H100).await.unwrap());
    }
    kubelet.restart(true).await.unwrap();
    expect(&kubelet, "registered again", |state| {
        state.registrations_of(H100) > 1 && state.capacity(H100).allocatable == 8
    })
    .await;
    drop((idle, streams));
    let (code, took, _) = serve.terminate();
    assert!(code == 0 && took < Duration::from_secs(1), "{code}, {took:?}");
}

#[tokio::test]
async fn clients_that_answer_pings_do_not_starve_allocate() {
    let (node, kubelet, serve) = offered(&[]).await;
    let socket = node.kubelet_dir().join(&kubelet.state().resources[H100].endpoint);
    let endpoint = || tonic::transport::Endpoint::from_shared(format!("unix:{}", socket.display())).unwrap();
    let mut idle = Vec::new();
    for number in 0..130 {
        // Each begins HTTP/2, pings and answers pings, and calls nothing.
        let pinging =
            endpoint().http2_keep_alive_interval(Duration::from_secs(1)).keep_alive_while_idle(true);
        idle.push(tokio::time::timeout(PATIENCE, pinging.connect()).await.unwrap().unwrap());
        if number % 26 == 25 {
            let pod = kubelet.admit(&format!("vm-{number}"), H100, 1).await.unwrap();
            let channel = endpoint().connect().await.unwrap();
            let call = kubelet_api::v1beta1::device_plugin_client::DevicePluginClient::new(channel)
                .get_device_plugin_options(kubelet_api::v1beta1::Empty {})
                .await;
            assert!(call.unwrap().into_inner().pre_start_required, "a new client gets an answer");
            kubelet.remove(&pod.pod_uid);
        }
    }
    assert_eq!(kubelet.state().registrations_of(H100), 1, "the kubelet's connection was never closed");
    let descriptors = fs::read_dir(format!("/proc/{}/fd", serve.0.id())).unwrap().count();
    assert!(descriptors < 130, "{descriptors}");
    drop(idle);
    assert_eq!(serve.terminate().0, 0);
}

#[tokio::test]
async fn both_sockets_recover_from_a_lack_of_descriptors() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let program = &mut program(&node, &["serve", "--interval", "1h"]);
    let serve = Serve(program.stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 8).await;
    wait_until_ready(&node);
    let limit = |current| {
        let limit = Rlimit { current: Some(current), maximum: Some(1024) };
        prlimit(Some(Pid::from_child(&serve.0)), Resource::Nofile, limit).unwrap();
    };
    let processor_time = || {
        let stat = fs::read_to_string(format!("/proc/{}/stat", serve.0.id())).unwrap();
        let fields = stat.rsplit_once(')').unwrap().1.split_whitespace().skip(11).take(2);
        Duration::from_millis(fields.map(|ticks| ticks.parse::<u64>().unwrap() * 10).sum())
    };
    limit(3);
    let socket = node.kubelet_dir().join(&kubelet.state().resources[H100].endpoint);
    let connect = |path: &Path| -> OwnedFd { UnixStream::connect(path).unwrap().into() };
    let clients = [connect(&node.run_dir().join("status.sock")), connect(&socket)];
    let before = processor_time();
    tokio::time::sleep(Duration::from_secs(2)).await;
    let used = processor_time() - before;
    assert!(used < Duration::from_millis(200), "{used:?} of processor time in two seconds");
    assert_eq!(run(&node, &["ready", "--live"]).0, 1);
    limit(1024);
    wait_until_ready(&node);
    wait_for_problem(&node, "accept_failed", false);
    drop(clients);
    // A new connection to the plugin's socket gets an answer too, and the kubelet's was never closed.
    let endpoint = tonic::transport::Endpoint::from_shared(format!("unix:{}", socket.display())).unwrap();
    let options =
        kubelet_api::v1beta1::device_plugin_client::DevicePluginClient::new(endpoint.connect_lazy())
            .get_device_plugin_options(kubelet_api::v1beta1::Empty {})
            .await;
    assert!(options.unwrap().into_inner().pre_start_required);
    kubelet.admit("vm-1", H100, 1).await.unwrap();
    assert_eq!(kubelet.state().registrations_of(H100), 1);
    // The socket's file is made again too.
    fs::remove_file(node.run_dir().join("status.sock")).unwrap();
    wait_until_ready(&node);
    assert_eq!(serve.terminate().0, 0);
}
