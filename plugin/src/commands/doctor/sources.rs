//! Judges the two sources of assignments, pod resources and the kubelet's checkpoint: what is wrong with them, and what to do.

use crate::commands::doctor::finding::{Code, Findings};
use crate::config::Config;
use crate::kubelet::checkpoint::CheckpointError;
use crate::kubelet::pod_resources::{Failure, PodResourcesError};
use std::io::ErrorKind;
use vfio_plugin_policy::assignments::observation::{CheckpointEntry, ListedPod};

/// What the two sources answered.
pub(super) struct Sources {
    pub(super) pods: Result<Vec<ListedPod>, PodResourcesError>,
    pub(super) checkpoint: Result<Vec<CheckpointEntry>, CheckpointError>,
}

impl Sources {
    /// Returns what is missing to say that a device is assigned to no pod. Pod resources lack init containers and pods that are
    /// being admitted; the checkpoint has them. A kubelet that is starting lists no pod.
    pub(super) fn gaps(&self) -> Vec<String> {
        let mut gaps = Vec::new();
        match &self.pods {
            Err(error) => gaps.push(format!("pod resources did not answer ({error})")),
            Ok(pods) if pods.is_empty() && self.checkpoint.is_err() => {
                gaps.push("pod resources listed no pod".to_owned());
            }
            Ok(_) => {}
        }
        match &self.checkpoint {
            Ok(_) => {}
            Err(CheckpointError::Missing) => gaps.push("the kubelet has no checkpoint".to_owned()),
            Err(error) => gaps.push(format!("the kubelet's checkpoint was not understood ({error})")),
        }
        gaps
    }

    /// Adds what is wrong with the sources.
    pub(super) fn examine(&self, config: &Config, findings: &mut Findings) {
        let path = config.kubelet_dir.join(kubelet_api::CHECKPOINT).display().to_string();
        match (&self.pods, &self.checkpoint) {
            // A kubelet that has allocated nothing and has no plugin has no checkpoint.
            (Ok(_), Ok(_) | Err(CheckpointError::Missing)) => {}
            (Ok(_), Err(error)) => {
                let advice = format!(
                    "{} Until then devices of init containers and uids of pods are unknown.",
                    checkpoint_advice(*error)
                );
                findings.warn(Code::CheckpointUnusable, path, format!("is not used: {error}"), advice);
            }
            (Err(error), _) if error.failure() == Failure::Unimplemented => {
                findings.broken(
                    Code::KubeletTooOld,
                    "kubelet",
                    format!("is too old: {error}"),
                    pod_resources_advice(Failure::Unimplemented),
                );
            }
            (Err(error), Ok(_)) => {
                let advice = format!(
                    "{} Until then assignments come from the checkpoint only: the end of a pod is seen later, and pods have no names.",
                    pod_resources_advice(error.failure())
                );
                findings.warn(
                    Code::PodResourcesUnavailable,
                    "pod resources",
                    format!("cannot be listed: {error}"),
                    advice,
                );
            }
            (Err(error), Err(checkpoint)) => {
                let advice = format!(
                    "{} {} Until then no held device becomes Unhealthy, and Allocate refuses it.",
                    pod_resources_advice(error.failure()),
                    checkpoint_advice(*checkpoint)
                );
                let what = format!("assignments are unknown: {error}; {path}: {checkpoint}");
                findings.broken(Code::AssignmentsUnknown, "pod resources", what, advice);
            }
        }
    }
}

