//! What the CDI library of the container runtimes makes of the specs and of the names. tests/cdi/run runs these tests.

use crate::common::{Serve, add_cdev, cdi_dir, expect, kubelet, write_pools};
use crate::{Allocated, GPU, OTHER, RESOURCE, allocate, names, pool, wait_for_spec};
use serde_json::Value;
use std::collections::BTreeSet;
use std::process::{Command, Stdio};
use vfio_sim_node::Node;

/// Returns the command of tests/cdi/main.go, which runs the library on the directory of CDI specs.
/// tests/cdi/run builds it.
fn library_program(node: &Node) -> Command {
    let mut command = Command::new(std::env::var_os("CDI_LIBRARY").unwrap());
    command.arg(cdi_dir(node));
    command
}

/// Returns what the library reads in the directory and what it makes of a response.
fn library(node: &Node, response: &Allocated) -> Value {
    let mut command = library_program(node);
    command.args(response.annotations.iter().map(|(key, value)| format!("--annotation={key}={value}")));
    command.args(response.nodes.iter().map(|node| format!("--node={node}")));
    command.args(&response.names);
    let output = command.output().unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).unwrap()
}

#[tokio::test]
#[ignore = "needs the library: tests/cdi/run"]
async fn library_resolves_each_name_and_injects_each_node_once() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    for (more, first, own) in [
        ("backend: legacy", "/dev/vfio/vfio", ["/dev/vfio/51".to_owned(), "/dev/vfio/52".to_owned()]),
        (
            "backend: iommufd",
            "/dev/iommu",
            [GPU, OTHER].map(|device| format!("/dev/vfio/devices/{}", add_cdev(&node, device))),
        ),
    ] {
        let file = write_pools(&node, &pool(&[GPU, OTHER], &format!("cdi: annotations, {more}")));
        let _serve = Serve::start(&node, &["--pools", &file]);
        expect(&kubelet, "two", |state| state.capacity(RESOURCE).allocatable == 2).await;
        let response = allocate(&kubelet, &[GPU, OTHER]).await;
        let made = library(&node, &response);
        assert_eq!(made["errors"], serde_json::json!({}), "{made}");
        let names = [GPU, OTHER].map(|id| format!("{RESOURCE}={id}"));
        assert_eq!(made["devices"], serde_json::json!(names));
        assert_eq!(made["annotated"], serde_json::json!(names), "the devices that the annotations request");
        // The library injects each node once, although two devices and the response name it, and with the
        // right access.
        let nodes = [first, &own[0], &own[1]];
        assert_eq!(response.nodes, nodes);
        let sorted: BTreeSet<&str> = nodes.into_iter().collect();
        assert_eq!(made["injected"], serde_json::json!(sorted));
        assert_eq!(made["access"], serde_json::json!(["mrw"]));
    }
}

#[tokio::test]
#[ignore = "needs the library: tests/cdi/run"]
async fn library_accepts_every_name_that_the_kubelet_accepts() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let mut text = String::from("pools:\n");
    let resources = ["3dfx.com/2330", "a/b", "a.b-c/x.y", "a.b/GRID_T4-1Q"];
    for (resource, device) in resources.iter().zip([GPU, OTHER, "0000:4e:00.0", "0000:5f:00.0"]) {
        text += &format!("  - {{resource: {resource}, cdi: devices, select: [{{address: \"{device}\"}}]}}\n");
    }
    text += "  - {cdi: devices, select: [{vendor: 10de}]}\n";
    let _serve = Serve::start(&node, &["--pools", &write_pools(&node, &text)]);
    expect(&kubelet, "the rest", |state| state.capacity("nvidia.com/2330").allocatable == 4).await;
    let nothing = Allocated { nodes: vec![], names: vec![], annotations: vec![] };
    let made = library(&node, &nothing);
    let kind = |name: &Value| name.as_str().unwrap().split('=').next().unwrap().to_owned();
    let kinds: BTreeSet<String> = made["devices"].as_array().unwrap().iter().map(kind).collect();
    let mut expected = BTreeSet::from([
        "a.b/GRID_T4-1Q",
        "nvidia.com/vfio-2330",
        "vfio-3dfx.com/vfio-2330",
        "vfio-a/vfio-b",
    ]);
    // A dot in a name needs a newer CDI version than the oldest library knows. Only this spec is refused
    // then.
    let refused = made["errors"].as_object().unwrap();
    if made["version"] == "0.5.0" {
        assert!(refused.len() == 1 && refused.keys().all(|file| file.ends_with("_a.b-c_x.y.json")), "{made}");
    } else {
        assert!(refused.is_empty(), "{made}");
        expected.insert("a.b-c/x.y");
    }
    assert_eq!(kinds, expected.into_iter().map(str::to_owned).collect());
}

#[tokio::test]
#[ignore = "needs the library: tests/cdi/run"]
async fn library_never_reads_a_partial_spec() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let file = write_pools(&node, &pool(&[GPU, OTHER], "cdi: devices"));
    let _serve = Serve::start(&node, &["--pools", &file, "--interval", "50ms"]);
    expect(&kubelet, "two", |state| state.capacity(RESOURCE).allocatable == 2).await;
    let mut reader = library_program(&node);
    let reader = reader.arg("--over-and-over").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    for _ in 0..20 {
        node.unbind(OTHER).unwrap();
        wait_for_spec(&node, "one", |spec| spec.is_some_and(|spec| names(spec).len() == 1)).await;
        node.bind(OTHER, "vfio-pci").unwrap();
        wait_for_spec(&node, "two", |spec| spec.is_some_and(|spec| names(spec).len() == 2)).await;
    }
    // This closes the standard input of the program, which ends it.
    let output = reader.wait_with_output().unwrap();
    let made: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(made["errors"], serde_json::json!({}), "{made}");
    assert_eq!(made["seen"], serde_json::json!([1, 2]), "numbers of devices: {made}");
}
