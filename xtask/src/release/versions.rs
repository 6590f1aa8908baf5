//! Checks that every file that names the project's version names the same one.

use std::path::Path;

use crate::context::Context;
use crate::suite::Suite;
use crate::{Result, process};

/// A file, what is before the version in one of its lines, and what is after it.
struct Place {
    file: &'static str,
    before: &'static str,
    after: &'static str,
    /// Whether the file may be missing.
    optional: bool,
}

const fn place(file: &'static str, before: &'static str, after: &'static str) -> Place {
    Place { file, before, after, optional: false }
}

/// Where versions are written by hand. The Python package, the C library's pkg-config files, the Debian packages and the image
/// take theirs from Cargo.toml when they are built, and the tests of the packages check those.
const PLACES: &[Place] = &[
    place("CHANGELOG.md", "## ", " - "),
    place("Cargo.toml", "vfio-probe = { path = \"core\", version = \"", "\""),
    place("Cargo.toml", "kubelet-api = { path = \"plugin/api\", version = \"", "\""),
    place("Cargo.toml", "vfio-plugin-policy = { path = \"plugin/policy\", version = \"", "\""),
    place("Cargo.toml", "kubelet-process = { path = \"tests/kubelet/process\", version = \"", "\""),
    place("Cargo.toml", "xtask = { path = \"xtask\", version = \"", "\""),
    place("include/vfio_probe.h", "#define VFP_VERSION_STRING \"", "\""),
    place("README.md", "IMAGE=registry.example.com/vfio-device-plugin:", "\n"),
    place("docs/install.md", "IMAGE=registry.example.com/vfio-device-plugin:", "\n"),
    place("docs/migration.md", "    version: \"", "\""),
    place("deploy/kata-cdi.yaml", "image: vfio-device-plugin:", "\n"),
    place("deploy/daemonset.yaml", "image: vfio-device-plugin:", "\n"),
    place("deploy/daemonset-probing.yaml", "image: vfio-device-plugin:", "\n"),
    Place { optional: true, ..place("deploy/chart/Chart.yaml", "\nversion: ", "\n") },
    Place { optional: true, ..place("deploy/chart/Chart.yaml", "\nappVersion: ", "\n") },
];

/// Checks all places: the task `versions`.
///
/// # Errors
///
/// Fails if Cargo.toml has no version.
pub fn versions(context: &mut Context, _: &[String]) -> Result<bool> {
    let version = context.version()?;
    let mut suite = Suite::new();
    for place in PLACES {
        let name = format!("{}: {}", place.file, place.before.trim());
        if place.optional && !context.top.join(place.file).exists() {
            continue;
        }
        suite.check(&name, |_| agrees(&context.top, place, &version));
    }
    Ok(suite.end())
}

/// Fails if a place has another version. The error names all places that do.
///
/// # Errors
///
/// Fails with the file and both versions.
pub fn check(context: &Context) -> Result {
    let version = context.version()?;
    let wrong: Vec<String> = PLACES
        .iter()
        .filter_map(|place| agrees(&context.top, place, &version).err().map(|error| error.to_string()))
        .collect();
    if wrong.is_empty() { Ok(()) } else { Err(wrong.join("\n").into()) }
}

fn agrees(top: &Path, place: &Place, version: &str) -> Result {
    let file = top.join(place.file);
    if place.optional && !file.exists() {
        return Ok(());
    }
    let mut text = process::read(&file)?;
    if place.file.ends_with(".yaml") {
        // YAML allows quotes around a text and does not need them.
        text = text.replace('"', "");
    }
    let found = between(&text, place.before, place.after)
        .ok_or_else(|| format!("{} has no version after {:?}", place.file, place.before))?;
    if found == version {
        Ok(())
    } else {
        Err(format!("{} has version {found}, Cargo.toml has {version}", place.file).into())
    }
}

/// Returns the text between the first `before` and the `after` that follows it.
fn between(text: &str, before: &str, after: &str) -> Option<String> {
    let (_, rest) = text.split_once(before)?;
    Some(rest.split_once(after)?.0.to_owned())
}

/// Returns the date of the version's heading in CHANGELOG.md, or `unreleased`.
///
/// # Errors
///
/// Fails if no heading has the form `## VERSION - YYYY-MM-DD` or `## VERSION - unreleased`.
pub fn release_date(context: &Context, version: &str) -> Result<String> {
    let text = process::read(&context.top.join("CHANGELOG.md"))?;
    let date = between(&text, &format!("## {version} - "), "\n").unwrap_or_default();
    if date == "unreleased" || is_date(&date) {
        return Ok(date);
    }
    Err(format!(
        "CHANGELOG.md needs a heading \"## {version} - YYYY-MM-DD\" or \"## {version} - unreleased\""
    )
    .into())
}

/// Returns whether a text is a date such as 2026-11-29.
fn is_date(text: &str) -> bool {
    let parts: Vec<&str> = text.split('-').collect();
    parts.iter().map(|part| part.len()).eq([4, 2, 2])
        && parts.concat().bytes().all(|letter| letter.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_places_have_the_version_of_cargo() {
        check(&Context::new().unwrap()).unwrap();
    }

    #[test]
    fn another_version_is_reported_with_its_file() {
        let top = Context::new().unwrap().top;
        for place in PLACES.iter().filter(|place| !place.optional) {
            let error = agrees(&top, place, "99.0.0").unwrap_err().to_string();
            assert!(error.starts_with(place.file) && error.ends_with("Cargo.toml has 99.0.0"), "{error}");
        }
    }

    #[test]
    fn changelog_heading_has_a_date_or_says_unreleased() {
        let context = Context::new().unwrap();
        release_date(&context, &context.version().unwrap()).unwrap();
        assert!(release_date(&context, "99.0.0").unwrap_err().to_string().contains("## 99.0.0 - YYYY-MM-DD"));
        assert!(is_date("2026-11-29") && !is_date("2026-11-9") && !is_date("soon") && !is_date("2026-1a-29"));
    }
}
