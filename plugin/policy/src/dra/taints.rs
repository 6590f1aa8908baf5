//! Makes the taint of a device that the scheduler must not allocate.

use crate::dra::names::{DraDriver, device_name};
use crate::health::reason::{HolderName, Reason};
use k8s_openapi::api::resource::v1::DeviceTaint;
use std::fmt;

/// Limit for the value of a taint, in bytes (`LabelValueMaxLength` in k8s.io/apimachinery).
const MAX_VALUE: usize = 63;

/// The effect of each taint: no claim that does not tolerate the taint is allocated the device. Running pods are not touched.
pub const NO_SCHEDULE: &str = "NoSchedule";

/// Why the scheduler must not allocate a device.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Withheld {
    /// A device plugin would report the device as Unhealthy, for this reason.
    Health(Box<Reason>),
    /// The device is assigned to a pod that requested it from the device plugin.
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
            Self::DevicePlugin => "device-plugin",
            Self::Health(reason) => match &**reason {
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
                Reason::StaleAnswer { .. } | Reason::StaleAnswerOfAnotherPod { .. } => "device-plugin",
            },
        }
    }

    /// Returns the value of the taint, such as the holder. None if the name says all.
    ///
    /// It changes only with what a reader acts on: each change is a write to the API server.
    fn value(&self) -> Option<String> {
        let Self::Health(reason) = self else { return None };
        match &**reason {
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
        }
    }

    /// Returns the taint, without the time that the API server sets.
    pub fn taint(&self, driver: &DraDriver) -> DeviceTaint {
        DeviceTaint {
            effect: NO_SCHEDULE.to_owned(),
            key: driver.qualified(self.name()),
            time_added: None,
            value: self.value().filter(|value| !value.is_empty()),
        }
    }
}

/// Writes the reason for people.
impl fmt::Display for Withheld {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Health(reason) => reason.fmt(f),
            Self::DevicePlugin => f.write_str("assigned to a pod by the device plugin"),
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
