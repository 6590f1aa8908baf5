//! The command `dra` on a simulated node.

#![cfg(feature = "dra")]
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail loudly")]

mod common;

use common::{H100, offered, run, wait_for_pod, write_pools};
use serde_json::{Value, json};
use vfio_sim_node::mdev::Mdev;
use vfio_sim_node::{Function, Node, VmSpec};

const GPU: &str = "0000:1b:00.0";
const SECOND: &str = "0000:3d:00.0";

/// Returns the items that a command prints, and its messages.
fn printed(node: &Node, words: &[&str]) -> (Vec<Value>, String) {
    let (code, out, messages) = run(node, words);
    assert_eq!(code, 0, "{messages}");
    let list: Value = serde_json::from_str(&out).unwrap();
    assert_eq!((&list["apiVersion"], &list["kind"]), (&json!("v1"), &json!("List")));
    (list["items"].as_array().unwrap().clone(), messages)
}

/// Returns the devices of all slices, and the messages. Counters are in a slice of their own.
fn devices(node: &Node, words: &[&str]) -> (Vec<Value>, String) {
    let command = [&["dra", "slices", "--node", "node-1"], words].concat();
    let (slices, messages) = printed(node, &command);
    let mut devices = Vec::new();
    for slice in &slices {
        let spec = &slice["spec"];
        assert_eq!((&spec["nodeName"], &spec["pool"]["name"]), (&json!("node-1"), &json!("node-1")));
        devices.extend(spec["devices"].as_array().cloned().unwrap_or_default());
    }
    (devices, messages)
}

/// Returns the name and value of a device's taint, or none.
fn taint(devices: &[Value], name: &str) -> Option<(String, Option<String>)> {
    let device = devices.iter().find(|device| device["name"] == name).unwrap();
    let taint = device.get("taints")?.as_array().unwrap().first().unwrap();
    let key = taint["key"].as_str().unwrap().strip_prefix("vfio-probe.github.io/").unwrap();
    Some((key.to_owned(), taint["value"].as_str().map(str::to_owned)))
}

#[test]
fn slices_have_all_devices_and_their_attributes() {
    let node = Node::with_eight_gpus().unwrap();
    let (found, messages) = devices(&node, &[]);
    let names: Vec<&str> = found.iter().map(|device| device["name"].as_str().unwrap()).collect();
    assert_eq!((names.len(), names[0], names[7]), (8, "pci-0000-1b-00-0", "pci-0000-df-00-0"));
    let attributes = &found[0]["attributes"];
    assert_eq!(attributes["resource.kubernetes.io/pcieRoot"], json!({"string": "pci0000:00"}));
    assert_eq!(attributes["resource.kubernetes.io/pciBusID"], json!({"string": GPU}));
    assert_eq!(attributes["resource"], json!({"string": "nvidia.com/2330"}));
    assert_eq!(attributes["iommufd"], json!({"bool": false}));
    assert!(messages.contains("no serve answers"), "{messages}");
    assert_eq!(node.opens(52), 0, "no device node is opened");
}

#[test]
fn held_device_is_withheld_by_a_taint_with_its_holder() {
    let node = Node::with_eight_gpus().unwrap();
    let vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    let (found, messages) = devices(&node, &[]);
    let value = format!("qemu-system-x86.{}", vm.pid());
    assert_eq!(taint(&found, "pci-0000-1b-00-0"), Some(("held".to_owned(), Some(value))));
    assert_eq!(taint(&found, "pci-0000-3d-00-0"), None);
    assert!(messages.contains(&format!("{GPU} is withheld: held by pid {}", vm.pid())), "{messages}");
}

#[test]
fn held_device_is_left_out_for_a_server_without_taints() {
    let node = Node::with_eight_gpus().unwrap();
    let _vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    let (found, messages) = devices(&node, &["--kubernetes", "1.35"]);
    assert!(found.len() == 7 && found.iter().all(|device| device["name"] != "pci-0000-1b-00-0"));
    assert!(
        messages.contains(&format!("{GPU} is left out, because Kubernetes 1.35 stores no taints")),
        "{messages}"
    );
}

