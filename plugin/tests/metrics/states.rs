//! What the gauges say in each state of a device.

use crate::common::{H100, expect, kubelet};
use crate::scrape::{Series, Served};
use std::fs;
use vfio_sim_node::kubelet::PodResourcesMode;
use vfio_sim_node::{Function, Kubelet, Node, VmSpec};

const GPU: &str = "0000:1b:00.0";

async fn offered(words: &[&str]) -> (Node, Kubelet, Served) {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let served = Served::start(&node, words);
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 8).await;
    served.wait_for("known", |series| series.get("vfio_assignments_known", &[]) == Some(1.0));
    (node, kubelet, served)
}

/// Returns a gauge of [`GPU`].
fn of_gpu(series: &Series, name: &str) -> Option<f64> {
    series.get(name, &[("device", GPU), ("resource", H100)])
}

/// Returns the state that a device has, and checks that it has no other.
#[track_caller]
fn state_of(series: &Series, device: &str) -> String {
    let states = series.all("vfio_device_state", &[("device", device)]);
    assert!(states.len() == 4 && states.iter().map(|(_, value)| value).sum::<f64>() == 1.0, "{states:?}");
    states.iter().find(|(_, value)| *value == 1.0).unwrap().0["state"].clone()
}

/// Returns a sum of the resource.
fn sum(series: &Series, name: &str) -> f64 {
    series.get(&format!("vfio_resource_{name}"), &[("resource", H100)]).unwrap()
}

/// Returns schedulable and openable.
fn promise(series: &Series) -> (f64, f64) {
    (sum(series, "schedulable"), sum(series, "openable"))
}

#[tokio::test]
async fn foreign_hold_is_in_every_gauge_until_it_ends() {
    let (node, _kubelet, served) = offered(&[]).await;
    let series = served.scrape();
    assert_eq!((state_of(&series, GPU).as_str(), promise(&series)), ("free", (8.0, 8.0)));
    let info = series.all("vfio_device_info", &[("device", GPU)])[0].0.clone();
    let label = |name: &str| info[name].as_str();
    assert_eq!((label("group"), label("numa_node"), label("model")), ("51", "0", "GH100 [H100 SXM5 80GB]"));

    let vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    let series = served.wait_for("Unhealthy", |series| of_gpu(series, "vfio_device_healthy") == Some(0.0));
    assert_eq!((state_of(&series, GPU).as_str(), promise(&series)), ("held", (7.0, 7.0)));
    assert_eq!(of_gpu(&series, "vfio_device_foreign_held"), Some(1.0));
    assert_eq!(of_gpu(&series, "vfio_device_held_after_pod"), Some(0.0));
    let reasons = series.all("vfio_device_reason", &[]);
    assert_eq!(reasons.len(), 1);
    assert_eq!((reasons[0].0["reason"].as_str(), reasons[0].0["severity"].as_str()), ("held", "unhealthy"));
    let sums = ["capacity", "allocatable", "assigned", "free", "foreign_held", "unknown"]
        .map(|name| sum(&series, name));
    assert_eq!(sums, [8.0, 7.0, 0.0, 7.0, 1.0, 0.0]);

    vm.kill();
    let series = served.wait_for("Healthy", |series| of_gpu(series, "vfio_device_healthy") == Some(1.0));
    assert_eq!((state_of(&series, GPU).as_str(), promise(&series)), ("free", (8.0, 8.0)));
    assert_eq!(of_gpu(&series, "vfio_device_foreign_held"), Some(0.0));
    assert!(series.all("vfio_device_reason", &[]).is_empty());
    let to = |to, reason| {
        let labels = [("resource", H100), ("to", to), ("reason", reason)];
        series.get("vfio_health_transitions_total", &labels).unwrap()
    };
    assert_eq!((to("unhealthy", "held"), to("healthy", "")), (1.0, 1.0));
}

