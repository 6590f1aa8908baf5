//! Encodes the core's ids and inline texts for serde, whose traits the core does not implement.
//!
//! Each module is used as `#[serde(with = "encode::...")]`.

/// A device id as the kubelet knows it: a PCI address or a uuid.
pub(super) mod device_id {
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;
    use vfio_probe::DeviceId;

    pub(crate) fn serialize<S: Serializer>(id: &DeviceId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(id)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<DeviceId, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(|_| Error::custom(format_args!("{text:?} is no device id")))
    }
}

/// A group as its number.
pub(super) mod group_id {
    use serde::de::{Deserialize, Deserializer};
    use serde::ser::Serializer;
    use vfio_probe::GroupId;

    pub(crate) fn serialize<S: Serializer>(id: &GroupId, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u32(id.0)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<GroupId, D::Error> {
        u32::deserialize(deserializer).map(GroupId)
    }
}

/// A kind of device as its word.
pub(super) mod kind {
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;
    use vfio_probe::Kind;

    pub(crate) fn serialize<S: Serializer>(kind: &Kind, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(kind.as_str())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Kind, D::Error> {
        let text = String::deserialize(deserializer)?;
        let kinds = [Kind::Pci, Kind::Mdev, Kind::VendorVf];
        let kind = kinds.into_iter().find(|kind| kind.as_str() == text);
        kind.ok_or_else(|| Error::custom(format_args!("{text:?} is no kind of device")))
    }
}

/// An inline text as a string. A string that is too long, or not printable ASCII, is an error.
pub(super) mod text {
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::Serializer;
    use vfio_probe::text::Text;

    pub(crate) fn serialize<const N: usize, S: Serializer>(
        text: &Text<N>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(text.as_str())
    }

    pub(crate) fn deserialize<'de, const N: usize, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Text<N>, D::Error> {
        let text = String::deserialize(deserializer)?;
        Text::new(text.as_bytes()).ok_or_else(|| {
            Error::custom(format_args!("{text:?} is not printable ASCII of at most {N} bytes"))
        })
    }
}

/// An inline text that may be missing, as a string or null.
pub(super) mod optional_text {
    use serde::de::{Deserialize, Deserializer, Error};
    use serde::ser::{Serialize, Serializer};
    use vfio_probe::text::Text;

    pub(crate) fn serialize<const N: usize, S: Serializer>(
        text: &Option<Text<N>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        text.as_ref().map(Text::as_str).serialize(serializer)
    }

    pub(crate) fn deserialize<'de, const N: usize, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Text<N>>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
        let inline = Text::new(text.as_bytes());
        inline.map(Some).ok_or_else(|| {
            Error::custom(format_args!("{text:?} is not printable ASCII of at most {N} bytes"))
        })
    }
}
