//! The commands that operators run, on a simulated node.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail loudly")]

mod common;

use common::{PATIENCE, Serve, list, program, run};
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};
use std::sync::mpsc;
use vfio_sim_node::{Function, Hold, Node, VmSpec};

const GPU: &str = "0000:1b:00.0";

/// Waits until the condition holds.
fn wait_for(condition: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + PATIENCE;
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "the condition did not come true");
    }
}

#[test]
fn list_prints_every_field() {
    let node = Node::with_eight_gpus().unwrap();
    let uid = "4b5a1c7e-5b0a-4a57-9d3a-0123456789ab";
    let vm = node.start_vm(&VmSpec::of_pod(uid, &[GPU.to_owned()])).unwrap();
    let devices = list(&node);
    assert_eq!(devices.len(), 8);
    let holder = &devices[0]["holders"][0];
    assert_eq!((holder["pid"].as_u64(), holder["pod_uid"].as_str()), (Some(u64::from(vm.pid())), Some(uid)));
    assert_eq!(holder["command"], "qemu-system-x86");
    assert_eq!(holder["container_id"].as_str().map(str::len), Some(64));
    let expected = serde_json::json!({
        "address": "0000:3d:00.0", "vendor": "10de", "device": "2330", "class": "030200", "driver": "vfio-pci",
        "iommu_group": 52, "numa_node": 0, "kind": "pci", "resource": "nvidia.com/2330",
        "offer": "device-plugin", "state": "free", "evidence": "enable", "viable": true, "assignment": null,
        "claim": null, "taint": null, "health": null, "reason": null, "holders": []
    });
    assert_eq!(devices[1], expected);
    assert_eq!(node.opens(52), 0, "list opens no device node");
    let (code, table, errors) = run(&node, &["list", "--probe"]);
    assert_eq!(code, 0);
    assert!(table.contains("0000:3d:00.0  52     0     nvidia.com/2330  free   open"), "{table}");
    assert!(errors.contains("no serve answers"), "{errors}");
    assert!(node.opens(52) > 0);
}

#[test]
fn list_counts_a_holder_that_serve_does_not_report() {
    let node = Node::with_eight_gpus().unwrap();
    let serve = Serve::start(&node, &[]);
    wait_for(|| list(&node).iter().all(|device| device["health"] == "Healthy"));
    // serve found the group free by a probe. It peeks once a second at most, and a peek does not see this holder.
    let vm = node.start_vm(&VmSpec { hold: Hold::GroupOnly, ..VmSpec::foreign(&[GPU]) }).unwrap();
    let listed = list(&node)[0].clone();
    assert_eq!(
        (&listed["state"], &listed["holders"][0]["pid"]),
        (&"held".into(), &vm.pid().into()),
        "{listed}"
    );
    assert!(listed["evidence"] == "holder" || listed["evidence"] == "open", "{listed}");
    let (code, out, _) = run(&node, &["doctor"]);
    assert!(code == 1 && out.contains(&format!("{GPU}: is held by pid {}", vm.pid())), "{out}");
    let opens = node.opens(52);
    list(&node);
    assert_eq!(node.opens(52), opens, "list opens no device node");
    drop(serve);
}

#[test]
fn every_member_that_makes_a_group_not_viable_is_named() {
    let node = Node::with_eight_gpus().unwrap();
    for (address, driver) in [("0000:1b:00.1", "snd_hda_intel"), ("0000:1b:00.2", "xhci_hcd")] {
        node.add(Function::new(address, 51).with_driver(Some(driver))).unwrap();
    }
    let offenders = "0000:1b:00.1 is bound to snd_hda_intel, 0000:1b:00.2 is bound to xhci_hcd";
    assert_eq!(list(&node)[0]["reason"], offenders);
    let _serve = Serve::start(&node, &[]);
    wait_for(|| list(&node)[0]["health"] == "Unhealthy");
    assert_eq!(list(&node)[0]["reason"], format!("group 51 is not viable: {offenders}"));
}

