//! Looks up model names in the table that is built into the library. Performs no I/O and no allocation.

use std::fmt;

include!("words.rs");

// The build script (build.rs) describes these files.
const VENDORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/vendors"));
const DEVICES: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/devices"));
const LENGTHS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/lengths"));
const TEXT: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/text"));

/// The name of a model: UTF-8 of at most 128 bytes, without control characters.
#[derive(Clone, Copy)]
pub struct ModelName {
    bytes: [u8; 128],
    len: usize,
}

impl ModelName {
    /// Returns the name as pci.ids has it, such as `GH100 [H100 SXM5 80GB]`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.bytes.get(..self.len).unwrap_or_default()).unwrap_or_default()
    }

    fn push(&mut self, bytes: &[u8]) -> Option<()> {
        self.bytes.get_mut(self.len..self.len + bytes.len())?.copy_from_slice(bytes);
        self.len += bytes.len();
        Some(())
    }
}

impl fmt::Display for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

impl fmt::Debug for ModelName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// Returns the name of the model with this PCI vendor and device id. None if the table lacks it.
///
/// The table is the pci.ids of 2025-07-11, the file that NVIDIA's kubevirt-gpu-device-plugin ships,
/// without subsystems. It is part of the library, so a name depends on no file of the host. Takes
/// about a microsecond.
#[must_use]
pub fn built_in(vendor: u16, device: u16) -> Option<ModelName> {
    let (vendors, _) = VENDORS.as_chunks::<8>();
    let place = vendors.binary_search_by_key(&vendor, |[a, b, ..]| u16::from_le_bytes([*a, *b])).ok()?;
    let first_of = |[_, _, a, b, ..]: &[u8; 8]| usize::from(u16::from_le_bytes([*a, *b]));
    let [_, _, _, _, a, b, c, d] = vendors.get(place)?;
    let text = usize::try_from(u32::from_le_bytes([*a, *b, *c, *d])).ok()?;
    let first = first_of(vendors.get(place)?);
    let end = vendors.get(place + 1).map_or(LENGTHS.len(), first_of);
    let (devices, _) = DEVICES.as_chunks::<2>();
    let place =
        devices.get(first..end)?.binary_search_by_key(&device, |bytes| u16::from_le_bytes(*bytes)).ok()?;
    let (before, rest) = LENGTHS.get(first..)?.split_at_checked(place)?;
    let begin = text + before.iter().map(|length| usize::from(*length)).sum::<usize>();
    expanded(TEXT.get(begin..begin + usize::from(*rest.first()?))?)
}

/// Returns a name with its abbreviations written out.
fn expanded(text: &[u8]) -> Option<ModelName> {
    let mut name = ModelName { bytes: [0; 128], len: 0 };
    let mut bytes = text.iter();
    while let Some(&byte) = bytes.next() {
        match (byte, byte.checked_sub(0x80)) {
            (LITERAL, _) => name.push(&[*bytes.next()?])?,
            (_, Some(word)) => name.push(WORDS.get(usize::from(word))?.as_bytes())?,
            _ => name.push(&[byte])?,
        }
    }
    Some(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn every_model_of_pci_ids_has_its_name() {
        let mut models = 0;
        for vendor in pci_ids::Vendors::iter() {
            for device in vendor.devices() {
                let name = built_in(vendor.id(), device.id()).unwrap();
                assert_eq!(name.as_str(), device.name().trim(), "{:04x}:{:04x}", vendor.id(), device.id());
                models += 1;
            }
        }
        assert_eq!(models, LENGTHS.len());
        assert!(models > 19_000);
    }

    #[test]
    fn model_outside_the_table_has_no_name() {
        let listed: HashSet<(u16, u16)> = pci_ids::Vendors::iter()
            .flat_map(|vendor| vendor.devices().map(|device| (vendor.id(), device.id())))
            .collect();
        for vendor in [0, 1, 0x10dd, 0x10de, 0x8086, 0xffff] {
            for device in 0..=u16::MAX {
                let known = built_in(vendor, device).is_some();
                assert_eq!(known, listed.contains(&(vendor, device)), "{vendor:04x}:{device:04x}");
            }
        }
    }
}
