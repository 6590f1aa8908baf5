//! Checks the kubelet: whether it runs, and whether it shows which pods have which devices.

use crate::commands::doctor::finding::Findings;
use crate::commands::doctor::pods::PodLookup;
use crate::commands::doctor::sources::Sources;
use crate::config::Config;
use crate::kubelet::checkpoint;
use crate::kubelet::kept::OfferedResources;
use crate::kubelet::pod_resources::Lister;
use crate::kubelet::socket_watch::kubelet_socket;
use crate::status::client;
use crate::status::client::ANSWER_TIMEOUT;
use crate::status::report::DeviceReport;
use anyhow::Context;
use std::time::Instant;
use vfio_plugin_policy::assignments::index::Assignments;
use vfio_plugin_policy::assignments::ledger::Ledger;
use vfio_plugin_policy::assignments::observation::Observation;

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
    let pods = runtime.block_on(async {
        Lister::new(config.pod_resources.clone()).list(&OfferedResources::default()).await
    });
    let checkpoint = checkpoint::read(&config.kubelet_dir, &OfferedResources::default());
    let sources = Sources { pods, checkpoint };
    // Without a kubelet neither source can be expected.
    if running {
        sources.examine(config, findings);
    }
    let mut ledger = Ledger::default();
    let outcome = ledger.observe(&Observation {
        pods: sources.pods.as_deref().ok(),
        checkpoint: sources.checkpoint.as_deref().ok(),
        ..Observation::at(Instant::now())
    });
    let listed = sources.pods.as_ref().is_ok_and(|pods| !pods.is_empty());
    let assignments = Assignments::new(outcome.answered, &ledger);
    Ok(PodLookup::new(assignments, listed, sources.gaps(), reported))
}
