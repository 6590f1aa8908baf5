//! Devices: foreign holders, assigned devices that are unbound, and what only a running `serve` knows.

use crate::common::{H100, Serve, expect, kubelet, offered, wait_for_pod};
use crate::{GPU, OTHER, examine, has, wait_for_finding};
use vfio_sim_node::kubelet::PodResourcesMode;
use vfio_sim_node::{Hold, Node, VmSpec};

#[tokio::test]
async fn foreign_holders_are_named_with_their_pod() {
    let (node, kubelet, _serve) = offered(&[]).await;
    let pod = kubelet.admit_with("vm-1", H100, vec![GPU.to_owned()]).await.unwrap();
    // Before serve knows the pods, a holder's cgroup would assign the device.
    wait_for_pod(&node, GPU, "default/vm-1").await;
    let _vm = node.start_vm(&VmSpec::of_pod(&pod.pod_uid, &[OTHER.to_owned()])).unwrap();
    let stranger = "4b5a1c7e-5b0a-4a57-9d3a-0123456789ab";
    let left = node.start_vm(&VmSpec::of_pod(stranger, &["0000:4e:00.0".to_owned()])).unwrap();
    let process = node.start_vm(&VmSpec::foreign(&["0000:5f:00.0"])).unwrap();
    let (code, findings) = examine(&node);
    assert_eq!(code, 1);
    has(&findings, &format!("{OTHER}: is held by pid"), "deleted by force");
    has(&findings, ", pod default/vm-1, and is assigned to no pod", "");
    has(
        &findings,
        &format!("0000:4e:00.0: is held by pid {} (qemu-system-x86), pod {stranger}", left.pid()),
        "by force",
    );
    has(&findings, &format!("0000:5f:00.0: is held by pid {}", process.pid()), "belongs to no pod");
    assert!(!findings.iter().any(|(what, _)| what.contains(GPU)), "{findings:#?}");
    // A device that is assigned to one pod and held by the VM of another.
    let second = kubelet.admit_with("vm-2", H100, vec!["0000:9b:00.0".to_owned()]).await.unwrap();
    let _vm = node.start_vm(&VmSpec::of_pod(&pod.pod_uid, &second.devices)).unwrap();
    wait_for_pod(&node, "0000:9b:00.0", "default/vm-2").await;
    let (_, findings) = examine(&node);
    has(
        &findings,
        "0000:9b:00.0: is assigned to pod default/vm-2, but held by",
        "before the holder has ended",
    );
}

#[tokio::test]
async fn policy_that_makes_the_numbers_wrong_is_reported() {
    let (node, kubelet, _serve) = offered(&["--busy", "unhealthy"]).await;
    let pod = kubelet.admit("vm-1", H100, 2).await.unwrap();
    let _vm = node.start_vm(&VmSpec::of_pod(&pod.pod_uid, &pod.devices)).unwrap();
    expect(&kubelet, "two less", |state| state.capacity(H100).allocatable == 6).await;
    wait_for_pod(&node, GPU, "default/vm-1").await;
    let (code, findings) = examine(&node);
    assert_eq!((code, findings.len()), (1, 1), "{findings:#?}");
    has(
        &findings,
        "reports 2 devices of running pods as Unhealthy (0000:1b:00.0, 0000:3d:00.0): allocatable - requested is 2 too low",
        "--busy unhealthy",
    );
}

#[tokio::test]
async fn unbound_assigned_device_is_reported_with_its_pod() {
    let (node, kubelet, _serve) = offered(&[]).await;
    kubelet.admit_with("vm-1", H100, vec![GPU.to_owned()]).await.unwrap();
    wait_for_pod(&node, GPU, "default/vm-1").await;
    node.unbind(GPU).unwrap();
    wait_for_finding(
        &node,
        &format!("{GPU}: is assigned to pod default/vm-1 and is no longer bound"),
        "Bind it again",
    );
    let held = node.start_vm(&VmSpec::foreign(&[OTHER])).unwrap();
    expect(&kubelet, "held", |state| state.capacity(H100).allocatable == 7).await;
    node.unbind(OTHER).unwrap();
    wait_for_finding(&node, &format!("{OTHER}: unbinding, held by pid {}", held.pid()), "unbind waits");
    // Each has one finding, and none advises to bind what a pod or a waiting unbind has.
    let (_, findings) = examine(&node);
    for address in [GPU, OTHER] {
        let about = findings.iter().filter(|(what, _)| what.contains(&format!(" {address}: ")));
        assert_eq!(about.count(), 1, "{findings:#?}");
    }
    assert!(!findings.iter().any(|(_, todo)| todo.contains("driverctl")), "{findings:#?}");
}

