//! Health beyond occupancy: nodes that go, devices that fall off the bus, fatal errors, and nobody who is woken.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail loudly")]

mod common;

use common::{
    H100, PATIENCE, Serve, assigned_pod, device, expect, health, kubelet, offered, run, wait_for_pod,
};
use std::time::Instant;
use vfio_sim_node::kubelet::AdmitError;
use vfio_sim_node::{Function, Kubelet, Node, Opens, VmSpec};

const GPU: &str = "0000:1b:00.0";
const OTHER: &str = "0000:3d:00.0";
const THIRD: &str = "0000:4e:00.0";
const LOST: &str = "does not answer: its configuration space reads all ones";
const OFTEN: [&str; 2] = ["--checks-interval", "100ms"];

async fn with(checks: &str) -> (Node, Kubelet, Serve) {
    offered(&[OFTEN[0], OFTEN[1], "--checks", checks]).await
}

fn opens(node: &Node, address: &str, file: &str) -> Opens {
    Opens::of(&node.sysfs_dir(address).join(file)).unwrap()
}

/// Until it was looked at that often.
async fn looked(opens: &Opens, times: u64) {
    let until = opens.count() + times;
    let deadline = Instant::now() + PATIENCE;
    while opens.count() < until {
        assert!(Instant::now() < deadline, "looked at {} times", opens.count());
        tokio::time::sleep(std::time::Duration::from_millis(10)).await;
    }
}

async fn told(kubelet: &Kubelet, address: &str, healthy: bool) {
    let what = format!("{address} healthy: {healthy}");
    expect(kubelet, &what, |books| health(books, H100, address) == Some(healthy)).await;
}

async fn is_owned(node: &Node, kubelet: &Kubelet, address: &str) {
    kubelet.admit_with("vm-1", H100, vec![address.to_owned()]).await.unwrap();
    wait_for_pod(node, address, "default/vm-1").await;
}

#[tokio::test]
async fn a_lost_device_is_unhealthy_says_so_everywhere_and_comes_back() {
    let (node, kubelet, serve) = offered(&OFTEN).await;
    node.set_lost(GPU, true).unwrap();
    told(&kubelet, GPU, false).await;
    assert_eq!(kubelet.capacity(H100).allocatable, 7);
    assert_eq!(device(&node, GPU)["reason"], LOST);
    let (_, table, _) = run(&node, &["list"]);
    assert!(table.lines().any(|line| line.starts_with(GPU) && line.ends_with(LOST)), "{table}");
    let (code, findings, _) = run(&node, &["doctor"]);
    assert!(code == 1 && findings.contains(&format!("{GPU}: {LOST}")), "{code} {findings}");
    let opens = node.opens(51);
    let refused = kubelet.admit_with("vm", H100, vec![GPU.to_owned()]).await.unwrap_err();
    assert_eq!(node.opens(51), opens, "there is nothing to ask");
    let AdmitError::Refused(status) = refused else { panic!("{refused}") };
    assert_eq!(status.code(), tonic::Code::FailedPrecondition);
    let expected = format!("{GPU}: {LOST}: reset its slot or reseat it; dmesg may say when it was lost");
    assert_eq!(status.message(), expected);
    node.set_lost(GPU, false).unwrap();
    told(&kubelet, GPU, true).await;
    let (_, findings, _) = run(&node, &["doctor"]);
    assert!(!findings.contains(LOST), "{findings}");
    let (_, _, log) = serve.terminate();
    let changes = log.lines().filter(|line| line.contains(" health ") && line.contains(GPU));
    assert_eq!(changes.count(), 2, "{log}");
}

#[tokio::test]
async fn a_lost_device_is_unhealthy_though_a_pod_owns_it_and_the_policy_is_not_blamed() {
    let (node, kubelet, _serve) = offered(&OFTEN).await;
    is_owned(&node, &kubelet, GPU).await;
    let pod = kubelet.state().pods[0].uid.clone();
    let _vm = node.start_vm(&VmSpec::of_pod(&pod, &[GPU.to_owned()])).unwrap();
    node.set_lost(GPU, true).unwrap();
    told(&kubelet, GPU, false).await;
    assert_eq!(assigned_pod(&device(&node, GPU)).as_deref(), Some("default/vm-1"));
    let (_, findings, _) = run(&node, &["doctor"]);
    assert!(findings.contains(LOST) && !findings.contains("Its policy is"), "{findings}");
    assert!(
        findings.contains("assigned to pod default/vm-1: until that pod ends, allocatable - requested"),
        "{findings}"
    );
    node.set_lost(GPU, false).unwrap();
    told(&kubelet, GPU, true).await;
}

#[tokio::test]
async fn over_our_restart_a_lost_device_is_never_healthy() {
    let (node, kubelet, serve) = offered(&OFTEN).await;
    node.set_lost(GPU, true).unwrap();
    told(&kubelet, GPU, false).await;
    drop(serve);
    let registers = opens(&node, GPU, "config");
    let serve = Serve::start(&node, &OFTEN);
    looked(&registers, 4).await;
    let (_, _, log) = serve.terminate();
    let changes: Vec<_> = log.lines().filter(|line| line.contains("health") && line.contains(GPU)).collect();
    assert!(changes.len() == 1 && changes[0].contains("old=\"new\" new=\"Unhealthy\""), "{log}");
}

