//! `doctor`: checks this node, and prints what is wrong and what to do.

mod assignments;
mod cdi_specs;
mod device;
#[cfg(feature = "dra")]
mod driver;
mod finding;
mod framebuffer;
mod hardware;
mod holders;
mod host;
mod kubelet;
mod names;
mod pods;
mod serving;
mod sources;
mod unbound;

use crate::commands::doctor::pods::PodLookup;
use crate::commands::list::combined;
use crate::commands::offered::{Offered, offered_devices};
use crate::commands::stdout;
use crate::config::Config;
use crate::node::function_facts::FactsReader;
use crate::status::client;
use crate::status::client::ANSWER_TIMEOUT;
use finding::{Code, Findings};
use vfio_plugin_policy::holders::coverage_gaps;
use vfio_probe::Root;

/// Runs the command and returns the exit code: 0 nothing is wrong, 1 warnings, 2 broken.
pub(crate) fn run(config: &Config, json: bool, probe: bool) -> anyhow::Result<u8> {
    let findings = examine(config, probe)?;
    let text = if json { format!("{}\n", findings.json()) } else { findings.text() };
    stdout::print(&text)?;
    Ok(findings.worst() as u8)
}

/// Checks the host first and the kubelet last, so that the first finding is the first to repair.
fn examine(config: &Config, probe: bool) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    if let Some(error) = &config.pools_error {
        let advice = "Correct it: the running serve keeps the pools that it read before, but it would not start again.";
        findings.broken(Code::PoolsRejected, config.pools_file(), format!("cannot be used: {error}"), advice);
    }
    let root = Root::open(&config.root)?;
    let mut unreadable = Vec::new();
    let Offered { devices, coverage } = offered_devices(config, probe, |error| unreadable.push(error))?;
    let serving = client::fetch(&config.run_dir, ANSWER_TIMEOUT);
    let is_in_cluster = serving.is_ok() || client::is_expected(&config.kubelet_dir, &config.run_dir);
    let facts = FactsReader::new(&root, &config.root);
    let mut kubelet = Findings::default();
    let reported = serving.as_ref().map(|report| report.devices.as_slice()).unwrap_or_default();
    let pods = match is_in_cluster {
        true => kubelet::examine(config, reported, &mut kubelet)?,
        false => PodLookup::outside_kubernetes(),
    };
    let assigned = assignments::unbound(config, &root, &devices, reported, &pods);
    let explained = assigned.keys().copied().chain(serving::unbinding(reported, &devices)).collect();
    host::examine((config, &root, &facts), &devices, &unreadable, (&explained, &pods), &mut findings);
    for device in &devices {
        device::examine((config, &root, &facts), device, &combined(device, reported), &pods, &mut findings);
        hardware::examine(config, &root, device, &pods, &mut findings);
    }
    assignments::examine(&root, &devices, &assigned, &pods, &mut findings);
    framebuffer::examine(config, &devices, &mut findings);
    findings.extend(kubelet);
    names::examine(config, &devices, &mut findings);
    cdi_specs::examine(config, &devices, reported, &mut findings);
    if is_in_cluster {
        serving::examine(config, &serving, &devices, &pods, &mut findings);
        #[cfg(feature = "dra")]
        if let Ok(report) = &serving {
            driver::examine(config, report, &mut findings);
        }
    } else {
        let what = format!(
            "this node runs no kubelet and no serve: {} does not exist; set --kubelet-dir if the kubelet's directory was moved",
            config.kubelet_dir.display()
        );
        findings.inform(Code::OutsideKubernetes, "Kubernetes", what);
    }
    if !devices.is_empty() {
        for gap in coverage_gaps(&coverage) {
            findings.inform(Code::HoldersIncomplete, "holders", format!("some may be missing: {gap}"));
        }
    }
    Ok(findings)
}