#[tokio::test]
async fn assignment_has_labels_of_its_pod_and_ends_with_it() {
    let (node, kubelet, served) = offered(&[]).await;
    // No pod is named like this; a list may have anything.
    let name = "vm\"1\\\nend";
    let pod = kubelet.admit_with(name, H100, vec![GPU.to_owned()]).await.unwrap();
    let info =
        [("device", GPU), ("resource", H100), ("namespace", "default"), ("pod", name), ("state", "assigned")];
    let series =
        served.wait_for("assigned", |series| series.get("vfio_device_assignment_info", &info) == Some(1.0));
    assert_eq!((sum(&series, "assigned"), promise(&series)), (1.0, (7.0, 7.0)));
    let vm = node.start_vm(&VmSpec::of_pod(&pod.pod_uid, &pod.devices)).unwrap();
    let series = served.wait_for("held", |series| state_of(series, GPU) == "held");
    assert_eq!((of_gpu(&series, "vfio_device_foreign_held"), promise(&series)), (Some(0.0), (7.0, 7.0)));
    assert_eq!(of_gpu(&series, "vfio_device_held_after_pod"), Some(0.0));

    kubelet.remove(&pod.pod_uid);
    // An empty list ends no assignment: it may be a kubelet that has not synced.
    let _other = kubelet.admit_with("vm-2", H100, vec!["0000:df:00.0".to_owned()]).await.unwrap();
    let series =
        served.wait_for("still held", |series| of_gpu(series, "vfio_device_held_after_pod") == Some(1.0));
    assert!(
        series.all("vfio_device_assignment_info", &[("device", GPU)]).is_empty(),
        "its labels end with it"
    );
    assert_eq!(of_gpu(&series, "vfio_device_foreign_held"), Some(1.0));
    vm.kill();
    let series = served.wait_for("free", |series| state_of(series, GPU) == "free");
    assert_eq!(of_gpu(&series, "vfio_device_held_after_pod"), Some(0.0));
}

#[tokio::test]
async fn device_that_is_gone_leaves_and_one_without_node_is_absent() {
    let (node, kubelet, served) = offered(&[]).await;
    node.unbind(GPU).unwrap();
    expect(&kubelet, "gone", |state| state.capacity(H100).capacity == 7).await;
    let series = served.wait_for("gone", |series| sum(series, "capacity") == 7.0);
    let left: Vec<_> =
        series.values.iter().filter(|(_, labels, _)| labels.values().any(|value| value == GPU)).collect();
    assert!(left.is_empty(), "{left:?}");
    assert_eq!(promise(&series), (7.0, 7.0));
    fs::remove_file(node.root().join("dev/vfio/52")).unwrap();
    let second = "0000:3d:00.0";
    let series = served.wait_for("absent", |series| {
        series.get("vfio_device_reason", &[("device", second), ("reason", "no_device_node")]) == Some(1.0)
    });
    assert_eq!((state_of(&series, second).as_str(), promise(&series)), ("absent", (6.0, 6.0)));
}

#[tokio::test]
async fn assigned_device_that_is_unbound_is_absent_with_a_warning() {
    let (node, kubelet, served) = offered(&[]).await;
    let _pod = kubelet.admit_with("vm-1", H100, vec![GPU.to_owned()]).await.unwrap();
    served.wait_for("assigned", |series| sum(series, "assigned") == 1.0);
    node.unbind(GPU).unwrap();
    let series = served.wait_for("unbound", |series| {
        series.get("vfio_device_reason", &[("device", GPU), ("severity", "warning")]) == Some(1.0)
    });
    assert_eq!(series.all("vfio_device_reason", &[])[0].0["reason"], "no_longer_bound");
    assert_eq!((state_of(&series, GPU).as_str(), promise(&series)), ("absent", (7.0, 7.0)));
    assert_eq!(of_gpu(&series, "vfio_device_healthy"), Some(1.0));
}

#[tokio::test]
async fn invariant_holds_after_every_move() {
    let (node, kubelet, served) = offered(&[]).await;
    let agree = |what: &str| {
        let series = served.wait_for(what, |series| {
            let (schedulable, openable) = promise(series);
            // The kubelet's own numbers, and the kernel's.
            let free = (51..59).filter(|group| !node.is_held(*group)).count();
            let waiting = kubelet
                .state()
                .pods
                .iter()
                .flat_map(|pod| &pod.devices)
                .filter(|id| !held(&node, id))
                .count();
            schedulable == openable
                && schedulable == kubelet.capacity(H100).left() as f64
                && openable == (free - waiting) as f64
        });
        sum(&series, "openable")
    };
    assert_eq!(agree("at the start"), 8.0);
    let foreign = node.start_vm(&VmSpec::foreign(&["0000:df:00.0"])).unwrap();
    assert_eq!(agree("a foreign hold"), 7.0);
    let one = kubelet.admit("vm-1", H100, 2).await.unwrap();
    assert_eq!(agree("a pod without its VM"), 5.0);
    let vm = node.start_vm(&VmSpec::of_pod(&one.pod_uid, &one.devices)).unwrap();
    assert_eq!(agree("its VM"), 5.0);
    let two = kubelet.admit("vm-2", H100, 1).await.unwrap();
    kubelet.remove(&one.pod_uid);
    assert_eq!(agree("a pod that left its VM"), 4.0);
    vm.kill();
    assert_eq!(agree("the end of that VM"), 6.0);
    foreign.kill();
    assert_eq!(agree("the end of the foreign hold"), 7.0);
    kubelet.restart(true).await.unwrap();
    assert_eq!(agree("a restart of the kubelet"), 7.0);
    kubelet.remove(&two.pod_uid);
    let _last = kubelet.admit("vm-3", H100, 7).await.unwrap();
    assert!(agree("a full node") <= 1.0);
}

