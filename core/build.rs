//! Makes the table of model names that `names::built_in` reads, from the pci.ids of the crate pci-ids.
//! src/names/format.rs describes its form.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a table that cannot be made must fail the build")]

use miniz_oxide::deflate::compress_to_vec;
use std::path::PathBuf;

include!("src/names/format.rs");

/// The level of compression that makes the smallest table.
const LEVEL: u8 = 10;

fn main() {
    println!("cargo::rerun-if-changed=build.rs");
    println!("cargo::rerun-if-changed=src/names/format.rs");
    let mut models: Vec<(u16, u16, &str)> = pci_ids::Vendors::iter()
        .flat_map(|vendor| vendor.devices().map(|device| (vendor.id(), device.id(), device.name().trim())))
        .collect();
    models.sort_unstable();
    let (mut index, mut blocks) = (Vec::new(), Vec::new());
    let mut block: Vec<u8> = Vec::new();
    for (vendor, device, name) in models {
        assert!(name.len() <= MAX_NAME, "{name}: longer than {MAX_NAME} bytes");
        assert!(!name.contains(char::is_control), "{name:?}: has a control character");
        let id = [vendor.to_be_bytes(), device.to_be_bytes()].concat();
        if block.len() + id.len() + 1 + name.len() > MAX_BLOCK {
            end_block(&mut block, &mut index, &mut blocks);
        }
        if block.is_empty() {
            index.extend(&id);
        }
        block.extend(id);
        block.push(u8::try_from(name.len()).unwrap());
        block.extend(name.as_bytes());
    }
    end_block(&mut block, &mut index, &mut blocks);
    let directory = PathBuf::from(std::env::var_os("OUT_DIR").unwrap());
    std::fs::write(directory.join("index"), index).unwrap();
    std::fs::write(directory.join("blocks"), blocks).unwrap();
}

/// Compresses a block and appends its end to the index.
fn end_block(block: &mut Vec<u8>, index: &mut Vec<u8>, blocks: &mut Vec<u8>) {
    blocks.extend(compress_to_vec(block, LEVEL));
    index.extend(u32::try_from(blocks.len()).unwrap().to_be_bytes());
    block.clear();
}
