//! When the plugin writes, repairs and removes a spec, and which names Allocate returns.

use crate::common::{PATIENCE, Serve, add_cdev, cdi_dir, expect, health, kubelet, wait_for_pod, write_pools};
use crate::{FILE, GPU, OTHER, RESOURCE, allocate, files, names, pool, spec, wait_for_spec};
use serde_json::Value;
use std::collections::BTreeSet;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use vfio_sim_node::Node;

#[tokio::test]
async fn spec_exists_before_its_devices_are_listed_until_the_last() {
    let node = Node::with_eight_gpus().unwrap();
    node.unbind(OTHER).unwrap();
    let kubelet = kubelet(&node).await;
    let file = write_pools(&node, &pool(&[GPU, OTHER], "cdi: devices"));
    let serve = Serve::start(&node, &["--pools", &file]);
    // At each change of the kubelet's state, all listed devices are in the spec.
    let on_disk = |listed: &[kubelet_api::v1beta1::Device]| {
        let names = spec(&node).map(|spec| names(&spec)).unwrap_or_default();
        assert!(listed.iter().all(|device| names.contains(&device.id)), "{listed:?} {names:?}");
    };
    expect(&kubelet, "one", |state| {
        on_disk(state.resources.get(RESOURCE).map_or(&[], |resource| &resource.devices));
        health(state, RESOURCE, GPU) == Some(true)
    })
    .await;
    node.bind(OTHER, "vfio-pci").unwrap();
    expect(&kubelet, "two", |state| {
        on_disk(&state.resources[RESOURCE].devices);
        health(state, RESOURCE, OTHER) == Some(true)
    })
    .await;
    let made = spec(&node).unwrap();
    assert_eq!((&made["kind"], &made["cdiVersion"]), (&RESOURCE.into(), &"0.5.0".into()));
    assert_eq!(names(&made), [GPU, OTHER]);
    let path = |edits: &Value| edits["containerEdits"]["deviceNodes"][0]["path"].clone();
    assert_eq!([path(&made), path(&made["devices"][1])], ["/dev/vfio/vfio", "/dev/vfio/52"]);

    let response = allocate(&kubelet, &[OTHER, GPU]).await;
    assert_eq!(response.names, [format!("{RESOURCE}={OTHER}"), format!("{RESOURCE}={GPU}")]);
    assert_eq!(response.nodes, ["/dev/vfio/vfio", "/dev/vfio/52", "/dev/vfio/51"]);
    assert_eq!(response.annotations, []);

    node.unbind(GPU).unwrap();
    wait_for_spec(&node, "one less", |spec| spec.is_some_and(|spec| names(spec) == [OTHER])).await;
    node.unbind(OTHER).unwrap();
    wait_for_spec(&node, "none", |spec| spec.is_none()).await;
    assert_eq!(files(&node), [""; 0]);
    node.bind(OTHER, "vfio-pci").unwrap();
    wait_for_spec(&node, "one again", |spec| spec.is_some()).await;
    assert_eq!(serve.terminate().0, 0);
    // The Allocate above has no pod, and the next process would keep its devices for a minute.
    let _ = fs::remove_file(node.run_dir().join("assignments.json"));
    assert_eq!(
        files(&node),
        [FILE],
        "a restart of a container needs its spec, also while the plugin is away"
    );
    // The next process has a pool of another name.
    let other = pool(&[OTHER], "cdi: devices").replace(RESOURCE, "a.b/c");
    let _serve = Serve::start(&node, &["--pools", &write_pools(&node, &other)]);
    expect(&kubelet, "the other name", |state| state.capacity("a.b/c").allocatable == 1).await;
    assert_eq!(files(&node), ["vfio-device-plugin_a.b_c.json"]);
}

#[tokio::test]
async fn without_the_key_there_is_no_spec_and_no_name() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let _serve = Serve::start(&node, &["--pools", &write_pools(&node, &pool(&[GPU], ""))]);
    expect(&kubelet, "one", |state| health(state, RESOURCE, GPU) == Some(true)).await;
    let response = allocate(&kubelet, &[GPU]).await;
    assert_eq!((response.names, response.annotations), (vec![], vec![]));
    assert!(!cdi_dir(&node).exists());
}

