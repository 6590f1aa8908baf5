//! Looks up model names in the table that is built into the library. Performs no I/O and no allocation.

use miniz_oxide::inflate::core::{DecompressorOxide, decompress, inflate_flags};
use std::fmt;

include!("format.rs");

const INDEX: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/index"));
const BLOCKS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/blocks"));

/// The name of a model: UTF-8 of at most 128 bytes, without control characters.
#[derive(Clone, Copy)]
pub struct ModelName {
    bytes: [u8; MAX_NAME],
    len: usize,
}

impl ModelName {
    /// Returns the name as pci.ids has it, such as `GH100 [H100 SXM5 80GB]`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(self.bytes.get(..self.len).unwrap_or_default()).unwrap_or_default()
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
/// without subsystems. It is part of the library, so a name depends on no file of the host. A lookup
/// expands up to 8 KiB on the stack, which takes some ten microseconds.
#[must_use]
pub fn built_in(vendor: u16, device: u16) -> Option<ModelName> {
    let [a, b] = vendor.to_be_bytes();
    let [c, d] = device.to_be_bytes();
    let id = [a, b, c, d];
    let (index, _) = INDEX.as_chunks::<8>();
    let place = index.partition_point(|[a, b, c, d, ..]| [*a, *b, *c, *d] <= id).checked_sub(1)?;
    let end_of = |[_, _, _, _, a, b, c, d]: &[u8; 8]| u32::from_be_bytes([*a, *b, *c, *d]);
    let begin = place.checked_sub(1).and_then(|place| index.get(place)).map_or(0, end_of);
    let end = end_of(index.get(place)?);
    let compressed = BLOCKS.get(usize::try_from(begin).ok()?..usize::try_from(end).ok()?)?;
    let mut block = [0; MAX_BLOCK];
    let flags = inflate_flags::TINFL_FLAG_USING_NON_WRAPPING_OUTPUT_BUF;
    let (_, _, length) = decompress(&mut DecompressorOxide::new(), compressed, &mut block, 0, flags);
    find(block.get(..length)?, id)
}

/// Finds the record of a model in a block.
fn find(mut records: &[u8], id: [u8; 4]) -> Option<ModelName> {
    loop {
        let (found, rest) = records.split_first_chunk::<4>()?;
        let (length, rest) = rest.split_first()?;
        let (text, rest) = rest.split_at_checked(usize::from(*length))?;
        if *found == id {
            let mut name = ModelName { bytes: [0; MAX_NAME], len: text.len() };
            name.bytes.get_mut(..text.len())?.copy_from_slice(text);
            return Some(name);
        }
        records = rest;
    }
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
        assert!(models > 19_000);
    }

    #[test]
    fn model_outside_the_table_has_no_name() {
        let listed: HashSet<(u16, u16)> = pci_ids::Vendors::iter()
            .flat_map(|vendor| vendor.devices().map(|device| (vendor.id(), device.id())))
            .collect();
        for (vendor, step) in [(0, 97), (1, 97), (0x10dd, 97), (0x10de, 7), (0x8086, 7), (0xffff, 97)] {
            for device in (0..=u16::MAX).step_by(step) {
                let known = built_in(vendor, device).is_some();
                assert_eq!(known, listed.contains(&(vendor, device)), "{vendor:04x}:{device:04x}");
            }
        }
    }
}
