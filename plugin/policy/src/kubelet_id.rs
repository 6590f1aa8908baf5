//! A device id as the kubelet sends and stores it.

use std::fmt;
use std::str::FromStr;
use vfio_probe::id::ParseIdError;
use vfio_probe::{DeviceId, GroupId};

/// A device id of the kubelet, parsed once where it comes in.
///
/// Only the form that the plugin itself lists is an id. The kubelet compares ids as texts, so it never sends another form.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum KubeletDeviceId {
    /// A PCI function or a mediated device. This plugin lists only these.
    Device(DeviceId),
    /// A group. Older plugins listed groups' numbers, which the kubelet's checkpoint keeps until their pods end.
    Group(GroupId),
}

impl KubeletDeviceId {
    /// Returns the device. None for a group.
    pub fn device(self) -> Option<DeviceId> {
        match self {
            Self::Device(id) => Some(id),
            Self::Group(_) => None,
        }
    }
}

impl FromStr for KubeletDeviceId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, ParseIdError> {
        if let Some(group) = GroupId::parse(text.as_bytes()) {
            return Ok(Self::Group(group));
        }
        let id = DeviceId::parse(text.as_bytes()).ok_or(ParseIdError)?;
        // A domain of more than four digits has no leading zero (`%04x`), and all digits are lower case.
        let has_short_domain = !text.starts_with('0') || text.len() == "0000:00:00.0".len();
        let is_canonical =
            (id.pci().is_none() || has_short_domain) && !text.bytes().any(|c| c.is_ascii_uppercase());
        is_canonical.then_some(Self::Device(id)).ok_or(ParseIdError)
    }
}

impl fmt::Display for KubeletDeviceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Device(id) => id.fmt(f),
            Self::Group(id) => id.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id_is_displayed_as_it_was_parsed() {
        for text in [
            "0000:1b:00.0",
            "10000:e1:00.0",
            "0abc:e1:1f.7",
            "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001",
            "00b8f4f2-509f-382f-3c1e-e6bfe0fa1001",
            "0",
            "51",
            "4294967295",
        ] {
            assert_eq!(text.parse::<KubeletDeviceId>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn text_that_the_plugin_never_lists_is_no_id() {
        for text in [
            "",
            "0000:1B:00.0",
            "00000:1b:00.0",
            "00010000:1b:00.0",
            "1b:00.0",
            "0000:1b:20.0",
            "0000:1b:00.8",
            " 0000:1b:00.0",
            "0000:1b:00.0\n",
            "83B8f4f2-509f-382f-3c1e-e6bfe0fa1001",
            "051",
            "-1",
            "4294967296",
            "/dev/vfio/51",
            "0000:1b:00.0,0000:1c:00.0",
        ] {
            assert_eq!(text.parse::<KubeletDeviceId>(), Err(ParseIdError), "{text:?}");
        }
    }
}
