//! Judges the holders of a held device: whether they belong to the pod that it is assigned to, and what to do if not.
//!
//! Advises to end a process only if both sources of the kubelet answered and the process is certainly in no pod.

use crate::commands::doctor::finding::{Code, Findings};
use crate::commands::doctor::pods::{PodLookup, PodOf};
use crate::status::report::HolderReport;
use crate::status::words::InPodWord;
use vfio_plugin_policy::device::DeviceState;

/// Adds what is wrong with the holders of a held device.
pub(super) fn examine(
    device: &DeviceState,
    holders: &[HolderReport],
    pods: &PodLookup<'_>,
    findings: &mut Findings,
) {
    let id = device.device.id.to_string();
    let by = pods.describe(holders);
    match pods.of(device) {
        PodOf::Assigned(pod) => {
            let is_its = |uid: &str| pod.uid.as_deref().is_none_or(|assigned| assigned == uid);
            examine_assigned(&id, &pod.to_string(), holders, (&by, &is_its), findings);
        }
        PodOf::Claimed(claim) => {
            let is_its = |uid: &str| claim.for_any_pod || claim.pods.iter().any(|pod| pod.uid == uid);
            examine_assigned(&id, &claim.to_string(), holders, (&by, &is_its), findings);
        }
        PodOf::Unlisted(pod) => {
            let what = format!(
                "is held by {by}; the kubelet's checkpoint assigns it to {pod}, but pod resources do not list it there"
            );
            let advice = "It belongs to an init container, or the pod has ended and the checkpoint is out of date; a running \
                          serve finds out which.";
            findings.warn(Code::HeldCheckpointOnly, id, what, advice);
        }
        PodOf::NotKnown => {
            let what = format!("is held by {by}; no assignment known: {}", pods.gaps.join("; "));
            let advice = "The holder may be the VM of a pod that is assigned the device. Repair the source first; until then \
                          nothing here says that the holder should not hold it.";
            findings.warn(Code::HeldAssignmentUnknown, id, what, advice);
        }
        // A VM that another manager started.
        PodOf::OutsideKubernetes => {}
        PodOf::None => {
            let advice = advice_about_foreign(&id, holders);
            findings.warn(Code::Held, id, format!("is held by {by}, and is assigned to no pod"), advice);
        }
    }
}

/// Adds what is wrong with the holders of an assigned device. `by` are the holders in words, and `is_its` returns whether a pod's uid
/// is one that the device is assigned to.
fn examine_assigned(
    id: &str,
    assigned_to: &str,
    holders: &[HolderReport],
    (by, is_its): (&str, &dyn Fn(&str) -> bool),
    findings: &mut Findings,
) {
    let in_no_pod = |holder: &HolderReport| holder.in_pod == InPodWord::No;
    if !holders.is_empty() && holders.iter().all(in_no_pod) {
        let what = format!("is assigned to {assigned_to}, but held by {by}, which is in no pod");
        let advice = "The VM of that pod cannot start while the holder has the device. Find out what started the holder, and \
                      stop it there.";
        findings.warn(Code::AssignedHeldOutsidePods, id, what, advice);
    }
    let mut holding_pods = holders.iter().filter_map(|holder| holder.pod_uid.as_deref());
    if holding_pods.any(|uid| !is_its(uid)) {
        let what = format!("is assigned to {assigned_to}, but held by {by}");
        let advice = "The VM of that pod cannot start before the holder has ended. Look for processes of a deleted pod.";
        findings.warn(Code::AssignedHeldByOtherPod, id, what, advice);
    }
}

/// Returns what to do about the holders of a device that is certainly assigned to no pod.
fn advice_about_foreign(id: &str, holders: &[HolderReport]) -> String {
    let any = |word| holders.iter().any(|holder| holder.in_pod == word);
    if holders.is_empty() {
        format!(
            "Run `vfio-device-plugin who {id}` as root in the host's pid namespace (hostPID) to see the holder."
        )
    } else if any(InPodWord::Yes) {
        "If the pod still exists (`kubectl get pods -A -o custom-columns=NAME:.metadata.name,UID:.metadata.uid`), the kubelet has \
         lost its record of it, or the pod got the device in another way: end nothing, and delete the pod if it should not have the \
         device. If the pod does not exist, it was deleted by force and its VM still runs: end that process; the device then becomes \
         Healthy by itself."
            .to_owned()
    } else if any(InPodWord::Unknown) {
        "The holder is in the sandbox of a pod that its cgroup does not name, as VMs of Kata Containers are, or its cgroup cannot be \
         read. Ask the container runtime for the pod (`crictl ps`, `crictl pods`) before you end anything."
            .to_owned()
    } else {
        "The holder belongs to no pod. If it should not hold the device, end it; the device then becomes Healthy by itself."
            .to_owned()
    }
}

/// Returns what to do about the holders for which the unbind of a device waits. `serve` knows no pod that it is assigned to.
pub(super) fn advice_about_unbinding(id: &str, holders: &[HolderReport], pods: &PodLookup<'_>) -> String {
    const WAITS: &str = "The kernel's unbind waits until the holder closes the device.";
    let is_in_no_pod = |holder: &HolderReport| holder.in_pod == InPodWord::No;
    if holders.is_empty() {
        format!("{WAITS} {}", advice_about_foreign(id, holders))
    } else if !pods.gaps.is_empty() {
        format!(
            "{WAITS} It may be the VM of a pod; no assignment known: {}. Repair the source before you end anything.",
            pods.gaps.join("; ")
        )
    } else if holders.iter().all(is_in_no_pod) {
        format!("{WAITS} The holder belongs to no pod: stop its VM, or end it.")
    } else {
        format!(
            "{WAITS} The holder is in a pod, or may be: find the pod, and delete it if its VM should not have the device."
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holder(in_pod: InPodWord) -> HolderReport {
        HolderReport { pid: 7, command: "qemu".to_owned(), pod_uid: None, container_id: None, in_pod }
    }

    #[test]
    fn only_a_holder_outside_all_pods_is_to_be_ended() {
        use InPodWord::{No, Unknown, Yes};
        let advice = |words: &[InPodWord]| {
            let holders: Vec<HolderReport> = words.iter().copied().map(holder).collect();
            advice_about_foreign("0000:1b:00.0", &holders)
        };
        assert!(advice(&[No]).contains("end it"));
        for words in [&[Unknown][..], &[No, Unknown], &[]] {
            assert!(!advice(words).contains("end it") && !advice(words).contains("end that"), "{words:?}");
        }
        assert!(advice(&[No, Yes]).starts_with("If the pod still exists"));
    }
}