/// Returns what to do about pod resources that cannot be listed.
fn pod_resources_advice(failure: Failure) -> &'static str {
    match failure {
        Failure::NoSocket => {
            "Mount the kubelet's directory pod-resources, or set --kubelet-root to the kubelet's --root-dir."
        }
        Failure::Refused => {
            "No process listens on the socket: the kubelet has ended or is starting. Start it, and look into its log."
        }
        Failure::Denied => {
            "Run as root: connecting needs write permission for the socket. In a container, SELinux or AppArmor must allow it too."
        }
        Failure::Unreachable => {
            "Set --kubelet-root to the kubelet's root directory, or --pod-resources to its socket."
        }
        Failure::OtherProgram => {
            "A program that is not the kubelet answers there: set --pod-resources to the kubelet's socket."
        }
        Failure::Late => {
            "The kubelet is starting, overloaded or hangs: look at the node's load and into the kubelet's log, and try again."
        }
        Failure::TooLong => {
            "The list is longer than a kubelet sends: look for a pod with very many containers or devices, and for pods of \
             this node that have ended and were not deleted."
        }
        Failure::RateLimited => {
            "The kubelet limits the calls of all its clients together: find the client that lists pods too often, and try again."
        }
        Failure::Unimplemented => {
            "Kubernetes 1.26 or newer is needed; --pod-resources must name the socket of pod resources."
        }
        Failure::Refusal => "The kubelet answered with this error: its log has the cause.",
    }
}

/// Returns what to do about a checkpoint that is not used.
fn checkpoint_advice(error: CheckpointError) -> &'static str {
    match error {
        CheckpointError::Missing => {
            "Mount /var/lib/kubelet/device-plugins, or set --kubelet-dir; the kubelet writes its checkpoint with the first \
             plugin that registers."
        }
        CheckpointError::Unreadable(ErrorKind::PermissionDenied) => "Run as root to read the checkpoint.",
        CheckpointError::Unreadable(_) => "Look into dmesg for errors of the checkpoint's disk.",
        CheckpointError::NotRegular => {
            "Remove what has the checkpoint's name: the kubelet writes the file again with the next device list."
        }
        CheckpointError::TooLarge | CheckpointError::OverLimit(_) => {
            "A checkpoint has a few hundred bytes for each container with devices: find out what writes to the file."
        }
        CheckpointError::Empty => {
            "A full disk or a power cut leaves the checkpoint empty: make room on the disk; the kubelet writes the file again with the \
             next device list."
        }
        CheckpointError::Malformed => {
            "A full disk leaves the checkpoint half written: make room on it; the kubelet writes the file again with the next device \
             list. A newer kubelet may write another format."
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_advised_only_for_a_missing_file() {
        use Failure::{
            Denied, Late, NoSocket, OtherProgram, RateLimited, Refusal, Refused, TooLong, Unimplemented,
            Unreachable,
        };
        let all = [
            NoSocket,
            Refused,
            Denied,
            Unreachable,
            OtherProgram,
            Late,
            TooLong,
            RateLimited,
            Unimplemented,
            Refusal,
        ];
        let advice: std::collections::BTreeSet<&str> = all.into_iter().map(pod_resources_advice).collect();
        assert_eq!(advice.len(), all.len(), "each failure has its own advice");
        for failure in all {
            assert_eq!(pod_resources_advice(failure).contains("Mount"), failure == NoSocket, "{failure:?}");
        }
        use CheckpointError::{Empty, Malformed, Missing, NotRegular, TooLarge, Unreadable};
        let all = [
            Missing,
            Unreadable(ErrorKind::PermissionDenied),
            Unreadable(ErrorKind::Other),
            NotRegular,
            TooLarge,
            Empty,
            Malformed,
        ];
        for error in all {
            assert_eq!(checkpoint_advice(error).contains("Mount"), error == Missing, "{error:?}");
        }
    }

    #[test]
    fn absence_is_known_only_if_both_sources_answered() {
        let pod = ListedPod { full_name: "default/vm-1".to_owned(), devices: Default::default() };
        let sources = |pods: &[ListedPod], checkpoint| Sources { pods: Ok(pods.to_vec()), checkpoint };
        let listed = std::slice::from_ref(&pod);
        assert_eq!(sources(listed, Ok(Vec::new())).gaps(), [""; 0]);
        assert_eq!(sources(&[], Ok(Vec::new())).gaps(), [""; 0]);
        assert_eq!(sources(listed, Err(CheckpointError::Missing)).gaps(), ["the kubelet has no checkpoint"]);
        let too_large = sources(&[], Err(CheckpointError::TooLarge)).gaps();
        assert_eq!(too_large[0], "pod resources listed no pod");
        assert_eq!(
            too_large[1],
            "the kubelet's checkpoint was not understood (the file has more than 16 MiB)"
        );
    }
}
