//! Held devices whose pod could not be looked up: `doctor` says why, and advises to end no process.

use crate::common::kubelet;
use crate::{GPU, examine, has};
use std::os::unix::net::UnixListener;
use vfio_sim_node::kubelet::PodResourcesMode;
use vfio_sim_node::{Kubelet, Node, Vm, VmSpec};

const CHECKPOINT: &str = "var/lib/kubelet/device-plugins/kubelet_internal_checkpoint";

/// A node whose first GPU is held by a process outside of all pods. The kubelet has no pods.
async fn held() -> (Node, Kubelet, Vm) {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    (node, kubelet, vm)
}

/// Checks that the held device is reported with this cause, and that no advice is to end a process or, unless a directory is missing,
/// to mount one.
#[track_caller]
fn not_known(node: &Node, why: &str) -> Vec<(String, String)> {
    let (_, findings) = examine(node);
    has(&findings, &format!("{GPU}: is held by pid"), "Repair the source first");
    has(&findings, "; no assignment known: ", "");
    has(&findings, why, "");
    let harmful = |(what, todo): &(String, String)| {
        what.contains("is assigned to no pod") || todo.contains("end it") || todo.contains("end that process")
    };
    assert!(!findings.iter().any(harmful), "{findings:#?}");
    findings
}

#[tokio::test]
async fn failure_of_pod_resources_is_named_with_its_own_advice() {
    let (node, kubelet, _vm) = held().await;
    for (mode, why, advice) in [
        (PodResourcesMode::Hang, "pod resources did not answer (", "overloaded or hangs"),
        (PodResourcesMode::RateLimited, "rejected by rate limit", "limits the calls"),
        (PodResourcesMode::Failing, "Internal: device manager failed", "its log has the cause"),
        (PodResourcesMode::TooLong, "OutOfRange: ", "longer than a kubelet sends"),
    ] {
        kubelet.set_pod_resources_mode(mode);
        let findings = not_known(&node, why);
        has(&findings, "broken pod resources: assignments are unknown", advice);
        let sources = findings.iter().filter(|(what, _)| what.contains(" pod resources: "));
        let mounts = |todo: &str| todo.contains("pod-resources, or") || todo.contains("directories");
        assert!(!sources.clone().any(|(_, todo)| mounts(todo)), "{mode:?}: {findings:#?}");
    }
    kubelet.set_pod_resources_mode(PodResourcesMode::Empty);
    not_known(&node, "pod resources listed no pod; the kubelet has no checkpoint");
}

#[tokio::test]
async fn socket_of_pod_resources_is_judged_by_its_errno() {
    let (node, _kubelet, _vm) = held().await;
    let socket = node.pod_resources_socket();
    std::fs::remove_file(&socket).unwrap();
    has(
        &not_known(&node, "No such file"),
        "assignments are unknown",
        "Mount the kubelet's directory pod-resources",
    );
    // A kubelet that has ended leaves its socket behind.
    drop(UnixListener::bind(&socket).unwrap());
    let findings = not_known(&node, "Connection refused");
    has(&findings, "assignments are unknown", "No process listens on the socket");
    std::fs::remove_file(&socket).unwrap();
    let listener = UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = std::io::Write::write_all(&mut stream.unwrap(), b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    has(
        &not_known(&node, "not an answer of a kubelet"),
        "assignments are unknown",
        "A program that is not the kubelet",
    );
}

#[tokio::test]
async fn one_of_two_sources_is_not_enough_to_deny_an_assignment() {
    let (node, kubelet, _vm) = held().await;
    let good = r#"{"Data":{"PodDeviceEntries":[{"PodUID":"u","ContainerName":"c","ResourceName":"nvidia.com/2330",
        "DeviceIDs":{"0":["0000:3d:00.0"]},"AllocResp":""}],"RegisteredDevices":{}},"Checksum":1}"#;
    node.write(CHECKPOINT, good).unwrap();
    // The checkpoint alone: it names the pod of another device.
    kubelet.set_pod_resources_mode(PodResourcesMode::RateLimited);
    let findings = not_known(&node, "no assignment known: pod resources did not answer (");
    has(&findings, "warning pod resources: cannot be listed", "checkpoint only");
    // Pod resources alone.
    kubelet.set_pod_resources_mode(PodResourcesMode::Normal);
    for (content, why, advice) in [
        ("", "is empty", "leaves the checkpoint empty"),
        (&good[..good.len() / 2], "is not a checkpoint that this version understands", "half written"),
    ] {
        node.write(CHECKPOINT, content).unwrap();
        let findings =
            not_known(&node, &format!("the kubelet's checkpoint was not understood (the file {why}"));
        has(&findings, "kubelet_internal_checkpoint: is not used", advice);
    }
    let file = std::fs::File::create(node.root().join(CHECKPOINT)).unwrap();
    file.set_len((16 << 20) + 1).unwrap();
    let findings = not_known(&node, "the file has more than 16 MiB");
    has(&findings, "kubelet_internal_checkpoint: is not used", "what writes to the file");
    node.replace_by_fifo(CHECKPOINT).unwrap();
    let findings = not_known(&node, "the file is not a regular file");
    has(&findings, "kubelet_internal_checkpoint: is not used", "Remove what has the checkpoint's name");
    // Both answer: the holder is certainly foreign.
    std::fs::remove_file(node.root().join(CHECKPOINT)).unwrap();
    node.write(CHECKPOINT, good).unwrap();
    let (_, findings) = examine(&node);
    has(&findings, &format!("{GPU}: is held by pid"), "end it");
    has(&findings, "and is assigned to no pod", "belongs to no pod");
}

#[tokio::test]
async fn list_marks_unknown_pods() {
    let (node, kubelet, _vm) = held().await;
    kubelet.set_pod_resources_mode(PodResourcesMode::Failing);
    let table = |node: &Node| {
        let (_, out, errors) = crate::run(node, &["list", "--log-level", "off"]);
        let row = out.lines().find(|line| line.starts_with(GPU)).unwrap().to_owned();
        (row.split_whitespace().nth(7).unwrap().to_owned(), errors)
    };
    assert_eq!(table(&node).0, "?", "no serve runs");
    let serve = crate::common::Serve::start(&node, &[]);
    let deadline = std::time::Instant::now() + crate::PATIENCE;
    loop {
        let (pod, errors) = table(&node);
        if errors.contains("no assignments known: no checkpoint can be used, and pods cannot be listed: ") {
            assert_eq!(pod, "?");
            assert_eq!(errors.matches("no assignments known").count(), 1, "said once: {errors}");
            break;
        }
        assert!(std::time::Instant::now() < deadline, "{errors}");
    }
    let (_, json, _) = crate::run(&node, &["list", "--json"]);
    assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap()["assignments_known"], false);
    kubelet.set_pod_resources_mode(PodResourcesMode::Normal);
    while table(&node).0 != "-" {
        assert!(std::time::Instant::now() < deadline);
    }
    drop(serve);
}
