//! Registrations and streams: a kubelet that comes late, restarts or loses a stream.

use crate::common::{
    H100, PATIENCE, Serve, expect, health, kubelet, offered, own_sockets, run, wait_for_pod, wait_for_problem,
};
use crate::{GPU, capacity};
use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use tokio_stream::StreamExt;
use vfio_sim_node::{Function, Node, VmSpec, mount_without_answers};

const SECOND: &str = "0000:3d:00.0";

#[tokio::test]
async fn kubelet_may_start_late_restart_and_stay_away() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = vfio_sim_node::Kubelet::stopped(&node.kubelet_dir(), &node.pod_resources_socket());
    std::fs::remove_dir_all(node.kubelet_dir()).unwrap();
    let serve = Serve::start(&node, &[]);
    tokio::time::sleep(Duration::from_millis(300)).await;
    let (code, _, reasons) = run(&node, &["ready"]);
    assert_eq!(code, 1);
    assert!(reasons.contains("not registered with the kubelet"), "{reasons}");
    kubelet.run().await.unwrap();
    expect(&kubelet, "a late start", |state| capacity(state) == (8, 8)).await;
    assert_eq!(run(&node, &["ready"]).0, 0);
    for keep_checkpoint in [true, false] {
        let before = kubelet.state().registrations_of(H100);
        kubelet.restart(keep_checkpoint).await.unwrap();
        expect(&kubelet, "a restart", |state| {
            state.registrations_of(H100) > before && capacity(state) == (8, 8)
        })
        .await;
    }
    kubelet.stop();
    tokio::time::sleep(Duration::from_secs(2)).await;
    kubelet.run().await.unwrap();
    expect(&kubelet, "a long absence", |state| capacity(state) == (8, 8)).await;
    let endpoints: Vec<String> =
        kubelet.state().registrations.iter().map(|registration| registration.endpoint.clone()).collect();
    let mut unique = endpoints.clone();
    unique.sort();
    unique.dedup();
    assert_eq!(unique.len(), endpoints.len(), "no socket name is used twice: {endpoints:?}");
    assert_eq!(own_sockets(&node), 1);
    let (_, _, log) = serve.terminate();
    assert!(log.contains("the kubelet's directory of device plugins is missing; waiting for it"), "{log}");
}

#[tokio::test]
async fn stop_while_no_kubelet_listens_ends_the_process() {
    let (node, kubelet, serve) = offered(&[]).await;
    // Its socket stays, and refuses connections.
    kubelet.stop();
    let problem = wait_for_problem(&node, "not_registered", true).remove(0);
    assert!(problem.text.contains("Connection refused"), "{problem:?}");
    let (code, _, log) = serve.terminate();
    assert_eq!(code, 0);
    let attempts = log.matches("cannot register with the kubelet").count();
    assert!(attempts < 20, "{attempts} attempts");
}

#[tokio::test]
async fn lost_stream_or_socket_is_registered_again() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let _serve = Serve::start(&node, &[]);
    expect(&kubelet, "eight", |state| capacity(state) == (8, 8)).await;
    kubelet.drop_stream(H100);
    expect(&kubelet, "a lost stream", |state| state.registrations_of(H100) == 2 && capacity(state) == (8, 8))
        .await;
    let endpoint = kubelet.state().resources[H100].endpoint.clone();
    std::fs::remove_file(node.kubelet_dir().join(endpoint)).unwrap();
    expect(&kubelet, "a lost socket", |state| state.registrations_of(H100) == 3 && capacity(state) == (8, 8))
        .await;
}

/// The checkpoint is stale before the devices are known: a pod has ended while no plugin ran, and the probe of a free group hangs.
#[tokio::test]
async fn stale_checkpoint_at_the_start_causes_no_empty_list() {
    // The node takes CAP_SYS_ADMIN from its thread, and a mount needs it.
    let node = std::thread::spawn(|| Node::with_eight_gpus().unwrap()).join().unwrap();
    let kubelet = kubelet(&node).await;
    let options = ["--kubelet-start", "100ms"];
    let serve = Serve::start(&node, &options);
    expect(&kubelet, "eight", |state| capacity(state) == (8, 8)).await;
    let ended = kubelet.admit_with("vm-1", H100, vec![GPU.to_owned()]).await.unwrap();
    // An empty list of pods would show nothing.
    kubelet.admit_with("vm-2", H100, vec![SECOND.to_owned()]).await.unwrap();
    wait_for_pod(&node, SECOND, "default/vm-2").await;
    serve.terminate();
    let checkpoint = node.kubelet_dir().join("kubelet_internal_checkpoint");
    let stale = std::fs::read(&checkpoint).unwrap();
    kubelet.remove(&ended.pod_uid);
    std::fs::write(&checkpoint, stale).unwrap();

    let hanging = Hanging::mount(node.root().join("hanging"));
    let Some(hanging) = hanging else { return };
    node.delete("dev/vfio/58").unwrap();
    std::os::unix::fs::symlink(hanging.at.join("58"), node.root().join("dev/vfio/58")).unwrap();
    let before = kubelet.state().registrations_of(H100);
    let serve = Serve::start(&node, &options);
    expect(&kubelet, "registered again", |state| {
        state.registrations_of(H100) > before && state.resources[H100].lists > 0
    })
    .await;
    let state = kubelet.state();
    let (_, _, log) = serve.terminate();
    assert_eq!(capacity(&state).0, 8, "{log}");
}

/// A directory in which every call hangs.
struct Hanging {
    at: PathBuf,
    server: Option<File>,
}

impl Hanging {
    /// Returns none for a user other than root.
    fn mount(at: PathBuf) -> Option<Self> {
        std::fs::create_dir(&at).unwrap();
        let server = mount_without_answers(&at).unwrap()?;
        Some(Self { at, server: Some(server) })
    }
}