#[test]
fn wrong_usage_exits_64_and_names_the_fault() {
    for (words, expected) in [
        (&["--interval", "fast"][..], "50ms to 1h"),
        (&["--interval", "0"], "50ms to 1h"),
        (&["--frobnicate"], "--frobnicate"),
        (&["frobnicate"], "frobnicate"),
        (&["--select", "nvidia"], "no selector"),
        (&["--busy", "maybe"], "advertise"),
        (&["--interval", "nan"], "50ms to 1h"),
        (&["--interval", "inf"], "50ms to 1h"),
        (&["--interval=-1s"], "50ms to 1h"),
        (&["--interval="], "50ms to 1h"),
        (&["--interval", "99999999999999999999s"], "50ms to 1h"),
        (&["--columns", "0"], "expected a number of columns above 0"),
        (&["--columns", "abc"], "expected a number of columns above 0"),
        (&["--columns=-1"], "expected a number of columns above 0"),
    ] {
        let output =
            Command::new(env!("CARGO_BIN_EXE_vfio-device-plugin")).arg("list").args(words).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(64), "{words:?}: {text}");
        assert!(text.contains(expected), "{words:?}: {text}");
    }
}

#[test]
fn unreadable_root_is_named() {
    for command in ["list", "serve", "watch", "doctor"] {
        let mut program = Command::new(env!("CARGO_BIN_EXE_vfio-device-plugin"));
        let output = program.args([command, "--root", "/nowhere"]).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{command}: {text}");
        assert!(text.contains("/nowhere") && text.contains("No such file"), "{command}: {text}");
    }
    let empty = tempfile::tempdir().unwrap();
    let mut program = Command::new(env!("CARGO_BIN_EXE_vfio-device-plugin"));
    let output = program.args(["list", "--root"]).arg(empty.path()).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        String::from_utf8(output.stderr).unwrap().contains("must be the directory that holds the host's sys")
    );
}

#[test]
fn watch_prints_each_change() {
    let node = Node::with_eight_gpus().unwrap();
    let mut watch = program(&node, &["watch", "--json"]).stdout(Stdio::piped()).spawn().unwrap();
    let out = watch.stdout.take().unwrap();
    let (send, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in BufReader::new(out).lines().map_while(Result::ok) {
            let _ = send.send(serde_json::from_str::<Value>(&line).unwrap());
        }
    });
    let expect = |event: &str, device: &str| loop {
        let line = lines.recv_timeout(PATIENCE).unwrap_or_else(|_| panic!("no {event} {device}"));
        if line["event"] == event && line["device"] == device {
            break line;
        }
    };
    let is_ready = |line: &Value| line["event"] == "ready";
    let found: Vec<Value> =
        std::iter::from_fn(|| lines.recv_timeout(PATIENCE).ok()).take_while(|line| !is_ready(line)).collect();
    assert_eq!(found.len(), 16, "eight devices and their free groups: {found:?}");
    assert!(found.iter().any(|line| line["event"] == "freed" && line["device"] == GPU), "{found:?}");
    let vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    assert_eq!(expect("held", GPU)["holders"][0]["pid"], vm.pid());
    vm.kill();
    expect("freed", GPU);
    node.unbind(GPU).unwrap();
    expect("unbound", GPU);
    node.bind(GPU, "vfio-pci").unwrap();
    expect("bound", GPU);
    watch.kill().unwrap();
    watch.wait().unwrap();
}

#[test]
fn ready_fails_without_serve() {
    let node = Node::with_eight_gpus().unwrap();
    let (code, _, text) = run(&node, &["ready"]);
    assert_eq!(code, 1);
    assert!(text.contains("no serve answers"), "{text}");
}

#[test]
fn live_process_without_a_kubelet_is_not_ready() {
    let node = Node::with_eight_gpus().unwrap();
    let serve = Serve::start(&node, &[]);
    let deadline = std::time::Instant::now() + PATIENCE;
    while run(&node, &["ready", "--live"]).0 != 0 {
        assert!(std::time::Instant::now() < deadline, "serve does not answer");
    }
    let (code, _, text) = run(&node, &["ready"]);
    assert_eq!(code, 1, "{text}");
    // A stopped process accepts no connection, or does not answer.
    let pid = rustix::process::Pid::from_child(&serve.0);
    rustix::process::kill_process(pid, rustix::process::Signal::STOP).unwrap();
    for words in [&["ready"][..], &["ready", "--live"]] {
        let (code, _, text) = run(&node, words);
        assert_eq!(code, 1, "{words:?}: {text}");
    }
    rustix::process::kill_process(pid, rustix::process::Signal::CONT).unwrap();
    assert_eq!(run(&node, &["ready", "--live"]).0, 0);
}

