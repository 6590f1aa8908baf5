//! Makes the taint of a device that the scheduler must not allocate.

use crate::assignments::index::Assignments;
use crate::device::DeviceState;
use crate::dra::names::{DraDriver, device_name};
use crate::health::reason::{HolderName, Reason};
use crate::health::{Decision, Health};
use crate::pools::terms::OfferBy;
use k8s_openapi::api::resource::v1::DeviceTaint;
use std::fmt;

/// Limit for the value of a taint, in bytes (`LabelValueMaxLength` in k8s.io/apimachinery).
const MAX_VALUE: usize = 63;

/// The effect of each taint: no claim that does not tolerate the taint is allocated the device. Running pods are not touched.
pub const NO_SCHEDULE: &str = "NoSchedule";

/// The name of the taint of a device that the device plugin has.
pub const DEVICE_PLUGIN: &str = "device-plugin";

/// Returns why the scheduler must not allocate a device, from what was decided about it. None if it may, or if a prepared claim has
/// it.
pub fn withheld(device: &DeviceState, decision: &Decision, assignments: &Assignments) -> Option<Withheld> {
    match &decision.health {
        Health::Unhealthy(reason) => Some(Withheld::from((**reason).clone())),
        Health::Healthy if is_with_device_plugin(device, assignments) => Some(Withheld::DevicePlugin),
        Health::Healthy => None,
    }
}

/// Returns whether the device plugin has a device: it is assigned to a pod without a claim, or its pool offers it by the device plugin
/// and a claim from before still has it. The taint of the latter keeps other claims from it when the claim ends.
pub fn is_with_device_plugin(device: &DeviceState, assignments: &Assignments) -> bool {
    device.terms.offer == OfferBy::DevicePlugin
        || assignments.assignment(device).is_some_and(|record| assignments.claim_of(record).is_none())
}

/// Why the scheduler must not allocate a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Withheld {
    /// A device plugin would report the device as Unhealthy, for this reason.
    Health(Box<Reason>),
    /// The device plugin has the device: [`is_with_device_plugin`].
    DevicePlugin,
}

impl From<Reason> for Withheld {
    fn from(reason: Reason) -> Self {
        Self::Health(Box::new(reason))
    }
}

impl Withheld {
    /// Returns the name of the taint: the part of its key after the driver's domain.
    pub fn name(&self) -> &'static str {
        match self {
            Self::DevicePlugin => DEVICE_PLUGIN,
            Self::Health(reason) => Self::name_of(reason),
        }
    }

    /// Returns the name of the taint for a reason.
    pub fn name_of(reason: &Reason) -> &'static str {
        match reason {
            Reason::Lost => "lost",
            Reason::Gone => "gone",
            Reason::NoLongerBound => "not-bound",
            Reason::NoGroup { .. } => "no-group",
            Reason::Unbinding { .. } => "unbinding",
            Reason::GroupPeer { .. } => "group",
            Reason::Held { .. } => "held",
            Reason::NotViable { .. } => "not-viable",
            Reason::FatalErrors { .. } => "fatal-errors",
            Reason::NoDeviceNode { .. } => "no-node",
            Reason::Framebuffer { .. } => "framebuffer",
            // The kubelet starts containers of the device plugin's pods with such an answer.
            Reason::StaleAnswer { .. } | Reason::StaleAnswerOfAnotherPod { .. } => DEVICE_PLUGIN,
        }
    }

    /// Returns the value of the taint, such as the holder. None if the name says all.
    ///
    /// It changes only with what a reader acts on: each change is a write to the API server.
    pub fn value(&self) -> Option<String> {
        let Self::Health(reason) = self else { return None };
        let value = match &**reason {
            Reason::Held { holders } | Reason::Unbinding { holders } => Some(holder_value(holders)),
            Reason::GroupPeer { peer, .. } => Some(device_name(*peer)),
            Reason::NotViable { offenders, .. } => Some(label_value(&offenders.first()?.driver.to_string())),
            Reason::FatalErrors { count } => Some(magnitude(*count).to_owned()),
            Reason::Framebuffer { user } => Some(label_value(&user.to_string())),
            Reason::Lost
            | Reason::Gone
            | Reason::NoLongerBound
            | Reason::NoGroup { .. }
            | Reason::NoDeviceNode { .. }
            | Reason::StaleAnswer { .. }
            | Reason::StaleAnswerOfAnotherPod { .. } => None,
        };
        value.filter(|value| !value.is_empty())
    }

    /// Returns the taint, without the time that the API server sets.
    pub fn taint(&self, driver: &DraDriver) -> DeviceTaint {
        DeviceTaint {
            effect: NO_SCHEDULE.to_owned(),
            key: driver.qualified(self.name()),
            time_added: None,
            value: self.value(),
        }
    }
}

/// Writes the reason for people.
impl fmt::Display for Withheld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Health(reason) => reason.fmt(f),
            Self::DevicePlugin => {
                f.write_str("assigned to a pod by the device plugin, or to be offered by it")
            }
        }
    }
}

/// Returns the first holder as `COMMAND.PID`, or `unknown`.
fn holder_value(holders: &[HolderName]) -> String {
    let Some(holder) = holders.first() else { return "unknown".to_owned() };
    label_value(&format!("{}.{}", holder.command, holder.pid))
}

/// Returns the class of a count, so that the taint changes with the first error and then with each power of ten.
fn magnitude(count: u64) -> &'static str {
    match count {
        0 | 1 => "1",
        2..10 => "2-9",
        10..100 => "10-99",
        _ => "100-or-more",
    }
}

/// Converts a text to the value of a label (`IsValidLabelValue` in k8s.io/apimachinery): at most 63 of `[A-Za-z0-9._-]`, with a
/// letter or digit at both ends. Other characters become `_`. A text that is too long loses its start, because a holder's pid is
/// at the end.
fn label_value(text: &str) -> String {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let value: String = text.chars().map(|c| if allowed(c) { c } else { '_' }).collect();
    let value = value.get(value.len().saturating_sub(MAX_VALUE)..).unwrap_or_default();
    value.trim_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned()
}

#[cfg(test)]
mod tests;
