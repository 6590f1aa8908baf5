//! Says why selected functions and group members are not bound to VFIO, and what to do. Never advises to take away what the host
//! needs.

use crate::commands::doctor::finding::{Code, Findings};
use crate::node::function_facts::FactsReader;
use std::collections::BTreeMap;
use vfio_plugin_policy::unbound::host_use::Need;
use vfio_plugin_policy::unbound::{Cause, FunctionFacts};
use vfio_probe::{DeviceId, Member, PciAddress};

/// Functions that a finding names at most.
const MAX_NAMES: usize = 16;

/// Adds a finding about each selected function that is not bound to a VFIO driver. Functions that wait for the same driver get one
/// finding together.
pub(super) fn examine(facts: &FactsReader, functions: &[PciAddress], findings: &mut Findings) {
    let mut waiting: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for facts in functions.iter().filter_map(|address| facts.read(*address)) {
        match facts.cause() {
            Cause::DriverNotLoaded { driver } if facts.need() == Need::None => {
                waiting.entry(driver).or_default().push(facts.address.to_string());
            }
            cause => {
                let (what, advice) = words(&facts, &cause);
                findings.warn(Code::NotBound, facts.address.to_string(), what, advice);
            }
        }
    }
    for (driver, functions) in waiting {
        let shown = functions.iter().take(MAX_NAMES).cloned().collect::<Vec<_>>().join(", ");
        let more = if functions.len() > MAX_NAMES { ", ..." } else { "" };
        let what = format!("is not loaded, and driver_override names it for {shown}{more}");
        let advice = format!(
            "Run `modprobe {driver}`, and name it in /etc/modules-load.d for the next boot: the kernel then binds those functions that \
             have no other driver."
        );
        findings.warn(Code::DriverNotLoaded, driver, what, advice);
    }
}

/// Returns what is wrong with a selected function, and what to do.
fn words(facts: &FunctionFacts, cause: &Cause) -> (String, String) {
    let id = facts.address;
    let (what, advice) = match cause {
        Cause::Bridge => {
            (format!("is selected, but a bridge: {BRIDGE}"), "Leave it out of the selection.".to_owned())
        }
        Cause::DomainParent => (
            "is selected, but the parent of other PCI functions, as a VMD controller is".to_owned(),
            "Do not bind it: all devices behind it would disappear from the host. To pass them through, turn VMD off in the \
             firmware, and select them."
                .to_owned(),
        ),
        Cause::IommuOff => (
            "is selected, but no function of the host has an IOMMU group: the IOMMU is off".to_owned(),
            "Turn on the IOMMU (VT-d, AMD-Vi) in the firmware, and boot with intel_iommu=on on Intel. Until then vfio-pci refuses every \
             function."
                .to_owned(),
        ),
        Cause::NoGroup { is_behind_vmd: false } => (
            "is selected, but has no IOMMU group, while other functions have one: vfio-pci refuses it".to_owned(),
            "Look in the firmware for the setting of VT-d, AMD-Vi or VMD for its slot, and in dmesg for DMAR or AMD-Vi."
                .to_owned(),
        ),
        Cause::NoGroup { is_behind_vmd: true } => (
            "is selected, but behind a VMD controller and has no IOMMU group: vfio-pci refuses it".to_owned(),
            "Turn VMD off in the firmware for its slot; the function then has another address.".to_owned(),
        ),
        Cause::DriverNotLoaded { driver } => (
            format!("is selected, and its driver_override is {driver}, which is not loaded"),
            format!("Run `modprobe {driver}`, and name it in /etc/modules-load.d."),
        ),
        Cause::ProbeFailed { driver } => (
            format!(
                "is selected, and its driver_override is {driver}, but it is bound to no driver: the probe failed or was not made"
            ),
            format!(
                "Run `echo {id} > /sys/bus/pci/drivers_probe`; if it stays without a driver, dmesg says why {driver} refused it."
            ),
        ),
        Cause::OverrideNotApplied { wanted, driver } => (
            format!("is selected, and its driver_override is {wanted}, but it is bound to {driver}"),
            format!(
                "Run `echo {id} > /sys/bus/pci/drivers/{driver}/unbind`, then `echo {id} > /sys/bus/pci/drivers_probe`."
            ),
        ),
        Cause::OtherDriver { driver } => (format!("is selected, but bound to {driver}"), bind(id)),
        Cause::NoDriver => {
            let chosen = facts.driver_override.as_ref();
            let chosen = chosen.map(|name| format!(" (driver_override is {name})")).unwrap_or_default();
            (format!("is selected, but bound to no driver{chosen}"), bind(id))
        }
    };
    // The host may keep what vfio-pci would refuse anyway.
    let binds = !matches!(cause, Cause::Bridge | Cause::IommuOff | Cause::NoGroup { .. });
    if !binds {
        return (what, advice);
    }
    with_losses(facts, what, advice)
}

