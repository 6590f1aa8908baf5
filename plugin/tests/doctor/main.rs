//! `doctor` on simulated nodes: it reports each fault with what to do.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail loudly")]

#[path = "../common/mod.rs"]
mod common;
mod devices;
mod host;
mod host_uses;
mod kubelet;
mod sources;
mod unbound;

use common::{H100, PATIENCE, offered, run, wait_for_pod};
use serde_json::Value;
use std::process::Command;
use std::time::Instant;
use vfio_sim_node::{Node, VmSpec};

const GPU: &str = "0000:1b:00.0";
const OTHER: &str = "0000:3d:00.0";

/// Exit code and findings, each as `level about: what`, with its advice.
fn examine(node: &Node) -> (i32, Vec<(String, String)>) {
    examine_with(&mut common::program(node, &["doctor", "--json"]))
}

fn examine_with(doctor: &mut Command) -> (i32, Vec<(String, String)>) {
    let output = doctor.output().unwrap();
    let code = output.status.code().unwrap();
    let found: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let findings = found["findings"].as_array().unwrap().iter().map(|finding| {
        let [level, about, what] = ["level", "about", "what"].map(|key| text(&finding[key]));
        (format!("{level} {about}: {what}"), text(&finding["advice"]))
    });
    (code, findings.collect())
}

#[track_caller]
fn has(findings: &[(String, String)], what: &str, advice: &str) {
    let found = findings.iter().any(|(found, todo)| found.contains(what) && todo.contains(advice));
    assert!(found, "no finding has {what:?} with {advice:?}: {findings:#?}");
}

/// Runs `doctor` until it has a finding, which a running plugin needs a moment to see. Returns the exit code.
#[track_caller]
fn wait_for_finding(node: &Node, what: &str, advice: &str) -> i32 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (code, findings) = examine(node);
        if findings.iter().any(|(found, _)| found.contains(what)) || Instant::now() > deadline {
            has(&findings, what, advice);
            return code;
        }
    }
}

#[tokio::test]
async fn node_with_a_running_vm_is_fine() {
    let (node, kubelet, _serve) = offered(&[]).await;
    let pod = kubelet.admit("vm-1", H100, 1).await.unwrap();
    let _vm = node.start_vm(&VmSpec::of_pod(&pod.pod_uid, &pod.devices)).unwrap();
    wait_for_pod(&node, GPU, "default/vm-1").await;
    assert_eq!(examine(&node), (0, vec![]));
    let (code, out, _) = run(&node, &["doctor"]);
    assert_eq!((code, out.as_str()), (0, "Nothing is wrong.\n"));
}
