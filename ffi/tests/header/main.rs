//! Generates the header and compares it with the committed one.

#![allow(clippy::unwrap_used, clippy::panic, missing_docs, reason = "tests may panic")]

mod declarations;

use std::fs::read_to_string;
use std::path::Path;

const LONGEST_LINE: usize = 100;

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Returns the header that belongs to the sources.
fn generated() -> String {
    let mut written = Vec::new();
    cbindgen::generate(here()).unwrap().write(&mut written);
    let declarations = declarations::in_reading_order(&String::from_utf8(written).unwrap(), |file| {
        read_to_string(here().join("src/capi").join(file)).unwrap()
    });
    let mut header = read_to_string(here().join("vfio_probe.h.in")).unwrap();
    for (place, value) in [
        ("@MAJOR@", env!("CARGO_PKG_VERSION_MAJOR")),
        ("@MINOR@", env!("CARGO_PKG_VERSION_MINOR")),
        ("@PATCH@", env!("CARGO_PKG_VERSION_PATCH")),
        ("@VERSION@", env!("CARGO_PKG_VERSION")),
        ("@DECLARATIONS@", &declarations),
    ] {
        assert_eq!(header.matches(place).count(), 1, "{place}");
        header = header.replace(place, value);
    }
    header
}

/// Fails if the committed header is outdated; `UPDATE=1` writes it instead.
#[test]
fn committed_header_is_up_to_date() {
    let header = here().join("../include/vfio_probe.h");
    let generated = generated();
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&header, &generated).unwrap();
    }
    assert!(
        generated == read_to_string(&header).unwrap_or_default(),
        "include/vfio_probe.h is outdated; run UPDATE=1 cargo test -p vfio-probe-ffi --test header"
    );
}

/// The table in C cannot know a function that a later change adds.
#[test]
fn test_of_no_group_has_every_function_with_a_group() {
    let header = generated();
    let declarations = header.split(';').filter_map(|text| text.rsplit_once("vfp_status vfp_"));
    let takes_group = |parameters: &str| {
        parameters.contains("uint32_t group,") || parameters.contains("const uint32_t *groups,")
    };
    let functions = declarations.filter_map(|(_, text)| text.split_once('('));
    let mut names: Vec<_> = functions.filter(|(_, parameters)| takes_group(parameters)).collect();
    names.sort_unstable();
    assert!(names.len() >= 13, "{names:?}");
    let table = read_to_string(here().join("tests/c/invalid_calls.c")).unwrap();
    for (name, _) in names {
        assert!(table.contains(&format!("    {{\"vfp_{name}\", call_")), "vfp_{name}");
    }
}

#[test]
fn header_has_short_lines_and_no_markdown() {
    for line in generated().lines() {
        assert!(line.chars().count() <= LONGEST_LINE, "too long: {line}");
        let is_comment = line.trim_start().starts_with(['/', '*']);
        let is_markdown = line.contains('`') || (is_comment && line.contains("**"));
        assert!(!is_markdown, "markdown: {line}");
        assert!(!line.contains("///") && !line.trim_start().starts_with("//"), "no comment of C89: {line}");
    }
}
