//! Errors in the pools file, and which of `--pools` and `--select` decides.

use crate::common::{H100, PATIENCE, Serve, expect, kubelet, program, run, write_pools};
use std::time::Instant;
use vfio_sim_node::{Function, Node};

#[test]
fn bad_file_exits_64_with_the_line_and_what_was_expected() {
    let node = Node::new().unwrap();
    let file = write_pools(&node, "pools:\n  - resource: GPU\n    select: [{}]\n");
    for command in ["serve", "list", "doctor"] {
        let (code, out, error) = run(&node, &[command, "--pools", &file]);
        assert_eq!((code, out.as_str()), (64, ""), "{command}");
        let expected = format!(
            "vfio-device-plugin: {file}: line 2: \"GPU\": expected a resource name that the kubelet accepts"
        );
        assert!(error.starts_with(&expected), "{error}");
    }
    let (code, _, error) = run(&node, &["list", "--pools", "/nowhere/pools.yaml"]);
    assert_eq!(code, 64);
    assert!(error.contains("/nowhere/pools.yaml: cannot be read: No such file"), "{error}");
}

#[test]
fn flag_overrides_variable_and_empty_variable_is_unset() {
    let node = Node::with_eight_gpus().unwrap();
    let file = write_pools(&node, "pools: [{resource: a.b/c, select: [{}]}]");
    let (select, pools) = ("VFIO_DEVICE_PLUGIN_SELECT", "VFIO_DEVICE_PLUGIN_POOLS");
    let (of_pools, of_models) = ((0, "a.b/c"), (0, H100));
    let none = (0, "No selected device");
    for (words, variables, (code, expected)) in [
        (&["--pools", &*file][..], &[][..], of_pools),
        (&["--pools", &file], &[(select, "1002")], of_pools),
        (&["--select", "10de"], &[(pools, &*file)], of_models),
        (&[], &[(pools, &file)], of_pools),
        (&[], &[(select, "1002")], none),
        (&[], &[(pools, "")], of_models),
        (&[], &[(pools, ""), (select, "1002")], none),
        (&[], &[(pools, &file), (select, "")], of_pools),
        (&[], &[(pools, ""), (select, ""), ("VFIO_DEVICE_PLUGIN_INTERVAL", "")], of_models),
        (&["--pools", &file, "--select", "10de"], &[], (64, "--select and --pools exclude each other")),
        (&["--pools", &file, "--select", "10de"], &[(pools, &file)], (64, "--select and --pools exclude")),
        (
            &[],
            &[(pools, &file), (select, "10de")],
            (64, "VFIO_DEVICE_PLUGIN_SELECT and VFIO_DEVICE_PLUGIN_POOLS"),
        ),
        (&["--pools", ""], &[], (64, "--pools")),
    ] {
        // The flags may stand before the command and after it.
        for at in [0, 1] {
            let mut all = words.to_vec();
            all.insert(if at == 0 { 0 } else { all.len() }, "list");
            let output = program(&node, &all).envs(variables.iter().copied()).output().unwrap();
            let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
            assert_eq!(output.status.code(), Some(code), "{all:?} {variables:?}: {text}");
            assert!(text.contains(expected), "{all:?} {variables:?}: {text}");
        }
    }
}

#[tokio::test]
async fn file_broken_later_is_reported_and_serve_is_listed() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let file = write_pools(
        &node,
        "pools: [{resource: a.b/one, select: [{numa_node: 0}]}, {select: [{numa_node: 1}]}]",
    );
    let _serve = Serve::start(&node, &["--pools", &file]);
    expect(&kubelet, "both pools", |state| {
        ["a.b/one", H100].map(|resource| state.capacity(resource).allocatable) == [4, 4]
    })
    .await;
    // This function is in no pool, so the commands must not list it.
    node.add(Function { class: 0x02_0000, ..Function::gpu("0000:f1:00.0", 90, -1) }).unwrap();
    // Until the kubelet has written its checkpoint, the pods are unknown.
    let listed = || run(&node, &["list", "--pools", &file]).1;
    let deadline = Instant::now() + PATIENCE;
    while listed().contains("  ?") {
        assert!(Instant::now() < deadline, "{}", listed());
    }
    let before = listed();
    assert_eq!(run(&node, &["doctor", "--pools", &file]).0, 0);
    write_pools(&node, "pools:\n  - resource: a.b/one\n    selekt: []\n");
    let (code, out, error) = run(&node, &["list", "--pools", &file]);
    assert_eq!((code, &out), (0, &before), "{error}");
    let expected = format!("{file}: line 3: unknown field `selekt`");
    assert!(error.contains(&expected) && error.contains("of the running serve"), "{error}");
    let (code, out, _) = run(&node, &["doctor", "--pools", &file]);
    assert!(code == 2 && out.contains(&format!("{file}: cannot be used: line 3: unknown field")), "{out}");
}
