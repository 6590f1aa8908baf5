//! Writes the words of the enums and reads them back.
//!
//! A value is written as its word, which `as_str` returns. What the value carries follows after a
//! space, as in `physical 4`, `unknown errno 5` and `held 51`. [`FromStr`] reads exactly this form.

use crate::cgroup::InPod;
use crate::device::{Kind, Sriov};
use crate::error::ErrorKind;
use crate::hardware::Presence;
use crate::holders::Via;
use crate::occupancy::{Evidence, Occupancy, UnknownReason};
use crate::peek::Peek;
use crate::pid_namespace::PidNamespace;
use crate::watch::Event;
use std::fmt;
use std::str::FromStr;

/// The error for a text that is no word of an enum.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ParseWordError {
    expected: &'static str,
}

/// Writes what was expected, as in `expected pci, mdev or vendor-vf`.
impl fmt::Display for ParseWordError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expected {}", self.expected)
    }
}

impl std::error::Error for ParseWordError {}

macro_rules! words {
    ($($name:ident { $($value:ident)+ } $expected:literal)+) => {$(
        /// Writes the word.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        /// Reads the word.
        impl FromStr for $name {
            type Err = ParseWordError;

            fn from_str(text: &str) -> Result<Self, ParseWordError> {
                [$(Self::$value),+]
                    .into_iter()
                    .find(|value| value.as_str() == text)
                    .ok_or(ParseWordError { expected: $expected })
            }
        }
    )+};
}

words! {
    Kind { Pci Mdev VendorVf } "pci, mdev or vendor-vf"
    Via { Group Device Cdev } "group, device or cdev"
    Peek { LooksFree LooksHeld Unavailable } "looks-free, looks-held or unavailable"
    Evidence { Open Holder Enable Node None } "open, holder, enable, node or none"
    Presence { Present Lost NotChecked } "present, lost or not-checked"
    InPod { Yes No Unknown } "yes, no or unknown"
    PidNamespace { Host Foreign Unknown } "host, foreign or unknown"
    ErrorKind { Missing Denied Malformed TooLong System } "missing, denied, malformed, too-long or system"
}

/// Writes a word and, after a space, what the value carries.
macro_rules! with_value {
    ($($name:ident { $($carrier:pat => $carried:expr),+ })+) => {$(
        /// Writes the word, and what the value carries after a space.
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self {
                    $($carrier => write!(f, "{} {}", self.as_str(), $carried),)+
                    _ => f.pad(self.as_str()),
                }
            }
        }
    )+};
}

with_value! {
    Sriov { Self::Physical(count) => count }
    UnknownReason { Self::Errno(errno) => errno }
    Occupancy { Self::Unknown(reason) => reason }
    Event {
        Self::Bound(device) | Self::Unbound(device) => device,
        Self::Held(group) | Self::Freed(group) | Self::Changed(group) => group
    }
}

/// Returns the two parts of a text at its first space. The second is empty without a space.
fn parts(text: &str) -> (&str, &str) {
    text.split_once(' ').unwrap_or((text, ""))
}

impl FromStr for Sriov {
    type Err = ParseWordError;

    fn from_str(text: &str) -> Result<Self, ParseWordError> {
        let value = match parts(text) {
            ("none", "") => Some(Self::None),
            ("virtual", "") => Some(Self::Virtual),
            ("physical", count) => count.parse().ok().map(Self::Physical),
            _ => None,
        };
        value.filter(|value| value.to_string() == text).ok_or(ParseWordError {
            expected: "none, virtual, or physical and a number of virtual functions",
        })
    }
}

impl FromStr for UnknownReason {
    type Err = ParseWordError;

    fn from_str(text: &str) -> Result<Self, ParseWordError> {
        let value = match parts(text) {
            ("denied", "") => Some(Self::Denied),
            ("timed-out", "") => Some(Self::TimedOut),
            ("not-probed", "") => Some(Self::NotProbed),
            ("errno", errno) => errno.parse().ok().map(Self::Errno),
            _ => None,
        };
        value
            .filter(|value| value.to_string() == text)
            .ok_or(ParseWordError { expected: "denied, timed-out, not-probed, or errno and a number" })
    }
}

impl FromStr for Occupancy {
    type Err = ParseWordError;

    fn from_str(text: &str) -> Result<Self, ParseWordError> {
        let value = match parts(text) {
            ("free", "") => Some(Self::Free),
            ("held", "") => Some(Self::Held),
            ("absent", "") => Some(Self::Absent),
            ("unknown", reason) => reason.parse().ok().map(Self::Unknown),
            _ => None,
        };
        value
            .filter(|value| value.to_string() == text)
            .ok_or(ParseWordError { expected: "free, held, absent, or unknown and a reason" })
    }
}

impl FromStr for Event {
    type Err = ParseWordError;

