//! One device's hardware, by the checks that are on: whether it answers, and its fatal errors.

use super::finding::Findings;
use super::kubelet::{Owners, Whose};
use crate::hardware::looks::look_by;
use crate::health::LOST;
use crate::list::ANSWER;
use crate::settings::Settings;
use crate::snapshot::DeviceView;
use std::sync::Arc;
use vfio_probe::{Presence, Root};

pub(super) fn examine(
    settings: &Settings,
    root: &Arc<Root>,
    view: &DeviceView,
    owners: &Owners<'_>,
    findings: &mut Findings,
) {
    let Some(address) = view.device.id.pci() else { return };
    let id = view.device.id.to_string();
    let Some(look) = look_by(root, settings.checks, address, ANSWER) else {
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
