//! A pools file that changes: what applies at once, and what assigned devices keep.

use crate::common::{
    INTERVAL, PATIENCE, Serve, assigned_pod, device, expect, health, kubelet, wait_for_pod, write_pools,
};
use crate::{GPU, OTHER, allocate};
use std::fs;
use std::time::Instant;
use vfio_sim_node::kubelet::AdmitError;
use vfio_sim_node::{Node, VmSpec};

#[tokio::test]
async fn each_pool_has_its_own_policy_for_held_devices() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let text = |busy: &str| {
        format!(
            "pools:\n\
             \x20 - {{resource: a.b/plain, busy: {busy}, select: [{{address: \"{GPU}\"}}]}}\n\
             \x20 - {{resource: a.b/own, select: [{{address: \"{OTHER}\"}}]}}\n\
             \x20 - {{resource: a.b/all, busy: advertise, busy_allocate: substitute, select: [{{numa_node: 1}}]}}\n"
        )
    };
    let file = write_pools(&node, &text("unhealthy"));
    // A key that a pool does not set comes from the command line.
    let _serve = Serve::start(&node, &["--pools", &file, "--busy", "attributed"]);
    expect(&kubelet, "all pools", |state| {
        ["a.b/plain", "a.b/own", "a.b/all"].map(|resource| state.capacity(resource).allocatable) == [1, 1, 4]
    })
    .await;
    // A VM of a pod in each of the first two pools. The policy of the first does not look at assignments.
    let mut vms = Vec::new();
    for (resource, address) in [("a.b/plain", GPU), ("a.b/own", OTHER)] {
        let pod = kubelet.admit_with(resource, resource, vec![address.to_owned()]).await.unwrap();
        vms.push(node.start_vm(&VmSpec::of_pod(&pod.pod_uid, &pod.devices)).unwrap());
    }
    expect(&kubelet, "held", |state| health(state, "a.b/plain", GPU) == Some(false)).await;
    let third = "0000:9b:00.0";
    vms.push(node.start_vm(&VmSpec::foreign(&[third])).unwrap());
    let deadline = Instant::now() + PATIENCE;
    while device(&node, third)["state"] != "held"
        || assigned_pod(&device(&node, OTHER)).as_deref() != Some("default/a.b/own")
    {
        assert!(Instant::now() < deadline, "{}", device(&node, third));
    }
    // Longer than `--settling`.
    tokio::time::sleep(INTERVAL * 5).await;
    assert_eq!(health(&kubelet.state(), "a.b/own", OTHER), Some(true), "assigned");
    assert_eq!(health(&kubelet.state(), "a.b/all", third), Some(true), "advertised");
    let (envs, _) = allocate(&kubelet, "a.b/all", third).await;
    assert_ne!(envs[0].1, third, "a substitute from the same pool");

    // An assigned device stays in its resource, and the new policy applies to it.
    write_pools(&node, &text("attributed"));
    expect(&kubelet, "the new policy", |state| health(state, "a.b/plain", GPU) == Some(true)).await;
    // Without substitution, a held device is refused.
    vms.drain(..1);
    write_pools(&node, &text("attributed").replace(", busy_allocate: substitute", ""));
    let deadline = Instant::now() + PATIENCE;
    loop {
        match kubelet.admit_with("again", "a.b/all", vec![third.to_owned()]).await {
            Err(AdmitError::Refused(status)) if status.message().contains("is held by pid") => break,
            other => assert!(Instant::now() < deadline, "{other:?}"),
        }
    }
}

/// Replaces the pools file as the kubelet replaces a ConfigMap: a link to a new directory is renamed over the
/// old link. Returns the path of the file.
fn replace_config_map(node: &Node, version: &str, text: &str) -> String {
    let directory = node.root().join("config");
    fs::create_dir_all(directory.join(version)).unwrap();
    fs::write(directory.join(version).join("pools.yaml"), text).unwrap();
    std::os::unix::fs::symlink(version, directory.join("..data_tmp")).unwrap();
    fs::rename(directory.join("..data_tmp"), directory.join("..data")).unwrap();
    directory.join("..data/pools.yaml").to_str().unwrap().to_owned()
}