    fn from_str(text: &str) -> Result<Self, ParseWordError> {
        let (word, of) = parts(text);
        let value = match word {
            "bound" => of.parse().ok().map(Self::Bound),
            "unbound" => of.parse().ok().map(Self::Unbound),
            "held" => of.parse().ok().map(Self::Held),
            "freed" => of.parse().ok().map(Self::Freed),
            "changed" => of.parse().ok().map(Self::Changed),
            "ready" => Some(Self::Ready),
            "rescan" => Some(Self::Rescan),
            _ => None,
        };
        value.filter(|value| value.to_string() == text).ok_or(ParseWordError {
            expected: "bound or unbound and a device, held, freed or changed and a group, ready or rescan",
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::GroupId;
    use std::fmt::{Debug, Display};

    fn survives<T: FromStr<Err = ParseWordError> + Display + Debug + PartialEq>(
        values: &[T],
        texts: &[&str],
    ) {
        assert_eq!(values.len(), texts.len());
        for (value, text) in values.iter().zip(texts) {
            assert_eq!(value.to_string(), *text);
            assert_eq!(text.parse::<T>().as_ref(), Ok(value), "{text}");
            // What one value expects has no suffix and no upper case.
            assert!(format!("{text} ").parse::<T>().is_err(), "{text}");
            assert!(text.to_uppercase().parse::<T>().is_err(), "{text}");
            let expected = "".parse::<T>().unwrap_err().to_string();
            let word = text.split(' ').next().unwrap();
            assert!(expected.contains(word), "{expected} lacks {word}");
        }
    }

    #[test]
    fn words_are_read_as_they_are_written() {
        survives(&[Kind::Pci, Kind::Mdev, Kind::VendorVf], &["pci", "mdev", "vendor-vf"]);
        survives(&[Via::Group, Via::Device, Via::Cdev], &["group", "device", "cdev"]);
        let peeks = [Peek::LooksFree, Peek::LooksHeld, Peek::Unavailable];
        survives(&peeks, &["looks-free", "looks-held", "unavailable"]);
        let (open, holder, enable) = (Evidence::Open, Evidence::Holder, Evidence::Enable);
        let evidence = [open, holder, enable, Evidence::Node, Evidence::None];
        survives(&evidence, &["open", "holder", "enable", "node", "none"]);
        let presence = [Presence::Present, Presence::Lost, Presence::NotChecked];
        survives(&presence, &["present", "lost", "not-checked"]);
        survives(&[InPod::Yes, InPod::No, InPod::Unknown], &["yes", "no", "unknown"]);
        let namespaces = [PidNamespace::Host, PidNamespace::Foreign, PidNamespace::Unknown];
        survives(&namespaces, &["host", "foreign", "unknown"]);
        let (missing, denied, malformed) = (ErrorKind::Missing, ErrorKind::Denied, ErrorKind::Malformed);
        let kinds = [missing, denied, malformed, ErrorKind::TooLong, ErrorKind::System];
        survives(&kinds, &["missing", "denied", "malformed", "too-long", "system"]);
    }

    #[test]
    fn values_are_read_with_what_they_carry() {
        let roles = [Sriov::None, Sriov::Virtual, Sriov::Physical(4)];
        survives(&roles, &["none", "virtual", "physical 4"]);
        let reasons = [UnknownReason::Denied, UnknownReason::TimedOut, UnknownReason::NotProbed];
        survives(&reasons, &["denied", "timed-out", "not-probed"]);
        survives(&[UnknownReason::Errno(5)], &["errno 5"]);
        survives(&[Occupancy::Free, Occupancy::Held, Occupancy::Absent], &["free", "held", "absent"]);
        let unknown = [UnknownReason::Denied, UnknownReason::Errno(5)].map(Occupancy::Unknown);
        survives(&unknown, &["unknown denied", "unknown errno 5"]);
        let (device, group) = ("0000:3b:00.0".parse().unwrap(), GroupId(51));
        survives(
            &[Event::Bound(device), Event::Unbound(device), Event::Held(group), Event::Freed(group)],
            &["bound 0000:3b:00.0", "unbound 0000:3b:00.0", "held 51", "freed 51"],
        );
        survives(&[Event::Changed(group), Event::Ready, Event::Rescan], &["changed 51", "ready", "rescan"]);
    }

    #[test]
    fn incomplete_values_are_refused() {
        for text in ["physical", "physical ", "physical 04", "physical -1", "none 1"] {
            assert!(text.parse::<Sriov>().is_err(), "{text}");
        }
        for text in ["unknown", "unknown errno", "free 1", "errno 5"] {
            assert!(text.parse::<Occupancy>().is_err(), "{text}");
        }
        for text in ["bound", "bound 51", "held 0000:3b:00.0", "ready 1", "HELD 51"] {
            assert!(text.parse::<Event>().is_err(), "{text}");
        }
    }
}