/// Returns whether the group of a GPU of the node is held.
fn held(node: &Node, id: &str) -> bool {
    let buses = ["1b", "3d", "4e", "5f", "9b", "bd", "ce", "df"];
    let place = buses.iter().position(|bus| id == format!("0000:{bus}:00.0")).unwrap();
    node.is_held(51 + u32::try_from(place).unwrap())
}

#[tokio::test]
async fn policy_unhealthy_shows_the_negative_number_of_the_kubelet() {
    let (node, kubelet, served) = offered(&["--busy", "unhealthy"]).await;
    let pod = kubelet.admit("vm-1", H100, 6).await.unwrap();
    let _vm = node.start_vm(&VmSpec::of_pod(&pod.pod_uid, &pod.devices)).unwrap();
    let series = served.wait_for("-4", |series| sum(series, "schedulable") == -4.0);
    assert_eq!(promise(&series), (-4.0, 2.0));
    expect(&kubelet, "the kubelet agrees", |state| state.capacity(H100).left() == -4).await;
}

#[tokio::test]
async fn outage_of_the_kubelet_makes_assignments_unknown() {
    let (node, kubelet, served) = offered(&[]).await;
    let _vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    served.wait_for("foreign", |series| of_gpu(series, "vfio_device_foreign_held") == Some(1.0));
    kubelet.set_pod_resources_mode(PodResourcesMode::RateLimited);
    fs::remove_file(node.kubelet_dir().join(kubelet_api::CHECKPOINT)).unwrap();
    let problem = |series: &Series| series.get("vfio_problem", &[("code", "assignments_unknown")]);
    let series = served.wait_for("unknown", |series| {
        problem(series) == Some(1.0) && series.get("vfio_assignments_known", &[]) == Some(0.0)
    });
    assert_eq!(of_gpu(&series, "vfio_device_foreign_held"), None, "the holder may belong to a pod");
    let failed = [("source", "pod_resources"), ("result", "failed")];
    assert!(series.get("vfio_kubelet_polls_total", &failed).unwrap() >= 1.0);
    kubelet.set_pod_resources_mode(PodResourcesMode::Normal);
    // An empty list without a checkpoint is no answer.
    let _pod = kubelet.admit("vm-1", H100, 1).await.unwrap();
    let series = served.wait_for("known", |series| {
        series.all("vfio_problem", &[]).is_empty() && series.get("vfio_assignments_known", &[]) == Some(1.0)
    });
    assert_eq!(of_gpu(&series, "vfio_device_foreign_held"), Some(1.0));
    kubelet.stop();
    let registered = |series: &Series| series.get("vfio_resource_registered", &[("resource", H100)]);
    served.wait_for("not registered", |series| registered(series) == Some(0.0));
    kubelet.run().await.unwrap();
    served.wait_for("registered", |series| registered(series) == Some(1.0));
}

#[tokio::test]
async fn device_that_cannot_be_checked_is_unknown_and_not_openable() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    // Nothing to peek at, and no probes.
    node.delete(&format!("sys/devices/pci0000:00/{GPU}/enable")).unwrap();
    let served = Served::start(&node, &["--no-probe"]);
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 8).await;
    let series = served.scrape();
    assert_eq!(state_of(&series, GPU), "unknown");
    assert_eq!((promise(&series), sum(&series, "unknown")), ((8.0, 7.0), 1.0));
    assert!(series.all("vfio_probes_total", &[]).iter().all(|(_, value)| *value == 0.0));
}

#[tokio::test]
async fn node_of_256_devices_is_scraped_whole() {
    let node = Node::new().unwrap();
    for number in 0..256_u32 {
        let address = format!("0000:{:02x}:{:02x}.0", 1 + number / 32, number % 32);
        node.add(Function::gpu(&address, 100 + number, 0)).unwrap();
    }
    let kubelet = kubelet(&node).await;
    let served = Served::start(&node, &[]);
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 256).await;
    let series = served.wait_for("all", |series| sum(series, "openable") == 256.0);
    assert_eq!(sum(&series, "schedulable"), 256.0);
    for name in
        ["vfio_device_info", "vfio_device_healthy", "vfio_device_foreign_held", "vfio_device_held_after_pod"]
    {
        assert_eq!(series.all(name, &[]).len(), 256, "{name}");
    }
    assert_eq!(series.all("vfio_device_state", &[]).len(), 4 * 256);
}
