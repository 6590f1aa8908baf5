//! `ready`: whether a running `serve` does its work, for exec probes.

use crate::commands::stderr;
use crate::config::Config;
use crate::status::client;
use crate::status::client::ANSWER_TIMEOUT;
use crate::status::report::StatusReport;
use std::time::Duration;

/// Runs the command and returns the exit code: 0 yes, 1 no.
pub(crate) fn run(config: &Config, live: bool) -> u8 {
    let word = if live { "not live" } else { "not ready" };
    let reasons = match client::fetch(&config.run_dir, ANSWER_TIMEOUT) {
        Ok(report) if live => silent(&report, config.interval).into_iter().collect(),
        Ok(report) => unready(&report, config.interval),
        Err(error) => vec![format!("{error:#}")],
    };
    for reason in &reasons {
        stderr::print(format_args!("{word}: {reason}"));
    }
    u8::from(!reasons.is_empty())
}

/// Returns why the process does not work, with or without a kubelet: its monitor makes no passes.
pub(crate) fn silent(report: &StatusReport, interval: Duration) -> Option<String> {
    let patience = interval * 5 + Duration::from_secs(5);
    let silent = Duration::from_millis(report.silent_ms);
    (silent > patience).then(|| format!("the monitor's latest pass was {} ms ago", report.silent_ms))
}

/// Returns why the plugin is not ready: the process does not work, the bound devices cannot be listed, or a
/// resource is not registered or has not sent its first list. A node without devices has nothing to register and
/// is ready.
pub(crate) fn unready(report: &StatusReport, interval: Duration) -> Vec<String> {
    let mut reasons: Vec<String> = silent(report, interval).into_iter().collect();
    if !report.settled {
        reasons.push("the first pass over the devices is not complete".to_owned());
    }
    if report.listing_failed {
        reasons.push("the monitor cannot list the bound devices; the log of serve says why".to_owned());
    }
    for resource in &report.resources {
        if !resource.registered {
            reasons.push(format!("{} is not registered with the kubelet", resource.name));
        } else if !resource.first_list_sent {
            reasons.push(format!("{} has not sent its first list to the kubelet", resource.name));
        }
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubelet::registry::ResourceStatus;

    const SECOND: Duration = Duration::from_secs(1);

    fn report(silent_ms: u64, settled: bool, resources: Vec<ResourceStatus>) -> StatusReport {
        StatusReport {
            pid: 1,
            version: String::new(),
            busy: String::new(),
            uptime_ms: 0,
            silent_ms,
            settled,
            listing_failed: false,
            assignments_known: true,
            resources,
            devices: Vec::new(),
            problems: Vec::new(),
            lost_log_lines: 0,
        }
    }

    fn resource(registered: bool, first_list_sent: bool) -> ResourceStatus {
        let name = "nvidia.com/GPU".into();
        ResourceStatus { name, registered, first_list_sent, ..ResourceStatus::default() }
    }

    #[test]
    fn ready_with_all_lists_sent_or_nothing_to_register() {
        assert!(unready(&report(9_000, true, vec![resource(true, true)]), SECOND).is_empty());
        assert!(unready(&report(0, true, Vec::new()), SECOND).is_empty());
    }

    #[test]
    fn every_reason_for_not_ready_is_named() {
        let reasons =
            unready(&report(11_000, false, vec![resource(false, false), resource(true, false)]), SECOND);
        let words = ["monitor", "first pass", "is not registered", "has not sent its first list"];
        assert_eq!(reasons.len(), words.len());
        assert!(reasons.iter().zip(words).all(|(reason, word)| reason.contains(word)), "{reasons:?}");
    }

    #[test]
    fn not_ready_without_resources_if_the_listing_failed() {
        let failed = StatusReport { listing_failed: true, ..report(0, true, Vec::new()) };
        let reasons = unready(&failed, SECOND);
        assert!(reasons.len() == 1 && reasons[0].contains("cannot list the bound devices"), "{reasons:?}");
        assert_eq!(silent(&failed, SECOND), None, "the process is live");
    }

    #[test]
    fn live_depends_on_the_monitor_alone() {
        assert_eq!(silent(&report(9_000, false, vec![resource(false, false)]), SECOND), None);
        assert!(silent(&report(11_000, true, Vec::new()), SECOND).is_some());
    }
}
