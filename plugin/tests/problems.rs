//! What `serve` cannot repair by itself is in its status, in `list` and in `doctor`, until it has ended.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail loudly")]

mod common;

use common::{
    H100, PATIENCE, Problem, Serve, after_shell, expect, kubelet, problems, program, run, wait_for_problem,
    write_pools,
};
use rustix::fs::{CWD, FileType, Mode, mknodat};
use rustix::process::{Pid, Resource, Rlimit, prlimit};
use std::fs;
use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};
use vfio_sim_node::kubelet::PodResourcesMode;
use vfio_sim_node::{Kubelet, Node, VmSpec};

const GPU: &str = "0000:1b:00.0";

async fn offered(node: &Node, words: &[&str]) -> (Kubelet, Serve) {
    let kubelet = kubelet(node).await;
    let mut all = vec!["serve", "--assignments-interval", "200ms"];
    all.extend(words);
    let serve = Serve(program(node, &all).stdin(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 8).await;
    (kubelet, serve)
}

/// Returns what the status socket answers.
fn status(node: &Node) -> String {
    let mut text = String::new();
    UnixStream::connect(node.run_dir().join("status.sock")).unwrap().read_to_string(&mut text).unwrap();
    text
}

/// Checks that `list` has a line about a problem on standard error, and `doctor` a warning with advice.
#[track_caller]
fn is_everywhere(node: &Node, problem: &Problem) {
    let (code, _, errors) = run(node, &["list"]);
    let line = format!("problem of serve: {}: {}", problem.about, problem.text);
    assert!(code == 0 && errors.contains(&line), "{line}: {errors}");
    let (code, out, _) = run(node, &["doctor"]);
    assert!(code > 0 && out.contains(&format!(" {}: ", problem.about)), "{problem:?}: {code}: {out}");
}

#[tokio::test]
async fn full_run_directory_is_reported_until_it_has_space() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    // A file that may not grow is as good as a full disk: write(2) fails, with EFBIG instead of ENOSPC.
    let program = program(&node, &["serve"]);
    let mut program = after_shell("trap '' XFSZ; ulimit -f 0", &program);
    let serve = Serve(program.stderr(Stdio::null()).spawn().unwrap());
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 8).await;
    let found = wait_for_problem(&node, "state_file_not_written", true);
    assert!(found[0].text.contains("cannot be written: File too large"), "{found:?}");
    is_everywhere(&node, &found[0]);
    let leftovers = fs::read_dir(node.run_dir()).unwrap().flatten();
    let is_leftover = |name: &str| !name.ends_with(".sock") && name != "serve.lock";
    assert_eq!(leftovers.filter(|entry| is_leftover(&entry.file_name().to_string_lossy())).count(), 0);
    let unlimited = Rlimit { current: None, maximum: None };
    if prlimit(Some(Pid::from_child(&serve.0)), Resource::Fsize, unlimited).is_err() {
        return; // Needs CAP_SYS_RESOURCE.
    }
    let _vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    wait_for_problem(&node, "state_file_not_written", false);
    assert!(node.run_dir().join("health.json").exists() && node.run_dir().join("assignments.json").exists());
}

