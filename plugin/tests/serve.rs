//! `serve` on a simulated node, with a simulated kubelet over real sockets.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail loudly")]

mod common;

use common::{H100, PATIENCE, Serve, expect, health, kubelet, list, own_sockets, run};
use std::io::{Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};
use tokio_stream::StreamExt;
use vfio_sim_node::kubelet::{AdmitError, KubeletState};
use vfio_sim_node::{Function, Hold, Node, VmSpec};

const GPU: &str = "0000:1b:00.0";
const OTHER: &str = "0000:3d:00.0";

fn capacity(state: &KubeletState) -> (usize, usize) {
    let capacity = state.capacity(H100);
    (capacity.capacity, capacity.allocatable)
}

#[tokio::test]
async fn held_device_is_listed_as_unhealthy_until_freed() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    let serve = Serve::start(&node, &[]);
    expect(&kubelet, "held at start", |state| capacity(state) == (8, 7)).await;
    assert_eq!(health(&kubelet.state(), H100, GPU), Some(false));
    assert_eq!(health(&kubelet.state(), H100, OTHER), Some(true));
    let device = list(&node).into_iter().find(|device| device["address"] == GPU).unwrap();
    assert_eq!(device["state"], "held");
    assert_eq!(device["health"], "Unhealthy");
    assert_eq!(device["holders"][0]["pid"], vm.pid());
    assert!(device["reason"].as_str().unwrap().contains(&format!("held by pid {}", vm.pid())), "{device}");
    vm.kill();
    expect(&kubelet, "freed", |state| capacity(state) == (8, 8)).await;
    let vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    expect(&kubelet, "held again", |state| capacity(state) == (8, 7)).await;
    drop(vm);
    expect(&kubelet, "freed again", |state| capacity(state) == (8, 8)).await;
    let (code, took, log) = serve.terminate();
    assert_eq!(code, 0);
    assert!(took < Duration::from_secs(1), "{took:?}");
    assert_eq!(own_sockets(&node), 0);
    let changes: Vec<_> =
        log.lines().filter(|line| line.contains("device became ") && line.contains(GPU)).collect();
    assert_eq!(changes.len(), 4, "each change of health is logged once: {changes:#?}");
    assert!(
        changes[2].contains("became unhealthy") && changes[2].contains("reason=\"held\""),
        "{changes:#?}"
    );
}

#[tokio::test]
async fn holder_of_a_group_only_is_found_and_its_end_too() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let vm = node.start_vm(&VmSpec { hold: Hold::GroupOnly, ..VmSpec::foreign(&[GPU]) }).unwrap();
    let _serve = Serve::start(&node, &[]);
    expect(&kubelet, "held", |state| capacity(state) == (8, 7)).await;
    vm.kill();
    expect(&kubelet, "freed", |state| capacity(state) == (8, 8)).await;
}

#[tokio::test]
async fn advertised_held_device_is_healthy_and_refused() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    let _serve = Serve::start(&node, &["--busy", "advertise"]);
    expect(&kubelet, "all healthy", |state| capacity(state) == (8, 8)).await;
    let refused = kubelet.admit_with("vm", H100, vec![GPU.to_owned()]).await.unwrap_err();
    let AdmitError::Refused(status) = refused else { panic!("{refused}") };
    assert_eq!(status.code(), tonic::Code::FailedPrecondition);
    let expected = format!("{GPU} (group 51) is held by pid {} (qemu-system-x86)", vm.pid());
    assert_eq!(status.message(), expected);
}

#[tokio::test]
async fn devices_and_models_come_and_go_without_a_restart() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let _serve = Serve::start(&node, &[]);
    expect(&kubelet, "eight", |state| capacity(state) == (8, 8)).await;
    node.add(Function::gpu("0000:f1:00.0", 90, -1)).unwrap();
    expect(&kubelet, "one bound late", |state| capacity(state) == (9, 9)).await;
    let state = kubelet.state();
    let late = state.resources[H100].devices.iter().find(|device| device.id == "0000:f1:00.0").unwrap();
    assert_eq!(late.topology, None, "-1 is no NUMA node, not node 0");
    let numa_nodes = |id: &str| {
        let device = state.resources[H100].devices.iter().find(|device| device.id == id).unwrap();
        device.topology.as_ref().unwrap().nodes.iter().map(|node| node.id).collect::<Vec<_>>()
    };
    assert_eq!(
        (numa_nodes("0000:1b:00.0"), numa_nodes("0000:df:00.0")),
        (vec![0], vec![1]),
        "one hint for each"
    );
    node.add(Function::gpu("0000:f2:00.0", 91, 1).with_device(0x20b0)).unwrap();
    expect(&kubelet, "a new model", |state| health(state, "nvidia.com/20b0", "0000:f2:00.0") == Some(true))
        .await;
    node.unbind("0000:f2:00.0").unwrap();
    expect(&kubelet, "the model has gone", |state| state.capacity("nvidia.com/20b0").capacity == 0).await;
    let vm = node.start_vm(&VmSpec::foreign(&["0000:f1:00.0"])).unwrap();
    node.unbind("0000:f1:00.0").unwrap();
    expect(&kubelet, "unbinding", |state| capacity(state) == (9, 8)).await;
    vm.kill();
    expect(&kubelet, "unbound", |state| capacity(state) == (8, 8)).await;
}

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

