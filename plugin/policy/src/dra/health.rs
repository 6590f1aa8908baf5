//! Decides what the kubelet shows of a device's health in the status of its pod (KEP-4680).
//!
//! A taint says whether the scheduler may allocate a device. This health says whether the pod of the device can use it: a device that a
//! process holds is healthy.

use crate::health::Decision;
use crate::health::reason::Reason;
use vfio_probe::DeviceId;

/// Limit for a message, in bytes: the kubelet cuts a longer one (`ResourceHealthMessageMaxLength` in k8s.io/api/core/v1).
const MAX_MESSAGE: usize = 1024;

/// The health of a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HealthReport {
    /// The device.
    pub device: DeviceId,
    /// Whether a VM can use it.
    pub is_healthy: bool,
    /// What is wrong, or which process holds it. Empty if there is nothing to say.
    pub message: String,
}

impl HealthReport {
    /// Returns the health of a device.
    pub fn new(device: DeviceId, decision: &Decision) -> Self {
        let reason = decision.reason();
        Self {
            device,
            is_healthy: !reason.is_some_and(is_fault),
            message: reason.map(|reason| cut(reason.to_string())).unwrap_or_default(),
        }
    }
}

/// Returns whether a VM cannot use the device, or may have to be moved.
fn is_fault(reason: &Reason) -> bool {
    match reason {
        Reason::Lost | Reason::Gone | Reason::NoLongerBound | Reason::FatalErrors { .. } => true,
        Reason::NoGroup { .. }
        | Reason::Unbinding { .. }
        | Reason::Held { .. }
        | Reason::GroupPeer { .. }
        | Reason::NotViable { .. }
        | Reason::NoDeviceNode { .. }
        | Reason::StaleAnswer { .. }
        | Reason::StaleAnswerOfAnotherPod { .. }
        | Reason::Framebuffer { .. } => false,
    }
}

/// Cuts a text between characters.
fn cut(mut text: String) -> String {
    let mut ends = (0..=MAX_MESSAGE.min(text.len())).rev();
    let end = ends.find(|end| text.is_char_boundary(*end)).unwrap_or_default();
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::health::Health;

    fn report(health: Health, warning: Option<Reason>) -> (bool, String) {
        let decision = Decision { health, decide_again: None, warning: warning.map(Box::new) };
        let report = HealthReport::new("0000:1b:00.0".parse().unwrap(), &decision);
        (report.is_healthy, report.message)
    }

    #[test]
    fn lost_device_and_faults_of_an_assigned_one_are_unhealthy() {
        let unhealthy = |reason: Reason| Health::Unhealthy(Box::new(reason));
        assert_eq!(report(Health::Healthy, None), (true, String::new()));
        let lost = "does not answer: its configuration space reads all ones";
        assert_eq!(report(unhealthy(Reason::Lost), None), (false, lost.to_owned()));
        let errors = Reason::FatalErrors { count: 1 };
        assert_eq!(report(Health::Healthy, Some(errors)), (false, "1 new fatal PCIe error (AER)".to_owned()));
        assert!(!report(Health::Healthy, Some(Reason::NoLongerBound)).0);
        let (is_healthy, message) = report(unhealthy(Reason::Held { holders: Vec::new() }), None);
        assert!(is_healthy && message.starts_with("held by"), "{message}");
    }

    #[test]
    fn long_message_is_cut() {
        assert_eq!(cut("x".repeat(1025)).len(), 1024);
        assert_eq!(cut("\u{20ac}".repeat(400)).len(), 1023, "no part of a character");
    }
}
