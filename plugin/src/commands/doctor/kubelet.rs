//! The kubelet: whether it is there, and whether it tells what pods own.

use crate::commands::doctor::finding::Findings;
use crate::config::Config;
use crate::kubelet::checkpoint;
use crate::kubelet::pod_resources::Lister;
use crate::kubelet::socket_watch::kubelet_socket;
use crate::status::client;
use crate::status::client::ANSWER;
use crate::status::report::{DeviceReport, HolderReport};
use anyhow::Context;
use std::time::Instant;
use vfio_plugin_policy::assignments::index::Assignments;
use vfio_plugin_policy::assignments::ledger::Ledger;
use vfio_plugin_policy::assignments::observation::{CheckpointEntry, ListedPod, Observation};
use vfio_plugin_policy::assignments::record::Pod;
use vfio_plugin_policy::device::DeviceState;
use vfio_plugin_policy::holders::in_words;

/// Who owns what, by what the kubelet told just now and by what `serve` knows.
pub(super) struct PodClaims<'a> {
    now: Assignments,
    /// Pods were listed.
    listed: bool,
    told: &'a [DeviceReport],
}

/// Whose a device is.
pub(super) enum Whose {
    Pod(Pod),
    /// A pod's by the checkpoint, and by no listed pod.
    Unlisted(Pod),
    Nobody,
    /// Neither the kubelet nor `serve` tells.
    Untold,
}

impl PodClaims<'_> {
    pub(super) fn of(&self, view: &DeviceState) -> Whose {
        let address = view.device.id.to_string();
        let told = self.told.iter().find(|told| told.address == address);
        let told = told.and_then(|told| told.assignment.as_ref());
        match (self.now.assignment(view), told) {
            // An entry of the checkpoint that no list has confirmed.
            (Some(given), None) if self.listed && given.confirmed.is_none() => {
                Whose::Unlisted(given.pod.clone())
            }
            (Some(given), _) => Whose::Pod(given.pod.clone()),
            (None, Some(assignment)) => Whose::Pod(assignment.pod_ref()),
            (None, None) if self.now.told => Whose::Nobody,
            (None, None) => Whose::Untold,
        }
    }

    /// Holders in words, their pods by name where they have any device.
    pub(super) fn name(&self, holders: &[HolderReport]) -> String {
        in_words(holders.iter().map(|holder| {
            let pod = holder.pod_uid.as_deref().map(|uid| self.now.name_of(uid).unwrap_or(uid));
            (holder.pid, &holder.command, pod)
        }))
    }
}

/// Asks the kubelet once, with the plugin's own deadline.
pub(super) fn examine<'a>(
    config: &Config,
    told: &'a [DeviceReport],
    findings: &mut Findings,
) -> anyhow::Result<PodClaims<'a>> {
    let socket = config.kubelet_dir.join(kubelet_api::KUBELET_SOCKET);
    let there = kubelet_socket(&config.kubelet_dir).is_some();
    if !there {
        let advice = "Is the kubelet running? Give --kubelet-dir if its root directory was moved.";
        findings.warn(config.kubelet_dir.display().to_string(), "there is no kubelet.sock", advice);
    } else if let Err(error) = client::connect(&socket, ANSWER) {
        let advice = "The kubelet has ended without removing it: start it, and look into its log.";
        findings.warn(socket.display().to_string(), format!("nobody answers: {error}"), advice);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("runtime")?;
    let pods = runtime.block_on(async { Lister::new(config.pod_resources.clone()).list().await });
    let checkpoint = checkpoint::read(&config.kubelet_dir);
    // Without a kubelet nobody can be expected to tell.
    if there {
        complain(config, &pods, checkpoint.as_deref(), findings);
    }
    let mut ledger = Ledger::default();
    let outcome = ledger.take(&Observation {
        pods: pods.as_deref().ok(),
        checkpoint: checkpoint.as_deref(),
        ..Observation::at(Instant::now())
    });
    let listed = pods.is_ok_and(|pods| !pods.is_empty());
    Ok(PodClaims { now: Assignments::new(outcome.answered, &ledger), listed, told })
}

fn complain(
    config: &Config,
    pods: &Result<Vec<ListedPod>, String>,
    checkpoint: Option<&[CheckpointEntry]>,
    findings: &mut Findings,
) {
    let file = config.kubelet_dir.join(kubelet_api::CHECKPOINT);
    match (pods, checkpoint) {
        (Ok(_), Some(_)) => {}
        (Ok(_), None) if !file.exists() => {}
        (Ok(_), None) => {
            let advice =
                "Devices of init containers, and pods' uids, are unknown until the kubelet writes it anew.";
            findings.warn(file.display().to_string(), "cannot be understood", advice);
        }
        (Err(error), _) if error.contains("Unimplemented") => {
            let advice = "Kubernetes 1.26 or newer is needed.";
            findings.broken("kubelet", format!("is too old: {error}"), advice);
        }
        (Err(error), Some(_)) => {
            let advice = "Mount the kubelet's folder pod-resources, or give --pod-resources. Until then owners are told by its \
                          checkpoint alone: a pod's end is seen later, and pods have no names.";
            findings.warn("pod resources", format!("cannot be listed: {error}"), advice);
        }
        (Err(error), None) => {
            let advice = "Mount the kubelet's folders device-plugins and pod-resources, or give --kubelet-dir and \
                          --pod-resources. Until then no held device becomes Unhealthy, and Allocate has to refuse it.";
            let what = format!("nobody tells what pods own: {error}; no checkpoint at {}", file.display());
            findings.broken("pod resources", what, advice);
        }
    }
}
