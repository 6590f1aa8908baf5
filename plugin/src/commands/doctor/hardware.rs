//! One device's hardware, by the checks that are on: whether it answers, and its fatal errors.

use crate::commands::doctor::finding::Findings;
use crate::commands::doctor::kubelet::{PodClaims, Whose};
use crate::config::Config;
use crate::node::hardware::readers::look_by;
use crate::status::client::ANSWER;
use std::sync::Arc;
use vfio_plugin_policy::device::DeviceState;
use vfio_plugin_policy::health::LOST;
use vfio_probe::{Presence, Root};

pub(super) fn examine(
    config: &Config,
    root: &Arc<Root>,
    view: &DeviceState,
    owners: &PodClaims<'_>,
    findings: &mut Findings,
) {
    let Some(address) = view.device.id.pci() else { return };
    let id = view.device.id.to_string();
    let Some(look) = look_by(root, config.checks, address, ANSWER) else {
        let what = format!("does not let its registers be read within {ANSWER:?}: it is being reset");
        let advice = "If it stays so it does not come back from its reset: look into dmesg.";
        return findings.warn(id, what, advice);
    };
    if look.presence == Some(Presence::Lost) {
        let mut advice =
            "It has fallen off the bus: dmesg may say when. Reset its slot or reseat it, and bind it anew."
                .to_owned();
        if let Whose::Pod(pod) = owners.of(view) {
            advice += &format!(
                " {pod} has it: until that pod ends, allocatable - requested is one less than what is free; delete the pod, or \
                 run --checks without lost."
            );
        }
        findings.warn(&id, LOST, advice);
    }
    if let Some(count @ 1..) = look.fatal {
        let what = format!("has had fatal PCIe errors (AER): {count} since it was added");
        let advice =
            "dmesg names them; with more to come its link, slot or the device itself is to be mended.";
        findings.warn(&id, what, advice);
    }
}