#[test]
fn lost_device_is_withheld() {
    let node = Node::with_eight_gpus().unwrap();
    node.set_lost(SECOND, true).unwrap();
    let (found, _) = devices(&node, &[]);
    assert_eq!(taint(&found, "pci-0000-3d-00-0"), Some(("lost".to_owned(), None)));
    let (found, _) = devices(&node, &["--checks", "none"]);
    assert_eq!(taint(&found, "pci-0000-3d-00-0"), None, "the check is off");
}

#[test]
fn mediated_device_of_unknown_state_is_named() {
    let node = Node::with_eight_gpus().unwrap();
    let uuid = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
    let (parent, kind) = (GPU.to_owned(), "nvidia-35".to_owned());
    node.add_mdev(&Mdev { uuid: uuid.to_owned(), parent, kind, group: 70, cdev: Some(70) }).unwrap();
    let (found, messages) = devices(&node, &[]);
    let mdev = found.iter().find(|device| device["name"] == format!("mdev-{uuid}")).unwrap();
    assert_eq!(mdev["attributes"]["mdevUUID"], json!({"string": uuid}));
    assert_eq!(mdev["attributes"]["parent"], json!({"string": GPU}));
    assert!(messages.contains(&format!("{uuid} may be held")), "{messages}");
    let (_, messages) = devices(&node, &["--probe"]);
    assert!(!messages.contains("may be held"), "{messages}");
}

#[tokio::test]
async fn device_of_a_pod_of_the_device_plugin_is_withheld() {
    let (node, kubelet, _serve) = offered(&[]).await;
    node.add(Function::gpu("0000:1b:00.1", 51, 0)).unwrap();
    kubelet.admit_with("vm-1", H100, vec![GPU.to_owned()]).await.unwrap();
    wait_for_pod(&node, GPU, "default/vm-1").await;
    let (found, messages) = devices(&node, &[]);
    assert_eq!(taint(&found, "pci-0000-1b-00-0"), Some(("device-plugin".to_owned(), None)));
    assert_eq!(
        taint(&found, "pci-0000-1b-00-1"),
        Some(("group".to_owned(), Some("pci-0000-1b-00-0".to_owned()))),
        "its group peer"
    );
    assert!(
        messages.contains(&format!("{GPU} is withheld: assigned to a pod by the device plugin")),
        "{messages}"
    );
}

#[test]
fn devices_are_in_the_order_of_their_pools() {
    let node = Node::with_eight_gpus().unwrap();
    let pools = write_pools(
        &node,
        "pools:\n  - {resource: a.io/last, select: [{address: \"0000:df:00.0\"}]}\n  - {resource: a.io/rest, select: [{vendor: 10de}]}\n",
    );
    let (found, _) = devices(&node, &["--pools", &pools]);
    assert_eq!(
        (&found[0]["name"], &found[1]["name"]),
        (&json!("pci-0000-df-00-0"), &json!("pci-0000-1b-00-0"))
    );
    let (classes, _) = printed(&node, &["dra", "classes", "--pools", &pools, "--extended"]);
    let names: Vec<_> = classes.iter().map(|class| class["metadata"]["name"].clone()).collect();
    assert_eq!(names, ["last.a.io", "rest.a.io"]);
    assert_eq!(classes[0]["spec"]["extendedResourceName"], "a.io/last");
}

#[test]
fn wrong_settings_are_refused() {
    let node = Node::new().unwrap();
    for words in [
        &["dra", "slices", "--dra-driver", "Not_DNS"][..],
        &["dra", "slices", "--node", "UPPER"],
        &["dra", "slices", "--kubernetes", "1.33"],
        &["dra"],
    ] {
        assert_eq!(run(&node, words).0, 64, "{words:?}");
    }
    let (code, _, messages) = run(&node, &["dra", "slices"]);
    assert!(code == 2 && messages.contains("set --node"), "{messages}");
}
