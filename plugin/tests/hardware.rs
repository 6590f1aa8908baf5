//! Checks of devices beyond occupancy: missing device nodes, lost devices and fatal PCIe errors; and that
//! they wake no device.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail loudly")]

mod common;

use common::{
    H100, PATIENCE, Serve, assigned_pod, device, expect, health, kubelet, offered, run, wait_for_pod,
};
use std::time::Instant;
use vfio_sim_node::kubelet::AdmitError;
use vfio_sim_node::{Function, Kubelet, Node, Reads, VmSpec};

const GPU: &str = "0000:1b:00.0";
const OTHER: &str = "0000:3d:00.0";
const THIRD: &str = "0000:4e:00.0";
const LOST: &str = "does not answer: its configuration space reads all ones";
const FAST_CHECKS: [&str; 2] = ["--checks-interval", "100ms"];

/// Starts eight offered GPUs with these `--checks`.
async fn offered_with(checks: &str) -> (Node, Kubelet, Serve) {
    offered(&[FAST_CHECKS[0], FAST_CHECKS[1], "--checks", checks]).await
}

/// Returns the counter of the reads of a file in a device's sysfs directory.
fn count_reads(node: &Node, address: &str, file: &str) -> Reads {
    Reads::of(&node.sysfs_dir(address).join(file)).unwrap()
}

