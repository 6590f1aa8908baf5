//! Sets the soname of the C library: `libvfio_probe.so.N`, where N is `VFP_ABI`.

use std::path::Path;

fn main() {
    let abi = Path::new("src/capi/version.rs");
    println!("cargo:rerun-if-changed={}", abi.display());
    println!("cargo:rerun-if-changed=build.rs");
    // The wheel has no soname: Python loads its module by path.
    if std::env::var_os("CARGO_FEATURE_CAPI").is_none() {
        return;
    }
    let source = std::fs::read_to_string(abi).unwrap_or_default();
    let number =
        source.lines().find_map(|line| line.strip_prefix("pub const VFP_ABI: u32 = ")?.strip_suffix(';'));
    match number {
        Some(number) => println!("cargo:rustc-cdylib-link-arg=-Wl,-soname,libvfio_probe.so.{number}"),
        None => println!("cargo::error={}: no line defines VFP_ABI", abi.display()),
    }
}
