//! Checks the running `serve`, and adds what only it can know.

use crate::commands::doctor::finding::Findings;
use crate::commands::ready::unready;
use crate::config::Config;
use crate::status::report::{DeviceReport, StatusReport};
use crate::status::words::StateWord;
use vfio_plugin_policy::device::DeviceState;
use vfio_plugin_policy::health::reason::Reason;

/// Registrations in a row that the kubelet accepted without opening a stream, before that is a finding.
const UNFOLLOWED: u32 = 2;
const UNBINDING: Reason = Reason::Unbinding { holders: Vec::new() };

/// Adds what is wrong with the running `serve`.
pub(super) fn examine(
    config: &Config,
    serving: &anyhow::Result<StatusReport>,
    devices: &[DeviceState],
    findings: &mut Findings,
) {
    let report = match serving {
        Ok(report) => report,
        Err(error) => {
            let advice = "Start serve, or set --run-dir to its run directory.";
            return findings.warn("serve", format!("{error:#}"), advice);
        }
    };
    let unfollowed = report.resources.iter().find(|resource| resource.unfollowed >= UNFOLLOWED);
    if let Some(resource) = unfollowed {
        let what = format!(
            "accepted the registration of {} {} times in a row and never opened a stream",
            resource.name, resource.unfollowed
        );
        let advice = "It is too old: kubelets before 1.26 send a socket path as HTTP/2 authority. Kubernetes 1.26 or newer is needed.";
        findings.broken("kubelet", what, advice);
    } else {
        for reason in unready(report, config.interval) {
            findings.warn("serve", reason, "Look into the log of serve, and into the kubelet's log.");
        }
    }
    if report.version != env!("CARGO_PKG_VERSION") {
        let what = format!("is version {}, and this is {}", report.version, env!("CARGO_PKG_VERSION"));
        findings.warn("serve", what, "Run the command from the same image.");
    }
    // The scheduler subtracts such a device twice: as requested and as not allocatable.
    let is_lost = |device: &DeviceReport| device.reason_code.as_deref() == Some(Reason::Lost.code());
    let twice = |device: &&DeviceReport| {
        device.assignment.is_some()
            && device.is_unhealthy()
            && device.state == StateWord::Held
            && !is_lost(device)
    };
    let lost: Vec<&str> = report.devices.iter().filter(twice).map(|device| device.address.as_str()).collect();
    if !lost.is_empty() {
        let what = format!(
            "reports {} of running pods as Unhealthy ({}): allocatable - requested is {} too low",
            if lost.len() == 1 { "a device".to_owned() } else { format!("{} devices", lost.len()) },
            lost.join(", "),
            lost.len()
        );
        let advice = format!(
            "Its policy is --busy {}, or `busy` of a pool; with attributed, assigned devices stay Healthy.",
            report.busy
        );
        findings.warn("serve", what, advice);
    }
    for device in &report.devices {
        let bound = devices.iter().any(|bound| bound.device.id.to_string() == device.address);
        unbinding(device, bound, findings);
        if let Some(reason) = &device.reason
            && device.is_unhealthy()
            && (device.assignment.is_none() || is_lost(device))
            && !findings.mention(&device.address)
        {
            findings.warn(
                &device.address,
                format!("is Unhealthy: {reason}"),
                "It becomes Healthy by itself when that ends.",
            );
        }
    }
}

/// Adds a device that `serve` still lists because its unbind waits. [`super::assignments`] has the assigned ones.
fn unbinding(device: &DeviceReport, bound: bool, findings: &mut Findings) {
    if bound {
        return;
    }
    match (&device.assignment, &device.reason) {
        (None, Some(reason)) if device.reason_code.as_deref() == Some(UNBINDING.code()) => {
            let advice = "The kernel's unbind waits until that process closes the device; end the process.";
            findings.warn(&device.address, reason, advice);
        }
        (_, _) => {}
    }
}