const BRIDGE: &str = "vfio-pci refuses bridges";

/// Returns the advice to remove an override, with which the next boot would bind the function.
fn remove_override(facts: &FunctionFacts) -> String {
    match facts.cause() {
        Cause::DriverNotLoaded { .. } | Cause::ProbeFailed { .. } | Cause::OverrideNotApplied { .. } => {
            format!(
                " Remove its override (`driverctl unset-override {}`), or the next boot may bind it.",
                facts.address
            )
        }
        _ => String::new(),
    }
}

fn bind(address: PciAddress) -> String {
    format!("To offer it to VMs, run `driverctl set-override {address} vfio-pci`.")
}

/// Adds what the host would lose to a finding, and withholds or qualifies the advice.
fn with_losses(facts: &FunctionFacts, what: String, advice: String) -> (String, String) {
    let Some(losses) = facts.losses() else { return (what, advice) };
    let unknown = if facts.mounts_known { "" } else { " (the host's mounts cannot be read)" };
    match facts.need() {
        Need::None => (what, format!("{advice} The host then loses: {losses}.")),
        _ if facts.cause() == Cause::DomainParent => {
            (format!("{what}; the host uses it: {losses}{unknown}"), advice)
        }
        Need::InUse => (
            format!("{what}; the host uses it: {losses}{unknown}"),
            format!("Leave it out of the selection, or end that use first, and only then: {advice}"),
        ),
        Need::Vital => (
            format!("{what}; the host needs it: {losses}{unknown}"),
            format!(
                "Do not bind it to vfio-pci: the host or the access to it would be cut off. Leave it out of the selection.{}",
                remove_override(facts)
            ),
        ),
    }
}

/// Returns what to do about a member that keeps its group from being viable.
pub(super) fn member_advice(facts: &FactsReader, member: &Member) -> String {
    let name = member.name;
    let Some(address) = member.id().and_then(DeviceId::pci) else {
        return format!(
            "{name} is no PCI function, so vfio-pci cannot bind it: unbind its driver, or put the device into a slot with an IOMMU \
             group of its own."
        );
    };
    let Some(facts) = facts.read(address) else { return format!("{name} cannot be read in sysfs.") };
    let losses = facts.losses().unwrap_or_default();
    match (facts.cause(), facts.need()) {
        (Cause::Bridge, _) => format!(
            "{name} is a bridge: {BRIDGE}, and needs no driver; run `driverctl unset-override {name}`, or unbind its driver."
        ),
        (Cause::DomainParent, _) => format!(
            "{name} is the parent of other PCI functions, as a VMD controller is: do not bind it, because all devices behind it \
             would disappear from the host{}. Turn VMD off in the firmware, or use another slot.",
            if losses.is_empty() { String::new() } else { format!(" ({losses})") }
        ),
        (_, Need::Vital) => format!(
            "Do not bind {name} to vfio-pci: the host needs it ({losses}). Put the device into a slot with an IOMMU group of its own.{}",
            remove_override(&facts)
        ),
        (_, Need::InUse) => format!(
            "The host uses {name} ({losses}): put the device into a slot with an IOMMU group of its own, or end that use and only \
             then run `driverctl set-override {name} vfio-pci` (or `none`)."
        ),
        (Cause::DriverNotLoaded { driver }, Need::None) => format!("Run `modprobe {driver}` for {name}."),
        (Cause::OverrideNotApplied { driver, .. }, Need::None) => format!(
            "Run `echo {name} > /sys/bus/pci/drivers/{driver}/unbind`, then `echo {name} > /sys/bus/pci/drivers_probe`."
        ),
        (_, Need::None) => {
            let lost =
                if losses.is_empty() { String::new() } else { format!("; the host then loses: {losses}") };
            format!("Run `driverctl set-override {name} vfio-pci` (or `none`){lost}.")
        }
    }
}
