//! Reads the plugin's log (`--log-format json --log-level debug`) as events.
//!
//! The messages that distinguish events are the constants below, and nowhere else in this crate. Everything else comes from
//! fields: `device`, `old`, `new`, `reason`, `event`, `error`, `held`, `request`.

use crate::violation::violated;
use serde::Deserialize;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;

/// The kubelet has called Allocate; field `request`.
const ALLOCATE_CALLED: &str = "Allocate called";
/// Allocate was refused; field `error`.
const ALLOCATE_REFUSED: &str = "Allocate refused";
/// A device left the list; field `device`.
const DEVICE_DROPPED: &str = "dropped a device that is no longer bound";
/// In the status message of Allocate: the device was allocated to another pod as a substitute.
pub(crate) const ASSIGNED_AS_SUBSTITUTE: &str = "got it as the substitute of another device";
/// In field `event`: what is known about a group changed, and it is not free. After it comes the group's number.
const GROUP_CHANGED: &str = "Changed(";
/// The value of field `old` for a device that is listed for the first time.
const FIRST_LISTED: &str = "new";

/// The plugin has read pods and checkpoint, several times a second.
const POLLED: &str = "polled the kubelet";
/// How many lines of the end are shown, and how much of each.
const END_LINES: usize = 30;
const END_WIDTH: usize = 400;

/// One line of the log.
#[derive(Debug)]
pub(crate) enum Event {
    /// Allocate was called.
    AllocateCalled {
        /// The request, which names device ids.
        request: String,
    },
    /// Allocate was refused.
    AllocateRefused {
        /// The status message, which names devices.
        error: String,
    },
    /// Allocate has substituted a free device for a held one.
    Substituted {
        /// The held device.
        held: String,
    },
    /// A device left the list.
    Dropped {
        /// The device.
        device: String,
    },
    /// The health of a device changed.
    Health {
        /// The device.
        device: String,
        /// Its health before; `None` for a device that is listed for the first time.
        old: Option<String>,
        /// Its health now.
        new: String,
        /// Why it is Unhealthy; else empty.
        reason: String,
    },
    /// What is known about a group changed, and it is not free: its holders, its members, or what the check rests on.
    GroupChanged {
        /// The group.
        group: u32,
    },
    /// Any other line.
    Other,
}

#[derive(Deserialize)]
struct Line {
    fields: Fields,
}

#[derive(Deserialize)]
struct Fields {
    #[serde(default)]
    message: String,
    device: Option<String>,
    old: Option<String>,
    new: Option<String>,
    #[serde(default)]
    reason: String,
    #[serde(default)]
    error: String,
    /// The held device of a substitution.
    held: Option<String>,
    #[serde(default)]
    request: String,
    #[serde(default)]
    event: String,
}

impl From<Fields> for Event {
    fn from(fields: Fields) -> Self {
        match fields {
            Fields { device: Some(device), old: Some(old), new: Some(new), reason, .. } => {
                let old = Some(old).filter(|old| old != FIRST_LISTED);
                Self::Health { device, old, new, reason }
            }
            Fields { held: Some(held), .. } => Self::Substituted { held },
            Fields { message, request, .. } if message == ALLOCATE_CALLED => Self::AllocateCalled { request },
            Fields { message, error, .. } if message == ALLOCATE_REFUSED => Self::AllocateRefused { error },
            Fields { message, device: Some(device), .. } if message == DEVICE_DROPPED => {
                Self::Dropped { device }
            }
            Fields { event, .. } => {
                let group = event.strip_prefix(GROUP_CHANGED).and_then(|rest| rest.strip_suffix(')'));
                let group = group.and_then(|group| group.parse().ok());
                group.map_or(Self::Other, |group| Self::GroupChanged { group })
            }
        }
    }
}

/// Reads the events after byte `read` of the log and moves `read` to the end of the last complete line.
///
/// # Errors
/// A violation if a line is not JSON, or the log cannot be read.
pub(crate) fn read(log: &Path, read: &mut u64) -> anyhow::Result<Vec<Event>> {
    let mut file = File::open(log)?;
    file.seek(SeekFrom::Start(*read))?;
    let mut text = String::new();
    file.read_to_string(&mut text)?;
    let complete = text.rfind('\n').map_or(0, |end| end + 1);
    *read += u64::try_from(complete)?;
    let mut events = Vec::new();
    for line in text.get(..complete).unwrap_or_default().lines() {
        let Ok(Line { fields }) = serde_json::from_str(line) else {
            violated!("the plugin's log has a line that is not JSON: {line}")
        };
        events.push(fields.into());
    }
    Ok(events)
}

/// Returns the last lines of the log for a person, without those of the regular polls.
pub(crate) fn end(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let is_shown = |line: &&str| !line.contains(POLLED);
    let mut lines: Vec<&str> = text.lines().rev().filter(is_shown).take(END_LINES).collect();
    lines.reverse();
    lines.iter().map(|line| line.chars().take(END_WIDTH).chain(['\n']).collect::<String>()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(fields: &str) -> Event {
        let line: Line = serde_json::from_str(&format!(r#"{{"level":"INFO","fields":{fields}}}"#)).unwrap();
        line.fields.into()
    }

    #[test]
    fn health_change_is_known_by_its_fields() {
        let change =
            event(r#"{"message":"x","device":"0000:1b:00.0","old":"new","new":"Unhealthy","reason":"r"}"#);
        let Event::Health { device, old: None, new, reason } = change else { panic!("{change:?}") };
        assert_eq!((device.as_str(), new.as_str(), reason.as_str()), ("0000:1b:00.0", "Unhealthy", "r"));
        assert!(matches!(event(r#"{"message":"x","device":"d"}"#), Event::Other));
        assert!(matches!(
            event(r#"{"message":"x","event":"Changed(52)"}"#),
            Event::GroupChanged { group: 52 }
        ));
        assert!(matches!(event(r#"{"message":"x","event":"Freed(52)"}"#), Event::Other));
        assert!(matches!(event(r#"{"message":"x","held":"a","given":"b"}"#), Event::Substituted { .. }));
    }
}