#[test]
fn status_socket_returns_after_a_failure() {
    let node = Node::with_eight_gpus().unwrap();
    // The run directory cannot be created while a file has its name.
    std::fs::create_dir_all(node.run_dir().parent().unwrap()).unwrap();
    let _ = std::fs::remove_dir_all(node.run_dir());
    std::fs::write(node.run_dir(), "").unwrap();
    let _serve = Serve::start(&node, &[]);
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(run(&node, &["ready", "--live"]).0, 1);
    std::fs::remove_file(node.run_dir()).unwrap();
    let wait_for_answer = |what: &str| {
        let deadline = std::time::Instant::now() + PATIENCE;
        while UnixStream::connect(node.run_dir().join("status.sock")).is_err() {
            assert!(std::time::Instant::now() < deadline, "serve does not answer {what}");
        }
        assert_eq!(run(&node, &["ready", "--live"]).0, 0);
    };
    wait_for_answer("once the directory can be created");
    std::fs::remove_file(node.run_dir().join("status.sock")).unwrap();
    wait_for_answer("after its socket was removed");
}

#[test]
fn second_serve_that_cannot_register_leaves_the_first_alone() {
    let node = Node::with_eight_gpus().unwrap();
    let first = Serve::start(&node, &[]);
    let deadline = std::time::Instant::now() + PATIENCE;
    while !run(&node, &["ready"]).2.contains("not registered") {
        assert!(std::time::Instant::now() < deadline, "serve does not answer");
    }
    let second = Serve::start(&node, &[]);
    std::thread::sleep(std::time::Duration::from_millis(300));
    let (code, _, log) = second.terminate();
    assert_eq!(code, 0);
    assert!(log.contains("hand-over: the running process is ready"), "{log}");
    let report: Value = serde_json::from_str(&status(&node)).unwrap();
    assert_eq!((&report["pid"], &report["role"]), (&first.0.id().into(), &"active".into()));
}

/// Returns what the process that listens on the status socket answers.
fn status(node: &Node) -> String {
    let mut text = String::new();
    let mut stream = UnixStream::connect(node.run_dir().join("status.sock")).unwrap();
    stream.read_to_string(&mut text).unwrap();
    text
}

/// Returns standard errors to which nothing can be written: a full one, and one that its reader has closed.
fn unwritable() -> [(&'static str, OwnedFd); 2] {
    let full = File::options().write(true).open("/dev/full").unwrap();
    let (closed, _) = UnixStream::pair().unwrap();
    [("full", full.into()), ("closed", closed.into())]
}

#[test]
fn serve_goes_on_with_unwritable_stderr() {
    for (format, (kind, stderr)) in ["text", "json"].into_iter().zip(unwritable()) {
        let node = Node::with_eight_gpus().unwrap();
        let words = ["serve", "--busy", "unhealthy", "--log-format", format, "--log-level", "debug"];
        let serve = Serve(program(&node, &words).stderr(stderr).spawn().unwrap());
        let deadline = std::time::Instant::now() + PATIENCE;
        while run(&node, &["ready", "--live"]).0 != 0 {
            assert!(std::time::Instant::now() < deadline, "serve does not answer: {kind}");
        }
        let _vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
        while list(&node)[0]["health"] != "Unhealthy" {
            assert!(std::time::Instant::now() < deadline, "the change is not logged: {kind}");
        }
        let (code, _, _) = serve.terminate();
        assert_eq!(code, 0, "{kind}");
    }
}

/// Checks that each line is JSON.
fn all_json(log: &str) {
    for line in log.lines() {
        serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{line}: {error}"));
    }
}

#[test]
fn failed_serve_is_logged_once_and_exits_2() {
    for (words, expected) in [
        (&["--log-format", "json"][..], "\"message\":\"serve failed\""),
        (&["--log-format", "text"], "ERROR"),
        (&["--log-format", "json", "--log-level", "off"], "vfio-device-plugin: "),
    ] {
        let mut program = Command::new(env!("CARGO_BIN_EXE_vfio-device-plugin"));
        let output = program.args(["serve", "--root", "/nowhere"]).args(words).output().unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{words:?}: {text}");
        assert_eq!(text.matches("/nowhere").count(), 1, "{words:?}: {text}");
        assert!(text.contains(expected), "{words:?}: {text}");
        if words == ["--log-format", "json"] {
            all_json(&text);
        }
    }
    let node = Node::with_eight_gpus().unwrap();
    let file = common::write_pools(&node, "pools: [{resource: GPU}]");
    let (code, _, log) = run(&node, &["serve", "--pools", &file, "--log-format", "json"]);
    assert!(code == 64 && log.lines().count() == 1 && log.contains("pools file rejected"), "{code}: {log}");
    all_json(&log);
}