#[tokio::test]
async fn checkpoint_that_is_not_understood_is_not_a_missing_one() {
    type Write<'a> = &'a dyn Fn(&Path);
    let node = Node::with_eight_gpus().unwrap();
    let (kubelet, _serve) = offered(&node, &[]).await;
    let vm = kubelet.admit("vm-1", H100, 1).await.unwrap();
    let path = node.kubelet_dir().join(kubelet_api::CHECKPOINT);
    let valid = fs::read(&path).unwrap();
    let half = &valid[..valid.len() / 2];
    let cases: [(&str, &str, Write<'_>); 6] = [
        ("checkpoint_malformed", "the file is empty", &|new| fs::write(new, "").unwrap()),
        ("checkpoint_malformed", "not a checkpoint", &|new| fs::write(new, half).unwrap()),
        ("checkpoint_malformed", "not a checkpoint", &|new| fs::write(new, "null").unwrap()),
        ("checkpoint_too_large", "16 MiB", &|new| fs::File::create(new).unwrap().set_len(1 << 40).unwrap()),
        ("checkpoint_unreadable", "not a regular file", &|new| {
            mknodat(CWD, new, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        }),
        ("checkpoint_unreadable", "not a regular file", &|new| {
            std::os::unix::fs::symlink("/dev/zero", new).unwrap();
        }),
    ];
    let new = node.root().join("new");
    for (code, text, write) in cases {
        write(&new);
        fs::rename(&new, &path).unwrap();
        let found = wait_for_problem(&node, code, true);
        assert!(found.len() == 1 && found[0].text.contains(text), "{found:?}");
        assert_eq!(found[0].about, path.display().to_string());
        is_everywhere(&node, &found[0]);
        fs::write(&new, &valid).unwrap();
        fs::rename(&new, &path).unwrap();
        wait_for_problem(&node, code, false);
    }
    fs::remove_file(&path).unwrap();
    let deadline = Instant::now() + Duration::from_secs(1);
    while Instant::now() < deadline {
        assert_eq!(problems(&node), [], "a missing checkpoint is no problem");
    }
    kubelet.remove(&vm.pod_uid);
}

#[tokio::test]
async fn outage_of_pod_resources_is_reported_until_it_ends() {
    let node = Node::with_eight_gpus().unwrap();
    let (kubelet, _serve) = offered(&node, &[]).await;
    let _pod = kubelet.admit("vm-1", H100, 1).await.unwrap();
    kubelet.set_pod_resources_mode(PodResourcesMode::RateLimited);
    let found = wait_for_problem(&node, "pod_resources_unavailable", true);
    assert!(found[0].text.contains("pods cannot be listed"), "{found:?}");
    fs::remove_file(node.kubelet_dir().join(kubelet_api::CHECKPOINT)).unwrap();
    wait_for_problem(&node, "assignments_unknown", true);
    wait_for_problem(&node, "pod_resources_unavailable", false);
    kubelet.set_pod_resources_mode(PodResourcesMode::Normal);
    wait_for_problem(&node, "assignments_unknown", false);
}

#[tokio::test]
async fn rejected_pools_and_unreadable_pci_ids_are_reported() {
    let node = Node::with_eight_gpus().unwrap();
    let pools = write_pools(&node, "pools: [{select: [{vendor: 10de}]}]");
    let ids = node.root().join("pci.ids");
    let (kubelet, _serve) = offered(&node, &["--pools", &pools, "--pci-ids", ids.to_str().unwrap()]).await;
    let found = wait_for_problem(&node, "pci_ids_unreadable", true);
    assert_eq!(found[0].about, ids.display().to_string());
    is_everywhere(&node, &found[0]);
    fs::write(&ids, "10de  NVIDIA Corporation\n").unwrap();
    wait_for_problem(&node, "pci_ids_unreadable", false);
    for text in ["pools: 3", "pools: [{select: [{vendor: 10de}], cdi: perhaps}]"] {
        write_pools(&node, text);
        let found = wait_for_problem(&node, "pools_rejected", true);
        assert!(found[0].text.contains("line 1"), "{found:?}");
    }
    fs::remove_file(&pools).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while !problems(&node).iter().any(|problem| problem.text.contains("No such file")) {
        assert!(Instant::now() < deadline, "{:?}", problems(&node));
    }
    write_pools(&node, "pools: [{select: [{vendor: 10de}]}]");
    wait_for_problem(&node, "pools_rejected", false);
    assert_eq!(kubelet.state().capacity(H100).allocatable, 8, "the former pools stayed in use");
}

#[tokio::test]
async fn missing_kubelet_and_unreadable_devices_are_reported() {
    let node = Node::with_eight_gpus().unwrap();
    let (kubelet, _serve) = offered(&node, &[]).await;
    let record = format!("sys/devices/pci0000:00/{GPU}/uevent");
    let content = fs::read(node.root().join(&record)).unwrap();
    node.write(&record, "").unwrap();
    let class = node.root().join("sys/class/vfio-dev");
    let aside = node.root().join("aside");
    fs::rename(&class, &aside).unwrap();
    fs::write(&class, "").unwrap();
    // Without a list of devices, `list` fails itself.
    let deadline = Instant::now() + PATIENCE;
    while !status(&node).contains("devices_not_listed") {
        assert!(Instant::now() < deadline, "{}", status(&node));
    }
    fs::remove_file(&class).unwrap();
    fs::rename(&aside, &class).unwrap();
    wait_for_problem(&node, "devices_not_listed", false);
    node.write(&record, content).unwrap();
    wait_for_problem(&node, "device_unreadable", false);
    kubelet.stop();
    fs::remove_dir_all(node.kubelet_dir()).unwrap();
    wait_for_problem(&node, "kubelet_dir_missing", true);
    fs::create_dir_all(node.kubelet_dir()).unwrap();
    wait_for_problem(&node, "kubelet_dir_missing", false);
    kubelet.run().await.unwrap();
    expect(&kubelet, "back", |state| state.capacity(H100).allocatable == 8).await;
}

#[tokio::test]
async fn low_limit_of_descriptors_is_reported() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let program = program(&node, &["serve"]);
    let mut program = after_shell("ulimit -n 100", &program);
    let _serve = Serve(program.stderr(Stdio::null()).spawn().unwrap());
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 8).await;
    let found = wait_for_problem(&node, "descriptor_limit", true);
    assert!(found[0].text.contains("100 files"), "{found:?}");
    is_everywhere(&node, &found[0]);
}

#[tokio::test]
async fn healthy_node_has_no_problems() {
    let node = Node::with_eight_gpus().unwrap();
    let (kubelet, _serve) = offered(&node, &[]).await;
    let _pod = kubelet.admit("vm-1", H100, 1).await.unwrap();
    assert_eq!(problems(&node), []);
    let listing = || {
        let (_, out, errors) = run(&node, &["list", "--json"]);
        (serde_json::from_str::<serde_json::Value>(&out).unwrap(), errors)
    };
    // The first poll of the kubelet takes a moment.
    let deadline = Instant::now() + PATIENCE;
    while listing().0["assignments_known"] != true && Instant::now() < deadline {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let (list, errors) = listing();
    assert_eq!(list["problems"], serde_json::json!([]), "{list}");
    assert!(!errors.contains("problem"), "{errors}");
}

#[tokio::test]
async fn faults_of_the_pools_that_only_devices_show_are_reported() {
    let node = Node::with_eight_gpus().unwrap();
    let text = "pools:\n- {select: [{vendor: 10de}], alias: {abcd: NEVER}}\n- {resource: a.b/c, select: [{device: 2330}]}\n";
    let pools = write_pools(&node, text);
    let (_kubelet, _serve) = offered(&node, &["--pools", &pools]).await;
    for (code, text) in [("pools_overlap", "both select it"), ("alias_unused", "matches no device")] {
        let found = wait_for_problem(&node, code, true);
        assert!(found.len() == 1 && found[0].text.contains(text), "{found:?}");
        is_everywhere(&node, &found[0]);
    }
    write_pools(&node, "pools: [{select: [{vendor: 10de}]}]");
    wait_for_problem(&node, "pools_overlap", false);
    wait_for_problem(&node, "alias_unused", false);
}