/// Waits until a file has been read so many times more.
async fn wait_for_reads(reads: &Reads, times: u64) {
    let until = reads.count() + times;
    let deadline = Instant::now() + PATIENCE;
    while reads.count() < until {
        assert!(Instant::now() < deadline, "read {} times", reads.count());
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

/// Waits until the kubelet has received this health of a device.
async fn wait_for_health(kubelet: &Kubelet, address: &str, healthy: bool) {
    let what = format!("{address} healthy: {healthy}");
    expect(kubelet, &what, |state| health(state, H100, address) == Some(healthy)).await;
}

/// Assigns a device to the pod default/vm-1.
async fn assign(node: &Node, kubelet: &Kubelet, address: &str) {
    kubelet.admit_with("vm-1", H100, vec![address.to_owned()]).await.unwrap();
    wait_for_pod(node, address, "default/vm-1").await;
}

#[tokio::test]
async fn lost_device_is_unhealthy_and_named_until_it_returns() {
    let (node, kubelet, serve) = offered(&FAST_CHECKS).await;
    node.set_lost(GPU, true).unwrap();
    wait_for_health(&kubelet, GPU, false).await;
    assert_eq!(kubelet.capacity(H100).allocatable, 7);
    assert_eq!(device(&node, GPU)["reason"], LOST);
    let (_, table, _) = run(&node, &["list"]);
    assert!(table.lines().any(|line| line.starts_with(GPU) && line.ends_with(LOST)), "{table}");
    let (code, findings, _) = run(&node, &["doctor"]);
    assert!(code == 1 && findings.contains(&format!("{GPU}: {LOST}")), "{code} {findings}");
    let opens = node.opens(51);
    let refused = kubelet.admit_with("vm", H100, vec![GPU.to_owned()]).await.unwrap_err();
    assert_eq!(node.opens(51), opens, "a lost device is not probed");
    let AdmitError::Refused(status) = refused else { panic!("{refused}") };
    assert_eq!(status.code(), tonic::Code::FailedPrecondition);
    let expected = format!("{GPU}: {LOST}: reset its slot or reseat it; dmesg may say when it was lost");
    assert_eq!(status.message(), expected);
    node.set_lost(GPU, false).unwrap();
    wait_for_health(&kubelet, GPU, true).await;
    let (_, findings, _) = run(&node, &["doctor"]);
    assert!(!findings.contains(LOST), "{findings}");
    let (_, _, log) = serve.terminate();
    let changes = log.lines().filter(|line| line.contains("device became ") && line.contains(GPU));
    assert_eq!(changes.count(), 2, "{log}");
}

#[tokio::test]
async fn lost_assigned_device_is_unhealthy_and_not_by_the_policy() {
    let (node, kubelet, _serve) = offered(&FAST_CHECKS).await;
    assign(&node, &kubelet, GPU).await;
    let pod = kubelet.state().pods[0].uid.clone();
    let _vm = node.start_vm(&VmSpec::of_pod(&pod, &[GPU.to_owned()])).unwrap();
    node.set_lost(GPU, true).unwrap();
    wait_for_health(&kubelet, GPU, false).await;
    assert_eq!(assigned_pod(&device(&node, GPU)).as_deref(), Some("default/vm-1"));
    let (_, findings, _) = run(&node, &["doctor"]);
    assert!(findings.contains(LOST) && !findings.contains("Its policy is"), "{findings}");
    assert!(
        findings.contains("assigned to pod default/vm-1: until that pod ends, allocatable - requested"),
        "{findings}"
    );
    node.set_lost(GPU, false).unwrap();
    wait_for_health(&kubelet, GPU, true).await;
}

#[tokio::test]
async fn lost_device_is_never_healthy_over_a_restart() {
    let (node, kubelet, serve) = offered(&FAST_CHECKS).await;
    node.set_lost(GPU, true).unwrap();
    wait_for_health(&kubelet, GPU, false).await;
    drop(serve);
    let registers = count_reads(&node, GPU, "config");
    let serve = Serve::start(&node, &FAST_CHECKS);
    wait_for_reads(&registers, 4).await;
    let (_, _, log) = serve.terminate();
    let changes: Vec<_> = log.lines().filter(|line| line.contains("health") && line.contains(GPU)).collect();
    assert!(changes.len() == 1 && changes[0].contains("discovered an unhealthy device"), "{log}");
}

#[tokio::test]
async fn virtual_function_is_not_lost_because_of_its_ids() {
    const VIRTUAL: &str = "0000:f1:00.4";
    let node = Node::with_eight_gpus().unwrap();
    node.add(Function::new("0000:f1:00.0", 90)).unwrap();
    node.add(Function { physfn: Some("0000:f1:00.0".to_owned()), ..Function::gpu(VIRTUAL, 91, 0) }).unwrap();
    let config = std::fs::read(node.sysfs_dir(VIRTUAL).join("config")).unwrap();
    assert_eq!(config[..4], [0xff; 4]);
    let registers = count_reads(&node, VIRTUAL, "config");
    let kubelet = kubelet(&node).await;
    let serve = Serve::start(&node, &FAST_CHECKS);
    wait_for_reads(&registers, 5).await;
    assert_eq!(health(&kubelet.state(), H100, VIRTUAL), Some(true));
    node.set_lost(VIRTUAL, true).unwrap();
    wait_for_health(&kubelet, VIRTUAL, false).await;
    let (_, _, log) = serve.terminate();
    assert_eq!(log.lines().filter(|line| line.contains(LOST)).count(), 1, "{log}");
}

#[tokio::test]
async fn checks_wake_no_device_except_a_lost_free_one() {
    let node = Node::with_eight_gpus().unwrap();
    // The functions are below a bridge, and not on a root bus.
    node.write("sys/devices/pci0000:00/power_state", "D0\n").unwrap();
    node.set_power_state(GPU, "D3cold").unwrap();
    node.set_power_state(OTHER, "unknown").unwrap();
    for address in [GPU, OTHER] {
        node.set_lost(address, true).unwrap();
    }
    let [cold, unknown, awake] = [GPU, OTHER, THIRD].map(|address| count_reads(&node, address, "config"));
    let kubelet = kubelet(&node).await;
    let _serve = Serve::start(&node, &FAST_CHECKS);
    wait_for_reads(&awake, 5).await;
    // The checks do not wake the bridge above either: a read of the device would resume it.
    node.write("sys/devices/pci0000:00/power_state", "D3hot\n").unwrap();
    let power_state = count_reads(&node, THIRD, "power_state");
    wait_for_reads(&power_state, 2).await;
    let before = awake.count();
    wait_for_reads(&power_state, 5).await;
    assert_eq!((cold.count(), unknown.count(), awake.count()), (0, 0, before));
    assert_eq!(kubelet.capacity(H100).allocatable, 8);
    node.write("sys/devices/pci0000:00/power_state", "D0\n").unwrap();
    node.set_power_state(GPU, "D0").unwrap();
    wait_for_health(&kubelet, GPU, false).await;
    // A lost device may be woken: only a read of its registers shows that it is back.
    node.set_power_state(GPU, "D3cold").unwrap();
    let reads = cold.count();
    wait_for_reads(&cold, 1).await;
    assert!(cold.count() > reads && health(&kubelet.state(), H100, GPU) == Some(false));
    // A held device is not woken, because its VM may have put it to sleep.
    let vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while device(&node, GPU)["state"] != "held" {
        assert!(Instant::now() < deadline, "{}", device(&node, GPU));
    }
    wait_for_reads(&count_reads(&node, GPU, "power_state"), 8).await;
    let reads = cold.count();
    wait_for_reads(&count_reads(&node, GPU, "power_state"), 14).await;
    assert_eq!(cold.count(), reads);
    vm.kill();
    node.set_lost(GPU, false).unwrap();
    wait_for_health(&kubelet, GPU, true).await;
    let reads = cold.count();
    wait_for_reads(&count_reads(&node, GPU, "power_state"), 8).await;
    assert_eq!(cold.count(), reads, "a device that is back is not woken");
    node.set_power_state(GPU, "D0").unwrap();
    node.set_lost(GPU, true).unwrap();
    wait_for_health(&kubelet, GPU, false).await;
    node.set_power_state(GPU, "D3cold").unwrap();
    node.set_lost(GPU, false).unwrap();
    // A device that is bound again starts without its former fault.
    node.unbind(GPU).unwrap();
    expect(&kubelet, "dropped", |state| health(state, H100, GPU).is_none()).await;
    node.bind(GPU, "vfio-pci").unwrap();
    wait_for_health(&kubelet, GPU, true).await;
}

#[tokio::test]
async fn sleeping_device_is_woken_and_checked_by_its_allocate_only() {
    let (node, kubelet, _serve) = offered(&FAST_CHECKS).await;
    // The state that the kernel shows of a device that was gone when its VM ended.
    for address in [GPU, OTHER] {
        node.set_power_state(address, "D3cold").unwrap();
    }
    node.set_lost(GPU, true).unwrap();
    let states = [GPU, OTHER].map(|address| count_reads(&node, address, "power_state"));
    wait_for_reads(&states[1], 3).await;
    let [lost, asleep] = [GPU, OTHER].map(|address| count_reads(&node, address, "config"));
    assert_eq!(kubelet.capacity(H100).allocatable, 8);
    let refused = kubelet.admit_with("vm", H100, vec![GPU.to_owned()]).await.unwrap_err();
    let AdmitError::Refused(status) = refused else { panic!("{refused}") };
    assert_eq!(status.code(), tonic::Code::FailedPrecondition);
    assert!(status.message().starts_with(&format!("{GPU}: {LOST}")), "{}", status.message());
    // The list was sent before the refusal.
    wait_for_health(&kubelet, GPU, false).await;
    assert!(lost.count() > 0);
    assert_eq!(device(&node, GPU)["reason"], LOST);
    assign(&node, &kubelet, OTHER).await;
    assert_eq!(asleep.count(), 1, "only its Allocate reads its registers");
    // It becomes Healthy again without an Allocate.
    node.set_lost(GPU, false).unwrap();
    wait_for_health(&kubelet, GPU, true).await;
}

#[tokio::test]
async fn new_fatal_errors_are_unhealthy_or_a_warning_if_assigned() {
    let node = Node::with_eight_gpus().unwrap();
    for address in [GPU, OTHER] {
        node.set_fatal_errors(address, 3).unwrap();
    }
    let counter = count_reads(&node, GPU, "aer_dev_fatal");
    let registers = count_reads(&node, GPU, "config");
    let kubelet = kubelet(&node).await;
    let _serve = Serve::start(&node, &[FAST_CHECKS[0], FAST_CHECKS[1], "--checks", "aer"]);
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 8).await;
    assign(&node, &kubelet, OTHER).await;
    wait_for_reads(&counter, 3).await;
    assert_eq!(health(&kubelet.state(), H100, GPU), Some(true), "errors from before the start do not count");
    node.set_fatal_errors(OTHER, 4).unwrap();
    node.set_fatal_errors(GPU, 5).unwrap();
    wait_for_health(&kubelet, GPU, false).await;
    assert_eq!(device(&node, GPU)["reason"], "2 new fatal PCIe errors (AER)");
    let assigned = device(&node, OTHER);
    assert_eq!(
        (assigned["health"].as_str(), assigned_pod(&assigned).as_deref()),
        (Some("Healthy"), Some("default/vm-1"))
    );
    assert_eq!(assigned["reason"], "1 new fatal PCIe error (AER)");
    let (_, findings, _) = run(&node, &["doctor", "--checks", "aer"]);
    assert!(findings.contains("had 5 fatal PCIe errors (AER) since the kernel found it"), "{findings}");
    assert_eq!(registers.count(), 0, "only the check for lost devices reads the registers");
    // A device that is bound again counts its errors from zero.
    node.unbind(GPU).unwrap();
    expect(&kubelet, "dropped", |state| health(state, H100, GPU).is_none()).await;
    node.bind(GPU, "vfio-pci").unwrap();
    wait_for_health(&kubelet, GPU, true).await;
}

#[tokio::test]
async fn missing_device_node_is_reported_only_by_its_check() {
    for (checks, counts) in [("node", true), ("lost,aer", false)] {
        let (node, kubelet, serve) = offered_with(checks).await;
        let registers = count_reads(&node, THIRD, "config");
        let path = node.root().join("dev/vfio/51");
        let real = std::fs::read_link(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        // A held device takes as long to be reported as a missing node.
        let vm = node.start_vm(&VmSpec::foreign(&[OTHER])).unwrap();
        wait_for_health(&kubelet, OTHER, false).await;
        if counts {
            wait_for_health(&kubelet, GPU, false).await;
            assert_eq!(device(&node, GPU)["reason"], "no device node /dev/vfio/51");
        }
        std::os::unix::fs::symlink(real, &path).unwrap();
        vm.kill();
        expect(&kubelet, "all back", |state| state.capacity(H100).allocatable == 8).await;
        let (_, _, log) = serve.terminate();
        assert_eq!(log.contains("no device node"), counts, "{log}");
        assert_eq!(registers.count() == 0, counts, "only the check for lost devices reads the registers");
    }
}

#[tokio::test]
async fn without_checks_no_hardware_file_is_read() {
    let node = Node::with_eight_gpus().unwrap();
    node.set_fatal_errors(GPU, 1).unwrap();
    node.set_lost(GPU, true).unwrap();
    let files = ["config", "power_state", "aer_dev_fatal"].map(|file| count_reads(&node, GPU, file));
    let kubelet = kubelet(&node).await;
    let _serve = Serve::start(&node, &[FAST_CHECKS[0], FAST_CHECKS[1], "--checks", "none"]);
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 8).await;
    for _ in 0..2 {
        let vm = node.start_vm(&VmSpec::foreign(&[OTHER])).unwrap();
        wait_for_health(&kubelet, OTHER, false).await;
        vm.kill();
        wait_for_health(&kubelet, OTHER, true).await;
    }
    let (_, findings, _) = run(&node, &["doctor", "--checks", "none"]);
    assert!(!findings.contains(LOST), "{findings}");
    assert_eq!(files.map(|file| file.count()), [0; 3]);
    assert_eq!(health(&kubelet.state(), H100, GPU), Some(true));
}
