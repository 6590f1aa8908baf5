//! Compares the committed header with the one that cbindgen generates.

#![allow(clippy::unwrap_used, missing_docs, reason = "tests may panic")]

/// Fails if the committed header is outdated; `UPDATE=1` writes it instead.
#[test]
fn committed_header_is_up_to_date() {
    let here = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let header = here.join("../include/vfio_probe.h");
    let mut generated = Vec::new();
    cbindgen::generate(here).unwrap().write(&mut generated);
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&header, &generated).unwrap();
    }
    let committed = std::fs::read(&header).unwrap_or_default();
    assert!(
        generated == committed,
        "include/vfio_probe.h is outdated; run UPDATE=1 cargo test -p vfio-probe-ffi --test header"
    );
}
