//! Checks one device's hardware: whether it answers, and its fatal PCIe errors. Only the checks that are on are made.

use crate::commands::doctor::finding::{Code, Findings};
use crate::commands::doctor::pods::{PodLookup, PodOf};
use crate::config::Config;
use crate::node::hardware::readers::read_with_timeout;
use crate::status::client::ANSWER_TIMEOUT;
use vfio_plugin_policy::device::DeviceState;
use vfio_plugin_policy::health::reason::Reason;
use vfio_probe::{Presence, Root};

/// Adds what is wrong with a device's hardware.
pub(super) fn examine(
    config: &Config,
    root: &Root,
    device: &DeviceState,
    pods: &PodLookup<'_>,
    findings: &mut Findings,
) {
    let Some(address) = device.device.id.pci() else { return };
    let id = device.device.id.to_string();
    let Some(reading) = read_with_timeout(root, config.checks(), address, ANSWER_TIMEOUT) else {
        let what =
            format!("did not answer a read of its registers within {ANSWER_TIMEOUT:?}: it is being reset");
        let advice = "If this lasts, the reset does not finish: look into dmesg.";
        return findings.warn(Code::ResetHangs, id, what, advice);
    };
    if reading.presence == Some(Presence::Lost) {
        let mut advice =
            "It has fallen off the bus: dmesg may say when. Reset its slot or reseat it, and bind it again."
                .to_owned();
        if let PodOf::Claimed(claim) = pods.of(device) {
            advice += &format!(" It belongs to {claim}, whose pods keep it until they end.");
        }
        if let PodOf::Assigned(pod) = pods.of(device) {
            advice += &format!(
                " It is assigned to {pod}: until that pod ends, allocatable - requested is one too low. Delete the pod, or run \
                 --checks without lost."
            );
        }
        findings.warn(Code::Lost, &id, Reason::Lost.to_string(), advice);
    }
    if let Some(count @ 1..) = reading.fatal {
        let what = format!("had {count} fatal PCIe errors (AER) since the kernel found it");
        let advice = "dmesg names them. If more follow, its link, its slot or the device itself is faulty.";
        findings.warn(Code::FatalErrors, &id, what, advice);
    }
}