#[tokio::test]
async fn a_virtual_function_is_not_judged_by_its_ids() {
    const VIRTUAL: &str = "0000:f1:00.4";
    let node = Node::with_eight_gpus().unwrap();
    node.add(Function::new("0000:f1:00.0", 90)).unwrap();
    node.add(Function { physfn: Some("0000:f1:00.0".to_owned()), ..Function::gpu(VIRTUAL, 91, 0) }).unwrap();
    let config = std::fs::read(node.sysfs_dir(VIRTUAL).join("config")).unwrap();
    assert_eq!(config[..4], [0xff; 4]);
    let registers = opens(&node, VIRTUAL, "config");
    let kubelet = kubelet(&node).await;
    let serve = Serve::start(&node, &OFTEN);
    looked(&registers, 5).await;
    assert_eq!(health(&kubelet.state(), H100, VIRTUAL), Some(true));
    node.set_lost(VIRTUAL, true).unwrap();
    told(&kubelet, VIRTUAL, false).await;
    let (_, _, log) = serve.terminate();
    assert_eq!(log.lines().filter(|line| line.contains(LOST)).count(), 1, "{log}");
}

#[tokio::test]
async fn nobody_is_woken() {
    let node = Node::with_eight_gpus().unwrap();
    node.set_power_state(GPU, "D3cold").unwrap();
    node.set_power_state(OTHER, "unknown").unwrap();
    for address in [GPU, OTHER] {
        node.set_lost(address, true).unwrap();
    }
    let [cold, unknown, awake] = [GPU, OTHER, THIRD].map(|address| opens(&node, address, "config"));
    let kubelet = kubelet(&node).await;
    let _serve = Serve::start(&node, &OFTEN);
    looked(&awake, 5).await;
    // Nor is the bridge above, which a read would resume.
    node.write("sys/devices/pci0000:00/power_state", "D3hot\n").unwrap();
    let state = opens(&node, THIRD, "power_state");
    looked(&state, 2).await;
    let before = awake.count();
    looked(&state, 5).await;
    assert_eq!((cold.count(), unknown.count(), awake.count()), (0, 0, before));
    assert_eq!(kubelet.capacity(H100).allocatable, 8);
    node.write("sys/devices/pci0000:00/power_state", "D0\n").unwrap();
    node.set_power_state(GPU, "D0").unwrap();
    told(&kubelet, GPU, false).await;
    // What is lost may be: nobody else could tell that it is back.
    node.set_power_state(GPU, "D3cold").unwrap();
    let woken = cold.count();
    looked(&cold, 1).await;
    assert!(cold.count() > woken && health(&kubelet.state(), H100, GPU) == Some(false));
    // Not while somebody holds it: a guest may have put it to sleep.
    let vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while device(&node, GPU)["state"] != "held" {
        assert!(Instant::now() < deadline, "{}", device(&node, GPU));
    }
    looked(&opens(&node, GPU, "power_state"), 8).await;
    let woken = cold.count();
    looked(&opens(&node, GPU, "power_state"), 14).await;
    assert_eq!(cold.count(), woken);
    vm.kill();
    node.set_lost(GPU, false).unwrap();
    told(&kubelet, GPU, true).await;
    let woken = cold.count();
    looked(&opens(&node, GPU, "power_state"), 8).await;
    assert_eq!(cold.count(), woken, "and then no more");
    node.set_power_state(GPU, "D0").unwrap();
    node.set_lost(GPU, true).unwrap();
    told(&kubelet, GPU, false).await;
    node.set_power_state(GPU, "D3cold").unwrap();
    node.set_lost(GPU, false).unwrap();
    // Bound anew, nothing is held against it.
    node.unbind(GPU).unwrap();
    expect(&kubelet, "dropped", |books| health(books, H100, GPU).is_none()).await;
    node.bind(GPU, "vfio-pci").unwrap();
    told(&kubelet, GPU, true).await;
}

#[tokio::test]
async fn what_sleeps_is_asked_before_it_is_given_and_nothing_else_is() {
    let (node, kubelet, _serve) = offered(&OFTEN).await;
    // As the kernel says of one that was gone when its machine ended.
    for address in [GPU, OTHER] {
        node.set_power_state(address, "D3cold").unwrap();
    }
    node.set_lost(GPU, true).unwrap();
    let states = [GPU, OTHER].map(|address| opens(&node, address, "power_state"));
    looked(&states[1], 3).await;
    let [lost, asleep] = [GPU, OTHER].map(|address| opens(&node, address, "config"));
    assert_eq!(kubelet.capacity(H100).allocatable, 8);
    let refused = kubelet.admit_with("vm", H100, vec![GPU.to_owned()]).await.unwrap_err();
    let AdmitError::Refused(status) = refused else { panic!("{refused}") };
    assert_eq!(status.code(), tonic::Code::FailedPrecondition);
    assert!(status.message().starts_with(&format!("{GPU}: {LOST}")), "{}", status.message());
    // The list went out before the refusal.
    told(&kubelet, GPU, false).await;
    assert!(lost.count() > 0);
    assert_eq!(device(&node, GPU)["reason"], LOST);
    is_owned(&node, &kubelet, OTHER).await;
    assert_eq!(asleep.count(), 1, "woken by its Allocate alone");
    // And it comes back by itself.
    node.set_lost(GPU, false).unwrap();
    told(&kubelet, GPU, true).await;
}

