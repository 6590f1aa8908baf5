//! The kubelet: whether it is there, and whether it tells what pods own.

use super::finding::Findings;
use crate::kubelet_dir::kubelet_socket;
use crate::owners::Ownership;
use crate::owners::checkpoint::{self, Entry};
use crate::owners::given::Pod;
use crate::owners::ledger::{Ledger, Listed, Round};
use crate::owners::pod_resources::Lister;
use crate::settings::Settings;
use crate::snapshot::{DeviceReport, DeviceView, describe};
use crate::status::StatusReport;
use anyhow::Context;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};
use vfio_probe::Holder;

/// Who owns what, by what the kubelet told just now and by what `serve` knows.
pub(super) struct Owners {
    now: Ownership,
    told: Vec<DeviceReport>,
}

/// Whose a device is.
pub(super) enum Whose {
    Pod(Pod),
    Nobody,
    /// Neither the kubelet nor `serve` tells.
    Untold,
}

impl Owners {
    pub(super) fn of(&self, view: &DeviceView) -> Whose {
        if let Some(given) = self.now.owner(view) {
            return Whose::Pod(given.pod.clone());
        }
        let address = view.device.id.to_string();
        let told = self.told.iter().find(|told| told.address == address);
        match told.and_then(|told| told.owner.clone()) {
            Some(name) => Whose::Pod(Pod { uid: None, name: Some(name) }),
            None if self.now.told => Whose::Nobody,
            None => Whose::Untold,
        }
    }

    /// Holders in words, their pods by name where they have any device.
    pub(super) fn name(&self, holders: &[Holder]) -> String {
        let mut text = describe(holders);
        for uid in holders.iter().filter_map(|holder| holder.owner.pod_uid) {
            if let Some(name) = self.now.name_of(uid.as_str()) {
                text = text.replace(uid.as_str(), name);
            }
        }
        text
    }
}

/// Asks the kubelet once, with the plugin's own deadline.
pub(super) fn examine(
    settings: &Settings,
    serving: Option<&StatusReport>,
    findings: &mut Findings,
) -> anyhow::Result<Owners> {
    let socket = settings.kubelet_dir.join(kubelet_api::KUBELET_SOCKET);
    let there = kubelet_socket(&settings.kubelet_dir).is_some();
    if !there {
        let advice = "Is the kubelet running? Give --kubelet-dir if its root directory was moved.";
        findings.warn(settings.kubelet_dir.display().to_string(), "there is no kubelet.sock", advice);
    } else if let Err(error) = UnixStream::connect(&socket) {
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
        now: Instant::now(),
        pods: pods.as_deref().ok(),
        checkpoint: checkpoint.as_deref(),
        written: false,
        kubelet: None,
        young: false,
        settling: Duration::ZERO,
        cgroups: &[],
        adopt: false,
        offered: None,
    });
    let told = serving.map(|report| report.devices.clone()).unwrap_or_default();
    Ok(Owners { now: Ownership::new(outcome.answered, &ledger), told })
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
