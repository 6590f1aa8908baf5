//! The running `serve`: whether it does its work, and what it knows that a look cannot.

use crate::commands::doctor::finding::Findings;
use crate::commands::ready::unready;
use crate::config::Config;
use crate::status::report::{DeviceReport, StatusReport};
use vfio_plugin_policy::device::DeviceState;
use vfio_plugin_policy::health::LOST;

/// So many registrations in a row that the kubelet accepted without asking for a list are no accident.
const UNFOLLOWED: u32 = 2;

pub(super) fn examine(
    config: &Config,
    serving: &anyhow::Result<StatusReport>,
    views: &[DeviceState],
    findings: &mut Findings,
) {
    let report = match serving {
        Ok(report) => report,
        Err(error) => {
            let advice = "Start serve, or give the --run-dir that it has.";
            return findings.warn("serve", format!("{error:#}"), advice);
        }
    };
    let unfollowed = report.resources.iter().find(|resource| resource.unfollowed >= UNFOLLOWED);
    if let Some(resource) = unfollowed {
        let what = format!(
            "has accepted the registration of {} {} times in a row and never asked for its devices",
            resource.name, resource.unfollowed
        );
        let advice = "It is too old: kubelets before 1.26 put a path where HTTP/2 allows none. Kubernetes 1.26 or newer is needed.";
        findings.broken("kubelet", what, advice);
    } else {
        for reason in unready(report, config.interval) {
            findings.warn(
                "serve",
                reason,
                "Look into its log for why; the kubelet's log says why it refuses.",
            );
        }
    }
    if report.version != env!("CARGO_PKG_VERSION") {
        let what = format!("is version {}, and this is {}", report.version, env!("CARGO_PKG_VERSION"));
        findings.warn("serve", what, "Run the command of the same image.");
    }
    // The scheduler counts them as requested, and again as not allocatable.
    let is_lost = |device: &DeviceReport| device.reason.as_deref() == Some(LOST);
    let twice = |device: &&DeviceReport| {
        device.assignment.is_some() && device.is_unhealthy() && device.state == "held" && !is_lost(device)
    };
    let lost: Vec<&str> = report.devices.iter().filter(twice).map(|device| device.address.as_str()).collect();
    if !lost.is_empty() {
        let what = format!(
            "calls {} of running pods Unhealthy ({}): allocatable - requested is {} less than what is free",
            if lost.len() == 1 { "a device".to_owned() } else { format!("{} devices", lost.len()) },
            lost.join(", "),
            lost.len()
        );
        let advice = format!(
            "Its policy is --busy {}, or `busy` of a pool; with attributed a pod's device stays Healthy.",
            report.busy
        );
        findings.warn("serve", what, advice);
    }
    for device in &report.devices {
        let seen = views.iter().any(|view| view.device.id.to_string() == device.address);
        unbinding(device, seen, findings);
        if let Some(reason) = &device.reason
            && device.is_unhealthy()
            && (device.assignment.is_none() || is_lost(device))
            && !findings.mention(&device.address)
        {
            findings.warn(
                &device.address,
                format!("is Unhealthy: {reason}"),
                "It is offered again when that ends.",
            );
        }
    }
}

/// What is in no listing of bound devices any more.
fn unbinding(device: &DeviceReport, seen: bool, findings: &mut Findings) {
    if seen {
        return;
    }
    match (&device.assignment, &device.reason) {
        (Some(assignment), reason) => {
            let reason = reason.as_deref().unwrap_or("no longer bound to a VFIO driver");
            let what = format!("is assigned to pod {assignment} and is {reason}");
            let advice = "Bind it again, or end the pod: it stays listed, counted as requested, until then.";
            findings.warn(&device.address, what, advice);
        }
        (None, Some(reason)) => {
            let advice = "The kernel's unbind waits until that process closes it; end the process.";
            findings.warn(&device.address, reason, advice);
        }
        (None, None) => {}
    }
}
