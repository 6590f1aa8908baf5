//! Checks the kubelet: whether it runs, and whether it shows which pods have which devices.

use crate::commands::doctor::finding::Findings;
use crate::config::Config;
use crate::kubelet::checkpoint;
use crate::kubelet::pod_resources::{Lister, PodResourcesError};
use crate::kubelet::socket_watch::kubelet_socket;
use crate::status::client;
use crate::status::client::ANSWER_TIMEOUT;
use crate::status::report::{DeviceReport, HolderReport};
use anyhow::Context;
use std::time::Instant;
use vfio_plugin_policy::assignments::index::Assignments;
use vfio_plugin_policy::assignments::ledger::Ledger;
use vfio_plugin_policy::assignments::observation::{CheckpointEntry, ListedPod, Observation};
use vfio_plugin_policy::assignments::record::PodRef;
use vfio_plugin_policy::device::DeviceState;
use vfio_plugin_policy::holders::in_words;

/// Looks up which pod a device is assigned to, from the kubelet's answers of now and from a running `serve`.
pub(super) struct PodLookup<'a> {
    assignments: Assignments,
    /// Whether pod resources listed at least one pod.
    listed: bool,
    reported: &'a [DeviceReport],
}

/// The pod that a device is assigned to.
pub(super) enum PodOf {
    /// This one.
    Assigned(PodRef),
    /// This one by the checkpoint; pod resources list no pod with the device.
    Unlisted(PodRef),
    /// None.
    None,
    /// Neither the kubelet nor `serve` says.
    Unknown,
}

impl PodLookup<'_> {
    /// Returns the pod that a device is assigned to.
    pub(super) fn of(&self, device: &DeviceState) -> PodOf {
        let address = device.device.id.to_string();
        let reported = self.reported.iter().find(|reported| reported.address == address);
        let reported = reported.and_then(|reported| reported.assignment.as_ref());
        match (self.assignments.assignment(device), reported) {
            // A checkpoint entry that no list has confirmed.
            (Some(assignment), None) if self.listed && assignment.confirmed.is_none() => {
                PodOf::Unlisted(assignment.pod.clone())
            }
            (Some(assignment), _) => PodOf::Assigned(assignment.pod.clone()),
            (None, Some(reported)) => PodOf::Assigned(reported.pod_ref()),
            (None, None) if self.assignments.known => PodOf::None,
            (None, None) => PodOf::Unknown,
        }
    }

    /// Returns holders in words; pods are named by `namespace/name` where that is known.
    pub(super) fn describe(&self, holders: &[HolderReport]) -> String {
        in_words(holders.iter().map(|holder| {
            let pod = holder.pod_uid.as_deref().map(|uid| self.assignments.pod_name(uid).unwrap_or(uid));
            (holder.pid, &holder.command, pod)
        }))
    }
}

/// Adds what is wrong with the kubelet, and returns which pods have which devices. Reads pod resources and the checkpoint once, with
/// the plugin's own deadline.
pub(super) fn examine<'a>(
    config: &Config,
    reported: &'a [DeviceReport],
    findings: &mut Findings,
) -> anyhow::Result<PodLookup<'a>> {
    let socket = config.kubelet_dir.join(kubelet_api::KUBELET_SOCKET);
    let running = kubelet_socket(&config.kubelet_dir).is_some();
    if !running {
        let advice = "Is the kubelet running? Give --kubelet-dir if its root directory was moved.";
        findings.warn(config.kubelet_dir.display().to_string(), "there is no kubelet.sock", advice);
    } else if let Err(error) = client::connect(&socket, ANSWER_TIMEOUT) {
        let advice = "The kubelet ended without removing the socket: start it, and look into its log.";
        findings.warn(socket.display().to_string(), format!("the kubelet does not answer: {error}"), advice);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("runtime")?;
    let pods = runtime.block_on(async { Lister::new(config.pod_resources.clone()).list().await });
    let checkpoint = checkpoint::read(&config.kubelet_dir).ok();
    // Without a kubelet neither source can be expected.
    if running {
        check_sources(config, &pods, checkpoint.as_deref(), findings);
    }
    let mut ledger = Ledger::default();
    let outcome = ledger.observe(&Observation {
        pods: pods.as_deref().ok(),
        checkpoint: checkpoint.as_deref(),
        ..Observation::at(Instant::now())
    });
    let listed = pods.is_ok_and(|pods| !pods.is_empty());
    Ok(PodLookup { assignments: Assignments::new(outcome.answered, &ledger), listed, reported })
}

/// Adds what is wrong with the two sources of assignments.
fn check_sources(
    config: &Config,
    pods: &Result<Vec<ListedPod>, PodResourcesError>,
    checkpoint: Option<&[CheckpointEntry]>,
    findings: &mut Findings,
) {
    let file = config.kubelet_dir.join(kubelet_api::CHECKPOINT);
    match (pods, checkpoint) {
        (Ok(_), Some(_)) => {}
        (Ok(_), None) if !file.exists() => {}
        (Ok(_), None) => {
            let advice =
                "Devices of init containers and uids of pods are unknown until the kubelet writes it again.";
            findings.warn(
                file.display().to_string(),
                "is not a checkpoint that this version understands",
                advice,
            );
        }
        (Err(error), _) if error.is_unimplemented() => {
            let advice = "Kubernetes 1.26 or newer is needed.";
            findings.broken("kubelet", format!("is too old: {error}"), advice);
        }
        (Err(error), Some(_)) => {
            let advice = "Mount the kubelet's pod-resources directory, or set --pod-resources. Until then assignments come from the \
                          checkpoint only: the end of a pod is seen later, and pods have no names.";
            findings.warn("pod resources", format!("cannot be listed: {error}"), advice);
        }
        (Err(error), None) => {
            let advice = "Mount the kubelet's directories device-plugins and pod-resources, or set --kubelet-dir and --pod-resources. \
                          Until then no held device becomes Unhealthy, and Allocate refuses it.";
            let what = format!("assignments are unknown: {error}; no checkpoint at {}", file.display());
            findings.broken("pod resources", what, advice);
        }
    }
}