#[tokio::test]
async fn reader_during_a_replacement_sees_a_complete_spec() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let file = write_pools(&node, &pool(&[GPU, OTHER], "cdi: devices"));
    let _serve = Serve::start(&node, &["--pools", &file, "--interval", "50ms"]);
    expect(&kubelet, "two", |state| state.capacity(RESOURCE).allocatable == 2).await;
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| {
            let mut seen = BTreeSet::new();
            while !done.load(Ordering::Relaxed) {
                seen.insert(spec(&node).map(|spec| names(&spec)));
                // CDI reads each file that ends in .json, so only complete specs may.
                assert!(files(&node).iter().all(|file| file == FILE || !file.ends_with(".json")));
            }
            seen
        });
        for _ in 0..20 {
            for (change, devices) in [(true, 1), (false, 2)] {
                let changed = if change { node.unbind(OTHER) } else { node.bind(OTHER, "vfio-pci") };
                changed.unwrap();
                let deadline = Instant::now() + PATIENCE;
                while spec(&node).is_none_or(|spec| names(&spec).len() != devices) {
                    assert!(Instant::now() < deadline);
                }
            }
        }
        done.store(true, Ordering::Relaxed);
        let one = Some(vec![GPU.to_owned()]);
        let two = Some(vec![GPU.to_owned(), OTHER.to_owned()]);
        assert_eq!(
            reader.join().unwrap(),
            BTreeSet::from([one, two]),
            "never a missing spec, never a partial one"
        );
    });
}

#[tokio::test]
async fn pool_without_cdi_keeps_assigned_devices_in_the_spec() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let file = write_pools(&node, &pool(&[GPU, OTHER], "cdi: annotations"));
    let _serve = Serve::start(&node, &["--pools", &file]);
    expect(&kubelet, "two", |state| state.capacity(RESOURCE).allocatable == 2).await;
    let pod = kubelet.admit_with("vm", RESOURCE, vec![GPU.to_owned()]).await.unwrap();
    let name = format!("{RESOURCE}={GPU}");
    assert_eq!(pod.response.cdi_devices[0].name, name);
    assert_eq!(pod.response.annotations["cdi.k8s.io/vfio-device-plugin_0000-1b-00.0"], name);
    wait_for_pod(&node, GPU, "default/vm").await;

    write_pools(&node, &pool(&[GPU, OTHER], "cdi: none"));
    wait_for_spec(&node, "only the assigned device", |spec| spec.is_some_and(|spec| names(spec) == [GPU]))
        .await;
    let response = allocate(&kubelet, &[OTHER]).await;
    assert_eq!((response.names, response.annotations), (vec![], vec![]));
    // This pod stays: an empty list of pods is not evidence that a pod ended.
    let _other = kubelet.admit_with("other", RESOURCE, vec![OTHER.to_owned()]).await.unwrap();
    kubelet.remove(&pod.pod_uid);
    wait_for_spec(&node, "none", |spec| spec.is_none()).await;
}

#[tokio::test]
async fn assigned_device_keeps_its_spec_over_restarts() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    add_cdev(&node, GPU);
    let before = pool(&[GPU, OTHER], "cdi: devices, backend: legacy");
    let serve = Serve::start(&node, &["--pools", &write_pools(&node, &before)]);
    expect(&kubelet, "two", |state| state.capacity(RESOURCE).allocatable == 2).await;
    let pod = kubelet.admit_with("vm", RESOURCE, vec![GPU.to_owned()]).await.unwrap();
    assert_eq!(pod.response.cdi_devices[0].name, format!("{RESOURCE}={GPU}"));
    wait_for_pod(&node, GPU, "default/vm").await;
    let path = |spec: &Value| {
        let of = |edits: &Value| edits["containerEdits"]["deviceNodes"][0]["path"].clone();
        assert_eq!(of(spec), "/dev/vfio/vfio");
        of(&spec["devices"][0])
    };
    assert_eq!(path(&spec(&node).unwrap()), "/dev/vfio/51");
    let mut serve = Some(serve);
    // CDI turned off, another backend, another pool, and no pool.
    for after in [
        pool(&[GPU, OTHER], "cdi: none"),
        pool(&[GPU], "cdi: annotations, backend: iommufd"),
        pool(&[GPU, OTHER], "cdi: none").replace(RESOURCE, "a.b/c"),
        pool(&[OTHER], "backend: iommufd").replace(RESOURCE, "a.b/c"),
    ] {
        assert_eq!(serve.take().unwrap().terminate().0, 0);
        serve = Some(Serve::start(&node, &["--pools", &write_pools(&node, &after), "--interval", "50ms"]));
        wait_for_pod(&node, GPU, "default/vm").await;
        let alone = |spec: Option<&Value>| spec.is_none_or(|spec| names(spec) == [GPU]);
        wait_for_spec(&node, "only the assigned device", alone).await;
        assert_eq!(spec(&node).as_ref().map(path), Some("/dev/vfio/51".into()), "{after}");
    }
    // The kubelet may still know the socket of the previous process, which has removed it.
    expect(&kubelet, "the new registration", |state| {
        let endpoint =
            state.resources.get("a.b/c").map(|resource| node.kubelet_dir().join(&resource.endpoint));
        endpoint.is_some_and(|endpoint| endpoint.exists()) && health(state, "a.b/c", OTHER) == Some(true)
    })
    .await;
    expect(&kubelet, "registered again", |state| state.capacity("a.b/c").allocatable == 1).await;
    let _other = kubelet.admit_with("other", "a.b/c", vec![OTHER.to_owned()]).await.unwrap();
    kubelet.remove(&pod.pod_uid);
    wait_for_spec(&node, "none", |spec| spec.is_none()).await;
    drop(serve);
}