#[tokio::test]
async fn responses_are_exact_and_bad_requests_are_refused() {
    let node = Node::with_eight_gpus().unwrap();
    node.add(Function::gpu("0000:f2:00.0", 91, 1).with_device(0x20b0)).unwrap();
    let kubelet = kubelet(&node).await;
    let _serve = Serve::start(&node, &[]);
    expect(&kubelet, "all", |state| capacity(state) == (8, 8)).await;
    let ids = |ids: &[&str]| ids.iter().map(|&id| id.to_owned()).collect::<Vec<_>>();
    let response = kubelet.allocate(H100, &[&ids(&[GPU, OTHER]), &ids(&["0000:4e:00.0"])]).await.unwrap();
    let paths =
        |index: usize| response[index].devices.iter().map(|spec| spec.host_path.as_str()).collect::<Vec<_>>();
    assert_eq!(response[0].envs["PCI_RESOURCE_NVIDIA_COM_2330"], format!("{GPU},{OTHER}"));
    assert_eq!(paths(0), ["/dev/vfio/vfio", "/dev/vfio/51", "/dev/vfio/52"]);
    assert_eq!(response[1].envs["PCI_RESOURCE_NVIDIA_COM_2330"], "0000:4e:00.0");
    assert_eq!(paths(1), ["/dev/vfio/vfio", "/dev/vfio/53"]);
    for (id, expected) in [
        ("0000:ff:00.0", "0000:ff:00.0: nvidia.com/2330 has no such device"),
        ("0000:f2:00.0", "0000:f2:00.0: nvidia.com/2330 has no such device"),
        ("", "has no such device"),
    ] {
        let status = kubelet.allocate(H100, &[&ids(&[id])]).await.unwrap_err();
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        assert!(status.message().contains(expected), "{}", status.message());
    }
    let chosen = kubelet.preferred(H100, &ids(&[GPU, "0000:9b:00.0", "0000:bd:00.0"]), &[], 2).await.unwrap();
    assert_eq!(chosen, ["0000:9b:00.0", "0000:bd:00.0"], "both on one NUMA node");
}

#[tokio::test]
async fn unreadable_device_costs_no_other_device() {
    let node = Node::with_eight_gpus().unwrap();
    for (path, content) in [
        (format!("sys/devices/pci0000:00/{GPU}/uevent"), &b""[..]),
        (format!("sys/devices/pci0000:00/{OTHER}/numa_node"), b"\xff\xfe garbage"),
        ("sys/class/vfio-dev/vfio99".into(), b"not a link"),
        ("sys/class/vfio-dev/garbage".into(), b""),
        ("dev/vfio/garbage".into(), b""),
        ("sys/kernel/iommu_groups/54/devices/garbage".into(), b""),
    ] {
        node.write(&path, content).unwrap();
    }
    let kubelet = kubelet(&node).await;
    let serve = Serve::start(&node, &[]);
    expect(&kubelet, "six of eight", |state| capacity(state) == (6, 6)).await;
    let _vm = node.start_vm(&VmSpec::foreign(&["0000:9b:00.0"])).unwrap();
    expect(&kubelet, "one held", |state| capacity(state) == (6, 5)).await;
    let (_, _, log) = serve.terminate();
    assert!(log.contains(&format!("{GPU}: uevent")) && log.contains(&format!("{OTHER}: numa_node")), "{log}");
}

#[tokio::test]
async fn device_that_was_free_longest_is_preferred() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let _serve = Serve::start(&node, &[]);
    expect(&kubelet, "all", |state| capacity(state) == (8, 8)).await;
    let ids = [GPU.to_owned(), OTHER.to_owned()];
    assert_eq!(kubelet.preferred(H100, &ids, &[], 1).await.unwrap(), [GPU], "the first of equals");
    let vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    expect(&kubelet, "held", |state| capacity(state) != (8, 8)).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    vm.kill();
    expect(&kubelet, "freed", |state| capacity(state) == (8, 8)).await;
    assert_eq!(kubelet.preferred(H100, &ids, &[], 1).await.unwrap(), [OTHER]);
}