#[tokio::test]
async fn no_advice_to_end_an_unbinds_holder_that_may_be_a_pods() {
    let (node, kubelet, serve) = offered(&[]).await;
    // Both sources answer.
    kubelet.admit_with("vm-1", H100, vec![GPU.to_owned()]).await.unwrap();
    let mut sandbox = VmSpec::foreign(&["0000:5f:00.0"]);
    sandbox.cgroup = Some(format!("0::/kata_overhead/{}\n", "ab".repeat(32)));
    let _vms = [node.start_vm(&VmSpec::foreign(&[OTHER])).unwrap(), node.start_vm(&sandbox).unwrap()];
    expect(&kubelet, "held", |state| state.capacity(H100).allocatable == 6).await;
    node.unbind(OTHER).unwrap();
    node.unbind("0000:5f:00.0").unwrap();
    wait_for_finding(&node, &format!("{OTHER}: unbinding, held by pid"), "stop its VM, or end it");
    wait_for_finding(&node, "0000:5f:00.0: unbinding, held by pid", "is in a pod, or may be");
    // A process of no pod holds a device that is assigned to a pod.
    let _other = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    wait_for_finding(
        &node,
        &format!("{GPU}: is assigned to pod default/vm-1, but held by"),
        "Find out what started",
    );
    // Without serve, the holder shows that an unbind waits.
    drop(serve);
    let (_, findings) = examine(&node);
    has(&findings, &format!("{OTHER}: unbinding, held by pid"), "stop its VM, or end it");
    has(&findings, "0000:5f:00.0: unbinding, held by pid", "is in a pod, or may be");
    assert!(!findings.iter().any(|(_, todo)| todo.contains("driverctl")), "{findings:#?}");
    // The pod of the holder cannot be looked up.
    kubelet.set_pod_resources_mode(PodResourcesMode::Failing);
    wait_for_finding(
        &node,
        &format!("{OTHER}: unbinding, held by pid"),
        "no assignment known: pod resources",
    );
    let (_, findings) = examine(&node);
    assert!(!findings.iter().any(|(_, todo)| todo.contains("end it") || todo.contains("end the process")));
}

#[tokio::test]
async fn facts_that_only_serve_knows_are_used() {
    let node = Node::with_eight_gpus().unwrap();
    // `enable` is left over from an earlier driver, and no process holds the device.
    node.write("sys/devices/pci0000:00/0000:1b:00.0/enable", "1\n").unwrap();
    let kubelet = kubelet(&node).await;
    let vm = node.start_vm(&VmSpec { hold: Hold::GroupOnly, ..VmSpec::foreign(&[OTHER]) }).unwrap();
    let _serve = Serve::start(&node, &[]);
    expect(&kubelet, "one is held", |state| state.capacity(H100).allocatable == 7).await;
    let (code, findings) = examine(&node);
    assert_eq!((code, findings.len()), (1, 1), "{findings:#?}");
    has(
        &findings,
        &format!("{OTHER}: is held by pid {} (qemu-system-x86), and is assigned to no pod", vm.pid()),
        "end it",
    );
}

#[tokio::test]
async fn assignment_known_from_the_checkpoint_only_is_named_so() {
    let (node, kubelet, serve) = offered(&[]).await;
    kubelet.admit_with("vm-1", H100, vec![GPU.to_owned()]).await.unwrap();
    let pod = kubelet.admit_with("vm-2", H100, vec![OTHER.to_owned()]).await.unwrap();
    drop(serve);
    let checkpoint = node.kubelet_dir().join(kubelet_api::CHECKPOINT);
    let before = std::fs::read(&checkpoint).unwrap();
    let _left = node.start_vm(&VmSpec::of_pod(&pod.pod_uid, &pod.devices)).unwrap();
    kubelet.remove(&pod.pod_uid);
    // Until the kubelet writes it again, the checkpoint names a pod that has ended.
    std::fs::write(&checkpoint, before).unwrap();
    let (_, findings) = examine(&node);
    let what = format!(
        "the kubelet's checkpoint assigns it to pod {}, but pod resources do not list it there",
        pod.pod_uid
    );
    has(&findings, &what, "a running serve finds out");
}
