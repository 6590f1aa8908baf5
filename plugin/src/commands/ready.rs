//! `ready`: whether a running `serve` does its work.

use crate::config::Config;
use crate::status::client;
use crate::status::client::ANSWER;
use crate::status::report::StatusReport;
use std::time::Duration;

/// Runs the command: 0 ready, 1 not.
pub(crate) fn run(config: &Config) -> anyhow::Result<u8> {
    match client::fetch(&config.run_dir, ANSWER) {
        Ok(report) => Ok(report_unready(&report, config.interval)),
        Err(error) => {
            eprintln!("not ready: {error:#}");
            Ok(1)
        }
    }
}

fn report_unready(report: &StatusReport, interval: Duration) -> u8 {
    let reasons = unready(report, interval);
    for reason in &reasons {
        eprintln!("not ready: {reason}");
    }
    u8::from(!reasons.is_empty())
}

/// UnknownReason it is not ready; a node without devices is.
pub(crate) fn unready(report: &StatusReport, interval: Duration) -> Vec<String> {
    let mut reasons = Vec::new();
    let patience = interval * 5 + Duration::from_secs(5);
    if Duration::from_millis(report.silent_ms) > patience {
        reasons.push(format!("the monitor was last alive {} ms ago", report.silent_ms));
    }
    if !report.settled {
        reasons.push("the devices have not been looked at yet".to_owned());
    }
    for resource in report.resources.iter().filter(|resource| !resource.registered) {
        reasons.push(format!("{} is not registered with the kubelet", resource.name));
    }
    reasons
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubelet::registry::ResourceStatus;

    #[test]
    fn silence_and_missing_registrations_are_named() {
        let resource = |registered| ResourceStatus {
            name: "nvidia.com/GPU".into(),
            registered,
            streams: 1,
            endpoint: String::new(),
            unfollowed: 0,
        };
        let report = |silent_ms, settled, resources| StatusReport {
            pid: 1,
            version: String::new(),
            busy: String::new(),
            uptime_ms: 0,
            silent_ms,
            settled,
            resources,
            devices: Vec::new(),
        };
        let second = Duration::from_secs(1);
        assert!(unready(&report(9_000, true, vec![resource(true)]), second).is_empty());
        assert!(unready(&report(0, true, Vec::new()), second).is_empty(), "nothing to register");
        assert_eq!(unready(&report(11_000, false, vec![resource(false)]), second).len(), 3);
    }
}
