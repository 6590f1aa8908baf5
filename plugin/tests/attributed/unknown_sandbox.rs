//! VMs in cgroups that name no pod, as those of Kata: such a holder never shows that a pod has ended.

use crate::common::{H100, admit_after_restart, device, expect, health, offered, run, wait_for_pod};
use crate::{GPU, OTHER, SETTLED, allocatable};
use vfio_sim_node::VmSpec;
use vfio_sim_node::kubelet::PodResourcesMode;

const KATA: &str = "0::/kata_overhead/00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff\n";

/// The checkpoint names the pod while pod resources fail. Then the kubelet restarts without its checkpoint, writes a new one for
/// another pod, and lists the running pod without devices.
#[tokio::test]
async fn device_of_a_running_kata_pod_stays_healthy() {
    let (node, kubelet, _serve) = offered(&[]).await;
    kubelet.set_pod_resources_mode(PodResourcesMode::RateLimited);
    let pod = kubelet.admit_with("vm-1", H100, vec![GPU.to_owned()]).await.unwrap();
    let spec = VmSpec { cgroup: Some(KATA.to_owned()), ..VmSpec::of_pod(&pod.pod_uid, &pod.devices) };
    let _vm = node.start_vm(&spec).unwrap();
    wait_for_pod(&node, GPU, &pod.pod_uid).await;
    kubelet.restart(false).await.unwrap();
    expect(&kubelet, "registered again", |state| allocatable(state) == 8).await;
    admit_after_restart(&kubelet, "vm-2", H100, OTHER).await.unwrap();
    kubelet.set_pod_resources_mode(PodResourcesMode::Normal);
    wait_for_pod(&node, OTHER, "default/vm-2").await;
    // Two polls, one second apart, would end the assignment.
    tokio::time::sleep(SETTLED * 3).await;
    assert_eq!(health(&kubelet.state(), H100, GPU), Some(true));
    let listed = device(&node, GPU);
    assert_eq!(listed["assignment"]["uid"], pod.pod_uid.as_str(), "{listed}");
    assert_eq!(
        (&listed["holders"][0]["in_pod"], &listed["holders"][0]["pod_uid"]),
        (&"unknown".into(), &().into())
    );
    let (_, out, _) = run(&node, &["doctor"]);
    assert!(!out.contains(GPU), "{out}");
}

#[tokio::test]
async fn doctor_does_not_advise_to_end_a_sandbox_of_an_unknown_pod() {
    let (node, kubelet, _serve) = offered(&[]).await;
    let spec = VmSpec { cgroup: Some(KATA.to_owned()), ..VmSpec::foreign(&[GPU]) };
    let _vm = node.start_vm(&spec).unwrap();
    expect(&kubelet, "Unhealthy", |state| health(state, H100, GPU) == Some(false)).await;
    let (code, out, _) = run(&node, &["doctor"]);
    assert!(code == 1 && out.contains("Ask the container runtime"), "{out}");
    assert!(!out.contains("end it;") && !out.contains("end that process"), "{out}");
}