#[tokio::test]
async fn fatal_errors_since_the_first_look_make_a_free_device_unhealthy_and_warn_of_a_pods() {
    let node = Node::with_eight_gpus().unwrap();
    for address in [GPU, OTHER] {
        node.set_fatal_errors(address, 3).unwrap();
    }
    let counter = opens(&node, GPU, "aer_dev_fatal");
    let registers = opens(&node, GPU, "config");
    let kubelet = kubelet(&node).await;
    let _serve = Serve::start(&node, &[OFTEN[0], OFTEN[1], "--checks", "aer"]);
    expect(&kubelet, "offered", |books| books.capacity(H100).allocatable == 8).await;
    is_owned(&node, &kubelet, OTHER).await;
    looked(&counter, 3).await;
    assert_eq!(health(&kubelet.state(), H100, GPU), Some(true), "what was before does not count");
    node.set_fatal_errors(OTHER, 4).unwrap();
    node.set_fatal_errors(GPU, 5).unwrap();
    told(&kubelet, GPU, false).await;
    assert_eq!(device(&node, GPU)["reason"], "2 new fatal PCIe errors (AER)");
    let owned = device(&node, OTHER);
    assert_eq!(
        (owned["health"].as_str(), assigned_pod(&owned).as_deref()),
        (Some("Healthy"), Some("default/vm-1"))
    );
    assert_eq!(owned["reason"], "1 new fatal PCIe error (AER)");
    let (_, findings, _) = run(&node, &["doctor", "--checks", "aer"]);
    assert!(findings.contains("had 5 fatal PCIe errors (AER) since the kernel found it"), "{findings}");
    assert_eq!(registers.count(), 0, "that is another check's");
    // Bound anew it begins anew.
    node.unbind(GPU).unwrap();
    expect(&kubelet, "dropped", |books| health(books, H100, GPU).is_none()).await;
    node.bind(GPU, "vfio-pci").unwrap();
    told(&kubelet, GPU, true).await;
}

#[tokio::test]
async fn a_node_that_goes_and_comes_back_is_told_if_that_is_asked_for() {
    for (checks, counts) in [("node", true), ("lost,aer", false)] {
        let (node, kubelet, serve) = with(checks).await;
        let registers = opens(&node, THIRD, "config");
        let path = node.root().join("dev/vfio/51");
        let real = std::fs::read_link(&path).unwrap();
        std::fs::remove_file(&path).unwrap();
        // Seen from elsewhere: it takes as long to be told.
        let vm = node.start_vm(&VmSpec::foreign(&[OTHER])).unwrap();
        told(&kubelet, OTHER, false).await;
        if counts {
            told(&kubelet, GPU, false).await;
            assert_eq!(device(&node, GPU)["reason"], "no device node /dev/vfio/51");
        }
        std::os::unix::fs::symlink(real, &path).unwrap();
        vm.kill();
        expect(&kubelet, "all back", |books| books.capacity(H100).allocatable == 8).await;
        let (_, _, log) = serve.terminate();
        assert_eq!(log.contains("no device node"), counts, "{log}");
        assert_eq!(registers.count() == 0, counts, "only the check for lost devices reads them");
    }
}

#[tokio::test]
async fn with_no_check_nothing_is_looked_at() {
    let node = Node::with_eight_gpus().unwrap();
    node.set_fatal_errors(GPU, 1).unwrap();
    node.set_lost(GPU, true).unwrap();
    let files = ["config", "power_state", "aer_dev_fatal"].map(|file| opens(&node, GPU, file));
    let kubelet = kubelet(&node).await;
    let _serve = Serve::start(&node, &[OFTEN[0], OFTEN[1], "--checks", "none"]);
    expect(&kubelet, "offered", |books| books.capacity(H100).allocatable == 8).await;
    for _ in 0..2 {
        let vm = node.start_vm(&VmSpec::foreign(&[OTHER])).unwrap();
        told(&kubelet, OTHER, false).await;
        vm.kill();
        told(&kubelet, OTHER, true).await;
    }
    let (_, findings, _) = run(&node, &["doctor", "--checks", "none"]);
    assert!(!findings.contains(LOST), "{findings}");
    assert_eq!(files.map(|file| file.count()), [0; 3]);
    assert_eq!(health(&kubelet.state(), H100, GPU), Some(true));
}
