//! What the dependencies promise: their licenses and sources, known flaws, and the oldest Rust that compiles them.

use crate::context::Context;
use crate::log::{Log, ensure};
use crate::suite::Suite;
use crate::{Result, process};

/// cargo-deny, which crates.io has.
const CARGO_DENY: (&str, &str) = ("cargo-deny", "0.20.2");
/// The file with the image of the job that builds with the oldest Rust.
const WORKFLOW: &str = ".github/workflows/verify.yml";

/// Checks licenses, sources and duplicates of the dependencies with cargo-deny, their flaws if the database of advisories can be
/// fetched, and `rust-version`.
///
/// # Errors
///
/// Fails if cargo-deny cannot be installed.
pub fn dependencies(context: &mut Context, _: &[String]) -> Result<bool> {
    if context.find(CARGO_DENY.0).is_none() {
        let programs = context.cargo_tool(CARGO_DENY.0, CARGO_DENY.1)?;
        context.prepend_path(&programs);
    }
    let deny = |arguments: &[&str]| {
        let mut deny = context.cargo(&["deny", "--all-features"]);
        deny.args(arguments);
        deny
    };
    let mut suite = Suite::new();
    suite.check("licenses, sources and duplicates", |log| {
        log.run(&mut deny(&["check", "bans", "licenses", "sources"]))
    });
    // The fuzz targets are never distributed, so their licenses do not matter.
    suite.check("sources of the fuzz targets", |log| {
        log.run(&mut deny(&["--manifest-path", "fuzz/Cargo.toml", "check", "sources"]))
    });
    if process::succeeds(&mut deny(&["fetch", "db"])) {
        suite.check("advisories", |log| log.run(&mut deny(&["check", "--disable-fetch", "advisories"])));
    } else {
        process::print_line("not checked: advisories; the database at github.com/RustSec cannot be fetched");
    }
    suite.check_aloud("rust-version", |log| rust_version(context, log));
    Ok(suite.end())
}

/// Checks `rust-version` as far as it can be checked without that Rust: no dependency needs a newer one, and the workflow builds
/// with it. The step `lints` finds newer items of the standard library (clippy, `incompatible_msrv`). Builds with that Rust if
/// rustup has it.
fn rust_version(context: &Context, log: &mut Log) -> Result {
    let manifest = process::read(&context.top.join("Cargo.toml"))?;
    let ours = manifest.lines().find_map(|line| line.strip_prefix("rust-version = \"")?.strip_suffix('"'));
    let ours = ours.ok_or("Cargo.toml has no rust-version")?;
    let mut metadata = context.cargo(&["metadata", "--format-version", "1", "--all-features", "--locked"]);
    let metadata = process::output(metadata.args(["--filter-platform", "x86_64-unknown-linux-gnu"]))?;
    for (package, needs) in rust_versions(&metadata) {
        ensure(
            number(needs) <= number(ours),
            &format!("{package} needs Rust {needs}; rust-version is {ours}"),
        )?;
    }
    let image = format!("rust:{ours}-");
    ensure(
        process::read(&context.top.join(WORKFLOW))?.contains(&image),
        &format!("{WORKFLOW} has no image {image}"),
    )?;
    let toolchains =
        process::output(context.command("rustup").args(["toolchain", "list"])).unwrap_or_default();
    // The whole name: rustup would download a toolchain of another name.
    let Some(toolchain) = toolchain(&toolchains, ours) else {
        log.say(&format!(
            "no dependency declares a Rust newer than {ours}; not built with it, because rustup has no toolchain {ours} here"
        ));
        return Ok(());
    };
    let target = context.target.join("oldest");
    let check = ["check", "--workspace", "--bins", "--locked", "--target-dir"];
    log.run(context.command("cargo").arg(format!("+{toolchain}")).args(check).arg(target))?;
    log.say(&format!("built with Rust {toolchain}"));
    Ok(())
}

/// Returns the name of the toolchain of a version in the output of `rustup toolchain list`.
fn toolchain<'a>(list: &'a str, version: &str) -> Option<&'a str> {
    let mut names = list.lines().filter_map(|line| line.split_whitespace().next());
    names.find(|name| {
        name.strip_prefix(version).is_some_and(|rest| rest.starts_with('.') || rest.starts_with('-'))
    })
}

/// Returns the packages of cargo's metadata that declare an oldest Rust, each with it.
fn rust_versions(metadata: &str) -> impl Iterator<Item = (&str, &str)> {
    // The fields of a package begin with its name and include its version of Rust; its dependencies have no field `id`.
    metadata
        .split("{\"name\":\"")
        .scan("", |package, part| {
            let (name, rest) = part.split_once('"').unwrap_or_default();
            if rest.starts_with(",\"version\":") {
                *package = name;
            }
            let needs = rest.split_once("\"rust_version\":\"").and_then(|(_, rest)| rest.split_once('"'));
            Some(needs.map(|(needs, _)| (*package, needs)))
        })
        .flatten()
}

/// Returns a version as numbers, which compare as versions do.
fn number(version: &str) -> Vec<u32> {
    let mut numbers: Vec<u32> = version.split('.').map(|part| part.parse().unwrap_or(u32::MAX)).collect();
    numbers.resize(3, 0);
    numbers
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rust_versions_are_read_with_their_packages() {
        let metadata = r#"{"packages":[{"name":"a","version":"1.0.0","id":"a","dependencies":[{"name":"b","source":null}],"rust_version":"1.89"},{"name":"c","version":"2.0.0","rust_version":null},{"name":"d","version":"1.0.0","rust_version":"1.63.0"}]}"#;
        assert_eq!(rust_versions(metadata).collect::<Vec<_>>(), [("a", "1.89"), ("d", "1.63.0")]);
    }

    #[test]
    fn toolchain_is_found_by_its_whole_name() {
        let list = "stable-x86_64-unknown-linux-gnu (active, default)\n1.89.0-x86_64-unknown-linux-gnu\n";
        assert_eq!(toolchain(list, "1.89"), Some("1.89.0-x86_64-unknown-linux-gnu"));
        assert_eq!(toolchain(list, "1.8"), None);
    }

    #[test]
    fn versions_compare_as_numbers() {
        assert!(number("1.9") < number("1.89.1") && number("1.89") == number("1.89.0"));
    }
}