#[tokio::test]
async fn removed_or_changed_spec_is_not_named_until_repaired() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let _serve = Serve::start(&node, &["--pools", &write_pools(&node, &pool(&[GPU], "cdi: devices"))]);
    expect(&kubelet, "one", |state| health(state, RESOURCE, GPU) == Some(true)).await;
    let path = cdi_dir(&node).join(FILE);
    let whole = fs::read_to_string(&path).unwrap();
    let remove = || fs::remove_file(&path).unwrap();
    let overwrite = || fs::write(&path, "{}").unwrap();
    let replace_directory = || {
        fs::remove_dir_all(cdi_dir(&node)).unwrap();
        fs::create_dir(cdi_dir(&node)).unwrap();
    };
    for (with_allocate, disturb) in
        [(true, &remove as &dyn Fn()), (true, &overwrite), (true, &replace_directory), (false, &remove)]
    {
        disturb();
        if with_allocate {
            let response = allocate(&kubelet, &[GPU]).await;
            assert_eq!(response.nodes, ["/dev/vfio/vfio", "/dev/vfio/51"]);
            let there = fs::read_to_string(&path).is_ok_and(|text| text == whole);
            assert!(response.names.is_empty() || there, "the name has no spec, so no runtime finds it");
        }
        // The plugin repairs the spec without an Allocate too: a restart of a running container needs it.
        let deadline = Instant::now() + PATIENCE;
        while fs::read_to_string(&path).ok().as_ref() != Some(&whole) {
            assert!(Instant::now() < deadline, "not repaired");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        while allocate(&kubelet, &[GPU]).await.names.is_empty() {
            assert!(Instant::now() < deadline, "the spec is written, and its name is not returned");
        }
    }
}

#[tokio::test]
async fn unwritable_directory_costs_only_the_cdi_names() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    // A file in the place of the directory cannot be written to by root either.
    fs::create_dir(node.root().join("var/run")).unwrap();
    node.write("var/run/cdi", "").unwrap();
    let file = write_pools(&node, &pool(&[GPU, OTHER], "cdi: annotations"));
    let serve = Serve::start(&node, &["--pools", &file]);
    expect(&kubelet, "two", |state| state.capacity(RESOURCE).allocatable == 2).await;
    let response = allocate(&kubelet, &[GPU]).await;
    assert_eq!(response.nodes, ["/dev/vfio/vfio", "/dev/vfio/51"]);
    assert_eq!((response.names, response.annotations), (vec![], vec![]));
    node.unbind(OTHER).unwrap();
    expect(&kubelet, "one", |state| state.capacity(RESOURCE).capacity == 1).await;
    fs::remove_file(cdi_dir(&node)).unwrap();
    // No device changes; only the directory can be created now.
    wait_for_spec(&node, "written", |spec| spec.is_some()).await;
    let deadline = Instant::now() + PATIENCE;
    while allocate(&kubelet, &[GPU]).await.names.is_empty() {
        assert!(Instant::now() < deadline, "the spec is written, and its name is not returned");
    }
    let (_, _, log) = serve.terminate();
    let warned =
        |words: &str| log.lines().filter(|line| line.contains("WARN") && line.contains(words)).count();
    assert_eq!(warned("CDI spec could not be updated"), 1, "{log}");
    assert!(warned("allocated the nodes without CDI") >= 1, "{log}");
}

#[tokio::test]
async fn changed_nodes_are_allocated_without_cdi_until_written() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let file = write_pools(&node, &pool(&[GPU], "cdi: devices, backend: iommufd"));
    let _serve = Serve::start(&node, &["--pools", &file]);
    expect(&kubelet, "one", |state| health(state, RESOURCE, GPU) == Some(true)).await;
    assert_eq!(allocate(&kubelet, &[GPU]).await.names.len(), 1);
    // A module that is loaded later adds cdevs without a change of a device.
    let cdev = add_cdev(&node, GPU);
    let expected = ["/dev/iommu".to_owned(), format!("/dev/vfio/devices/{cdev}")];
    let response = allocate(&kubelet, &[GPU]).await;
    assert_eq!(response.nodes, expected);
    assert_eq!(response.names, [""; 0]);
    let has_new_nodes = |spec: Option<&Value>| {
        spec.is_some_and(|spec| spec["containerEdits"]["deviceNodes"][0]["path"] == "/dev/iommu")
    };
    wait_for_spec(&node, "the new nodes", has_new_nodes).await;
    let deadline = Instant::now() + PATIENCE;
    while allocate(&kubelet, &[GPU]).await.names.is_empty() {
        assert!(Instant::now() < deadline, "the spec is written, and its name is not returned");
    }
}
