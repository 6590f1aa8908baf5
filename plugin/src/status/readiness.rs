//! Decides whether a running `serve` does its work, for `ready`, `doctor`, `/healthz` and `/readyz`.

use crate::driver_status::DriverStatus;
use crate::kubelet::registry::ResourceStatus;
use crate::status::report::StatusReport;
use crate::status::words::RoleWord;
use std::time::Duration;

/// What the decision rests on.
#[derive(Clone, Debug)]
pub(crate) struct Readiness {
    /// What the process does among those that share its run directory.
    pub(crate) role: RoleWord,
    /// The time since the monitor's latest pass.
    pub(crate) silent: Duration,
    /// Whether the first snapshot of the node is complete, and its resources are in `resources`.
    pub(crate) settled: bool,
    /// Whether the monitor cannot list the bound devices.
    pub(crate) listing_failed: bool,
    /// The resources.
    pub(crate) resources: Vec<ResourceStatus>,
    /// The DRA driver; none if it does not run.
    pub(crate) driver: Option<DriverStatus>,
}

impl From<&StatusReport> for Readiness {
    fn from(report: &StatusReport) -> Self {
        let StatusReport { role, silent_ms, settled, listing_failed, resources, dra, .. } = report;
        Self {
            role: *role,
            silent: Duration::from_millis(*silent_ms),
            settled: *settled,
            listing_failed: *listing_failed,
            resources: resources.clone(),
            driver: dra.clone(),
        }
    }
}

impl Readiness {
    /// Returns why the process does not work, with or without a kubelet: its monitor makes no passes.
    pub(crate) fn silent(&self, interval: Duration) -> Option<String> {
        let patience = interval * 5 + Duration::from_secs(5);
        let millis = self.silent.as_millis();
        (self.silent > patience).then(|| format!("the monitor's latest pass was {millis} ms ago"))
    }

    /// Returns why the plugin is not ready: another process serves, the process does not work, the bound devices cannot be listed, a
    /// resource is not registered or has not sent its first list, or the DRA driver is not registered or has not stored its first
    /// slices. A node without devices has nothing to register with the device plugin API and is ready.
    pub(crate) fn unready(&self, interval: Duration) -> Vec<String> {
        let mut reasons = self.unready_devices(interval);
        if self.role == RoleWord::Active {
            reasons.extend(self.driver.iter().flat_map(DriverStatus::unready));
        }
        reasons
    }

    /// Returns the reasons that are not about the DRA driver.
    pub(crate) fn unready_devices(&self, interval: Duration) -> Vec<String> {
        match self.role {
            RoleWord::Active => {}
            RoleWord::Waiting => return vec!["it waits for the process that serves to hand over".to_owned()],
            RoleWord::HandedOver => return vec!["it has handed over to another process".to_owned()],
        }
        let mut reasons: Vec<String> = self.silent(interval).into_iter().collect();
        if !self.settled {
            reasons.push("the first pass over the devices is not complete".to_owned());
        }
        if self.listing_failed {
            reasons.push("the monitor cannot list the bound devices; the log of serve says why".to_owned());
        }
        for resource in &self.resources {
            if !resource.registered {
                reasons.push(format!("{} is not registered with the kubelet", resource.name));
            } else if !resource.first_list_sent {
                reasons.push(format!("{} has not sent its first list to the kubelet", resource.name));
            }
        }
        reasons
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn state(silent_ms: u64, settled: bool, resources: Vec<ResourceStatus>) -> Readiness {
        let (role, silent) = (RoleWord::Active, Duration::from_millis(silent_ms));
        Readiness { role, silent, settled, listing_failed: false, resources, driver: None }
    }

    fn resource(registered: bool, first_list_sent: bool) -> ResourceStatus {
        let name = "nvidia.com/GPU".into();
        ResourceStatus { name, registered, first_list_sent, ..ResourceStatus::default() }
    }

    #[test]
    fn ready_with_all_lists_sent_or_nothing_to_register() {
        assert!(state(9_000, true, vec![resource(true, true)]).unready(SECOND).is_empty());
        assert!(state(0, true, Vec::new()).unready(SECOND).is_empty());
    }

    #[test]
    fn every_reason_for_not_ready_is_named() {
        let reasons =
            state(11_000, false, vec![resource(false, false), resource(true, false)]).unready(SECOND);
        let words = ["monitor", "first pass", "is not registered", "has not sent its first list"];
        assert_eq!(reasons.len(), words.len());
        assert!(reasons.iter().zip(words).all(|(reason, word)| reason.contains(word)), "{reasons:?}");
    }

    #[test]
    fn not_ready_without_resources_if_the_listing_failed() {
        let failed = Readiness { listing_failed: true, ..state(0, true, Vec::new()) };
        let reasons = failed.unready(SECOND);
        assert!(reasons.len() == 1 && reasons[0].contains("cannot list the bound devices"), "{reasons:?}");
        assert_eq!(failed.silent(SECOND), None, "the process is live");
    }

    #[test]
    fn driver_that_is_not_registered_is_a_reason() {
        let driver = Some(DriverStatus::default());
        let without = Readiness { driver, ..state(0, true, Vec::new()) };
        assert_eq!(without.unready(SECOND).len(), 2, "no registration and no slices");
        assert!(without.unready_devices(SECOND).is_empty());
        let waits = Readiness { role: RoleWord::Waiting, ..without };
        assert_eq!(waits.unready(SECOND).len(), 1);
    }

    #[test]
    fn process_that_does_not_serve_is_live_and_not_ready() {
        for role in [RoleWord::Waiting, RoleWord::HandedOver] {
            let waits = Readiness { role, ..state(0, false, Vec::new()) };
            assert_eq!(waits.unready(SECOND).len(), 1, "{:?}", waits.unready(SECOND));
            assert_eq!(waits.silent(SECOND), None);
        }
    }

    #[test]
    fn live_depends_on_the_monitor_alone() {
        assert_eq!(state(9_000, false, vec![resource(false, false)]).silent(SECOND), None);
        assert!(state(11_000, true, Vec::new()).silent(SECOND).is_some());
    }
}
