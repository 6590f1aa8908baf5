//! The kubelet: whether it is there, and whether it tells what pods own.

use super::finding::Findings;
use crate::kubelet_dir::kubelet_socket;
use crate::list::ANSWER;
use crate::owners::Ownership;
use crate::owners::checkpoint::{self, Entry};
use crate::owners::given::Pod;
use crate::owners::ledger::{Ledger, Listed, Round};
use crate::owners::pod_resources::Lister;
use crate::settings::Settings;
use crate::snapshot::{DeviceReport, DeviceView, HolderReport, in_words};
use crate::status;
use anyhow::Context;
use std::time::Instant;

/// Who owns what, by what the kubelet told just now and by what `serve` knows.
pub(super) struct Owners<'a> {
    now: Ownership,
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

impl Owners<'_> {
    pub(super) fn of(&self, view: &DeviceView) -> Whose {
        let address = view.device.id.to_string();
        let told = self.told.iter().find(|told| told.address == address);
        let told = told.and_then(|told| told.owner.clone());
        match (self.now.owner(view), told) {
            // An entry of the checkpoint that no list has confirmed.
            (Some(given), None) if self.listed && given.confirmed.is_none() => {
                Whose::Unlisted(given.pod.clone())
            }
            (Some(given), _) => Whose::Pod(given.pod.clone()),
            (None, Some(name)) => Whose::Pod(Pod { uid: None, name: Some(name) }),
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
    settings: &Settings,
    told: &'a [DeviceReport],
    findings: &mut Findings,
) -> anyhow::Result<Owners<'a>> {
    let socket = settings.kubelet_dir.join(kubelet_api::KUBELET_SOCKET);
    let there = kubelet_socket(&settings.kubelet_dir).is_some();
    if !there {
        let advice = "Is the kubelet running? Give --kubelet-dir if its root directory was moved.";
        findings.warn(settings.kubelet_dir.display().to_string(), "there is no kubelet.sock", advice);
    } else if let Err(error) = status::connect(&socket, ANSWER) {
        let advice = "The kubelet has ended without removing it: start it, and look into its log.";
        findings.warn(socket.display().to_string(), format!("nobody answers: {error}"), advice);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("runtime")?;
    let pods = runtime.block_on(async { Lister::new(settings.pod_resources.clone()).list().await });
    let checkpoint = checkpoint::read(&settings.kubelet_dir);
    // Without a kubelet nobody can be expected to tell.
    if there {
        complain(settings, &pods, checkpoint.as_deref(), findings);
    }
    let mut ledger = Ledger::default();
    let outcome = ledger.take(&Round {
        pods: pods.as_deref().ok(),
        checkpoint: checkpoint.as_deref(),
        ..Round::at(Instant::now())
    });
    let listed = pods.is_ok_and(|pods| !pods.is_empty());
    Ok(Owners { now: Ownership::new(outcome.answered, &ledger), listed, told })
}

fn complain(
    settings: &Settings,
    pods: &Result<Vec<Listed>, String>,
    checkpoint: Option<&[Entry]>,
    findings: &mut Findings,
) {
    let file = settings.kubelet_dir.join(kubelet_api::CHECKPOINT);
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
