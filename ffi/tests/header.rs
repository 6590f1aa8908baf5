//! The header that is checked in is the one that the code makes.

#![allow(clippy::unwrap_used, missing_docs, reason = "a test may fail loudly")]

/// `UPDATE=1` writes it anew.
#[test]
fn the_header_is_up_to_date() {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let header = here.join("../include/vfio_probe.h");
    let mut made = Vec::new();
    cbindgen::generate(here).unwrap().write(&mut made);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&header, &made).unwrap();
    }
    let checked_in = std::fs::read(&header).unwrap_or_default();
    assert!(made == checked_in, "run UPDATE=1 cargo test -p vfio-probe-ffi --test header");
}
