//! Makes the table of model names that `names::built_in` reads, from the pci.ids of the crate pci-ids.
//!
//! Files in OUT_DIR, numbers in little endian:
//! `vendors` has 8 bytes for each vendor with a device, sorted: id (2), number of devices of the vendors
//! before it (2), position of its first name in `text` (4). `devices` has 2 bytes for each device: its id,
//! sorted within its vendor. `lengths` has 1 byte for each device: the length of its name in `text`.
//! `text` has the names, abbreviated by the words of src/names/words.rs.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a table that cannot be made must fail the build")]

use std::path::PathBuf;

include!("src/names/words.rs");

/// The longest name in bytes, as written.
const MAX_NAME: usize = 128;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/names/words.rs");
    let mut words: Vec<(usize, &str)> = WORDS.iter().copied().enumerate().collect();
    words.sort_by_key(|(_, word)| std::cmp::Reverse(word.len()));
    let mut vendors: Vec<&pci_ids::Vendor> = pci_ids::Vendors::iter().collect();
    vendors.sort_by_key(|vendor| vendor.id());
    let (mut vendor_table, mut device_table) = (Vec::new(), Vec::new());
    let (mut lengths, mut text) = (Vec::new(), Vec::new());
    for vendor in vendors {
        let mut devices: Vec<&pci_ids::Device> = vendor.devices().collect();
        devices.sort_by_key(|device| device.id());
        if devices.is_empty() {
            continue;
        }
        vendor_table.extend(vendor.id().to_le_bytes());
        vendor_table.extend(u16::try_from(lengths.len()).unwrap().to_le_bytes());
        vendor_table.extend(u32::try_from(text.len()).unwrap().to_le_bytes());
        for device in devices {
            let name = device.name().trim();
            assert!(name.len() <= MAX_NAME, "{name}: longer than {MAX_NAME} bytes");
            assert!(!name.contains(char::is_control), "{name:?}: has a control character");
            let name = abbreviated(name, &words);
            device_table.extend(device.id().to_le_bytes());
            lengths.push(u8::try_from(name.len()).unwrap());
            text.extend(name);
        }
    }
    let directory = PathBuf::from(std::env::var_os("OUT_DIR").unwrap());
    for (file, bytes) in
        [("vendors", vendor_table), ("devices", device_table), ("lengths", lengths), ("text", text)]
    {
        std::fs::write(directory.join(file), bytes).unwrap();
    }
}

/// Returns a name with its words abbreviated. `words` are sorted by length, the longest first.
fn abbreviated(name: &str, words: &[(usize, &str)]) -> Vec<u8> {
    let mut out = Vec::new();
    let mut rest = name.as_bytes();
    while let [first, others @ ..] = rest {
        if let Some((code, word)) = words.iter().find(|(_, word)| rest.starts_with(word.as_bytes())) {
            out.push(0x80 + u8::try_from(*code).unwrap());
            rest = rest.strip_prefix(word.as_bytes()).unwrap();
            continue;
        }
        if !first.is_ascii() {
            out.push(LITERAL);
        }
        out.push(*first);
        rest = others;
    }
    out
}