impl Drop for Hanging {
    fn drop(&mut self) {
        // Calls that hang end with the server.
        drop(self.server.take());
        let _ = Command::new("umount").arg("--lazy").arg(&self.at).status();
    }
}

#[tokio::test]
async fn returning_resource_registers_after_its_old_stream() {
    const A100: &str = "nvidia.com/20b0";
    const ADDRESS: &str = "0000:f2:00.0";
    let node = Node::with_eight_gpus().unwrap();
    node.add(Function::gpu(ADDRESS, 91, 1).with_device(0x20b0)).unwrap();
    let kubelet = kubelet(&node).await;
    let _serve = Serve::start(&node, &["--interval", "50ms"]);
    expect(&kubelet, "offered", |state| health(state, A100, ADDRESS) == Some(true)).await;
    let socket = node.kubelet_dir().join(&kubelet.state().resources[A100].endpoint);
    let ended = stuck_stream(&socket);
    node.unbind(ADDRESS).unwrap();
    expect(&kubelet, "gone", |state| state.capacity(A100).capacity == 0).await;
    node.bind(ADDRESS, "vfio-pci").unwrap();
    expect(&kubelet, "back", |state| {
        state.registrations_of(A100) == 2 && health(state, A100, ADDRESS) == Some(true)
    })
    .await;
    let ended = ended.recv_timeout(PATIENCE).expect("the plugin closes a connection that does not end");
    let registered = kubelet.state().registrations.iter().rfind(|call| call.resource == A100).unwrap().at;
    // The thread that notes the end may be scheduled late.
    assert!(registered + Duration::from_millis(100) > ended, "{:?} too early", ended - registered);
}

/// Opens a ListAndWatch stream with an HTTP/2 window of 0 bytes, so that the plugin can send no list and the stream cannot end, and
/// acknowledges nothing. The receiver gets the time at which the plugin closes the connection.
fn stuck_stream(socket: &Path) -> Receiver<Instant> {
    let frame = |kind: u8, flags: u8, stream: u8, payload: &[u8]| {
        let mut frame = vec![0, 0, u8::try_from(payload.len()).unwrap(), kind, flags, 0, 0, 0, stream];
        frame.extend_from_slice(payload);
        frame
    };
    // Literal header fields whose names are in the static table of HPACK: :path, :authority, content-type.
    let field =
        |name: &[u8], value: &str| [name, &[u8::try_from(value.len()).unwrap()], value.as_bytes()].concat();
    let headers = [
        vec![0x83, 0x86],
        field(&[0x04], "/v1beta1.DevicePlugin/ListAndWatch"),
        field(&[0x01], "localhost"),
        field(&[0x0f, 0x10], "application/grpc"),
    ];
    let request = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]), // SETTINGS_INITIAL_WINDOW_SIZE = 0
        frame(1, 4, 1, &headers.concat()),
        frame(0, 1, 1, &[0; 5]), // An empty message.
    ];
    let mut stream = UnixStream::connect(socket).unwrap();
    stream.write_all(&request.concat()).unwrap();
    let mut head = [0; 9];
    while head[3] != 1 {
        stream.read_exact(&mut head).unwrap();
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        stream.read_exact(&mut vec![0; length as usize]).unwrap();
    }
    let (sender, ended) = channel();
    std::thread::spawn(move || {
        while stream.read(&mut [0; 1024]).is_ok_and(|length| length > 0) {}
        let _ = sender.send(Instant::now());
    });
    ended
}

#[tokio::test]
async fn every_stream_gets_every_change() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let _serve = Serve::start(&node, &[]);
    expect(&kubelet, "eight", |state| capacity(state) == (8, 8)).await;
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(kubelet.extra_stream(H100).await.unwrap());
    }
    drop(streams.pop());
    let _vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    for stream in &mut streams {
        let mut healthy = 8;
        while healthy != 7 {
            let list = tokio::time::timeout(PATIENCE, stream.next()).await.unwrap().unwrap().unwrap();
            healthy = list.devices.iter().filter(|device| device.health == "Healthy").count();
        }
    }
    assert_eq!(kubelet.state().registrations_of(H100), 1);
}

/// Waits until `ready` exits with this code. Returns what it prints.
async fn wait_for_ready(node: &Node, code: i32) -> String {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (exit, _, text) = run(node, &["ready"]);
        if exit == code && !text.contains("no serve answers") && !text.contains("first pass") {
            return text;
        }
        assert!(Instant::now() < deadline, "exits with {exit}, not with {code}: {text}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn ready_fails_while_devices_cannot_be_listed() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let (class, aside) = (node.root().join("sys/class/vfio-dev"), node.root().join("aside"));
    // Listing a file fails with ENOTDIR.
    let fail = || {
        std::fs::rename(&class, &aside).unwrap();
        std::fs::write(&class, "").unwrap();
    };
    let recover = || {
        std::fs::remove_file(&class).unwrap();
        std::fs::rename(&aside, &class).unwrap();
    };
    fail();
    let _serve = Serve::start(&node, &[]);
    let text = wait_for_ready(&node, 1).await;
    assert!(text.contains("cannot list the bound devices"), "{text}");
    recover();
    expect(&kubelet, "all", |state| state.capacity(H100).allocatable == 8).await;
    wait_for_ready(&node, 0).await;
    // The same devices after a failure are no other change.
    fail();
    let text = wait_for_ready(&node, 1).await;
    assert!(text.contains("cannot list the bound devices"), "{text}");
    assert_eq!(kubelet.state().capacity(H100).allocatable, 8, "the devices of the latest list stay");
    recover();
    wait_for_ready(&node, 0).await;
}