#[tokio::test]
async fn changed_file_applies_except_to_assigned_devices() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let file = replace_config_map(&node, "1", "pools: [{resource: a.b/old, select: [{vendor: 10de}]}]");
    let serve = Serve::start(&node, &["--pools", &file]);
    expect(&kubelet, "the old pool", |state| state.capacity("a.b/old").allocatable == 8).await;
    let pod = kubelet.admit_with("vm", "a.b/old", vec![GPU.to_owned()]).await.unwrap();
    wait_for_pod(&node, GPU, "default/vm").await;

    replace_config_map(&node, "2", "pools: [{resource: a.b/new, select: [{vendor: 10de}]}]");
    expect(&kubelet, "the new pool", |state| state.capacity("a.b/new").allocatable == 7).await;
    expect(&kubelet, "the pod's device", |state| state.capacity("a.b/old").capacity == 1).await;
    assert_eq!(health(&kubelet.state(), "a.b/old", GPU), Some(true));
    assert_eq!(kubelet.state().capacity("a.b/old").left(), 0, "allocatable - requested");

    replace_config_map(&node, "3", "pools:\n  - resource: a.b/broken\n");
    tokio::time::sleep(INTERVAL * 3).await;
    assert_eq!(kubelet.state().capacity("a.b/new").allocatable, 7, "an invalid file changes nothing");

    // This pod stays: an empty list of pods is not evidence that a pod ended.
    let _other = kubelet.admit_with("other", "a.b/new", vec![OTHER.to_owned()]).await.unwrap();
    kubelet.remove(&pod.pod_uid);
    expect(&kubelet, "the pod has ended", |state| {
        state.capacity("a.b/new").allocatable == 8 && state.capacity("a.b/old").capacity == 0
    })
    .await;
    let (_, _, log) = serve.terminate();
    let warned = log.lines().filter(|line| {
        line.contains("the former pools stay in use") && line.contains("line 2: missing field")
    });
    assert_eq!(warned.count(), 1, "{log}");
}

#[tokio::test]
async fn assigned_devices_keep_their_resource_over_a_restart() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let all = write_pools(&node, "pools: [{resource: a.b/old, select: [{vendor: 10de}]}]");
    let serve = Serve::start(&node, &["--pools", &all]);
    expect(&kubelet, "the old pool", |state| state.capacity("a.b/old").allocatable == 8).await;
    let mut pods = Vec::new();
    for (name, id) in [("one", GPU), ("two", OTHER)] {
        pods.push(kubelet.admit_with(name, "a.b/old", vec![id.to_owned()]).await.unwrap());
        wait_for_pod(&node, id, &format!("default/{name}")).await;
    }
    drop(serve);
    // The second device is in no pool any more.
    let some =
        "pools: [{resource: a.b/new, select: [{vendor: 10de, numa_node: 1}, {address: \"0000:1b:00.0\"}]}]";
    write_pools(&node, some);
    let _serve = Serve::start(&node, &["--pools", &all]);
    expect(&kubelet, "the new pool", |state| state.capacity("a.b/new").allocatable == 4).await;
    expect(&kubelet, "the pods' devices", |state| {
        [GPU, OTHER].map(|id| health(state, "a.b/old", id)) == [Some(true); 2]
    })
    .await;
    assert_eq!(kubelet.state().capacity("a.b/old").left(), 0, "allocatable - requested");
    let _third = kubelet.admit_with("three", "a.b/new", vec!["0000:9b:00.0".to_owned()]).await.unwrap();
    for pod in &pods {
        kubelet.remove(&pod.pod_uid);
    }
    expect(&kubelet, "the pods have ended", |state| {
        state.capacity("a.b/new").allocatable == 5 && state.capacity("a.b/old").capacity == 0
    })
    .await;
}
