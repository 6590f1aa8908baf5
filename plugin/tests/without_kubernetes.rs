//! The commands on a node without a cluster: they need neither a kubelet nor a running `serve`, and do not miss them.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may fail loudly")]

mod common;

use common::{Serve, list, program, run};
use serde_json::Value;
use std::fs;
use std::time::{Duration, Instant};
use vfio_sim_node::{Node, VmSpec};

const GPU: &str = "0000:1b:00.0";

/// Returns a node on which no kubelet has ever run.
fn node() -> Node {
    let node = Node::with_eight_gpus().unwrap();
    fs::remove_dir_all(node.root().join("var/lib/kubelet")).unwrap();
    node
}

fn doctor(node: &Node) -> (i32, Vec<Value>, String) {
    let (code, out, errors) = run(node, &["doctor", "--json"]);
    let findings: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{errors}"));
    let findings = findings.get("findings").and_then(Value::as_array).unwrap().clone();
    let (_, text, _) = run(node, &["doctor"]);
    (code, findings, text)
}

#[test]
fn missing_kubelet_and_serve_are_no_warning() {
    let node = node();
    let vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    for (words, expected) in [
        (&["list"][..], GPU),
        (&["list", "--json"], GPU),
        (&["who", GPU], "qemu-system-x86"),
        (&["who", GPU, "--json"], "qemu-system-x86"),
    ] {
        let (code, out, errors) = run(&node, words);
        assert_eq!((code, &*errors), (0, ""), "{words:?}");
        assert!(out.contains(expected), "{words:?}: {out}");
    }
    let (code, findings, text) = doctor(&node);
    assert_eq!(code, 0, "{findings:#?}");
    assert_eq!(findings.len(), 1, "{findings:#?}");
    assert_eq!(findings.first().and_then(|finding| finding.get("level")), Some(&"info".into()));
    let expected = format!(
        "info     Kubernetes: this node runs no kubelet and no serve: {} does not exist; set --kubelet-dir if the kubelet's \
         directory was moved\nNothing is wrong.\n",
        node.kubelet_dir().display()
    );
    assert_eq!(text, expected);
    vm.kill();
}

#[test]
fn watch_says_nothing_on_standard_error() {
    let node = node();
    let mut watch = program(&node, &["watch"]);
    let mut watch =
        watch.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped()).spawn().unwrap();
    let lines = std::io::BufRead::lines(std::io::BufReader::new(watch.stdout.take().unwrap()));
    assert!(lines.map_while(Result::ok).any(|line| line.contains(GPU)));
    watch.kill().unwrap();
    let output = watch.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}

#[test]
fn other_faults_of_the_node_are_still_warnings() {
    let node = node();
    node.delete("dev/vfio/vfio").unwrap();
    let (code, findings, text) = doctor(&node);
    assert_eq!((code, findings.len()), (1, 2), "{findings:#?}");
    assert!(
        text.starts_with("warning  /dev/vfio/vfio: does not exist") && !text.contains("Nothing"),
        "{text}"
    );
}

#[test]
fn directory_of_the_kubelet_makes_a_missing_serve_a_warning() {
    let node = node();
    fs::create_dir_all(node.kubelet_dir()).unwrap();
    let (code, _, errors) = run(&node, &["list"]);
    assert!(code == 0 && errors.contains("no serve answers"), "{errors}");
    let (code, _, text) = doctor(&node);
    assert_eq!(code, 1);
    assert!(text.contains("there is no kubelet.sock") && text.contains("serve: no serve answers"), "{text}");
}

#[test]
fn serve_without_a_kubelet_is_used() {
    let node = node();
    let serve = Serve::start(&node, &[]);
    let deadline = Instant::now() + Duration::from_secs(10);
    while !list(&node).iter().all(|device| device.get("health") == Some(&"Healthy".into())) {
        assert!(Instant::now() < deadline, "{:#?}", list(&node));
    }
    let (code, _, text) = doctor(&node);
    assert!(code == 1 && text.contains("there is no kubelet.sock"), "{text}");
    drop(serve);
    // A killed serve leaves its socket.
    let (_, _, errors) = run(&node, &["list"]);
    assert!(errors.contains("no serve answers"), "{errors}");
}
