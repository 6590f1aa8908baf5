//! The public interface of the crate `vfio-probe`: the checked-in list, the package, and breaks since the latest baseline.

use std::path::{Path, PathBuf};

use crate::context::Context;
use crate::log::{Log, ensure};
use crate::suite::Suite;
use crate::{Result, process};

/// Lists the public items. It reads the JSON of rustdoc, whose format belongs to the compiler: 0.52 reads that of Rust 1.95.
const PUBLIC_API: (&str, &str) = ("cargo-public-api", "0.52.0");
/// Finds breaks by rules. It compiles for minutes, so only `--semver` installs it.
const SEMVER_CHECKS: (&str, &str) = ("cargo-semver-checks", "0.51.0");
const CRATE: &str = "vfio-probe";
/// The accepted list. `xtask rust-api --update` writes it.
const LIST: &str = "core/public-api.txt";

/// Compares the public items of the crate with the accepted list, checks the files of its package, and finds breaks with
/// cargo-semver-checks where that is installed. `--update` accepts the items of now, `--semver` installs cargo-semver-checks.
///
/// # Errors
///
/// Fails if cargo-public-api cannot be installed, or if rustdoc fails.
pub fn rust_api(context: &mut Context, arguments: &[String]) -> Result<bool> {
    let has = |name: &str| arguments.iter().any(|argument| argument == name);
    let items = public_items(context)?;
    let list = context.top.join(LIST);
    if has("--update") {
        process::write(&list, &items)?;
    }
    let mut suite = Suite::new();
    suite.check("public items are those of the accepted list", |log| {
        compare(&process::read(&list)?, &items, log)
    });
    suite.check("no public item names a type of another crate", |_| {
        let foreign = items.lines().find(|line| line.contains("rustix::") || line.contains("memchr::"));
        foreign.map_or(Ok(()), |line| Err(line.to_owned().into()))
    });
    suite.check("package has README and LICENSE", |log| package(context, log));
    match semver_checks(context, has("--semver"))? {
        Some(programs) => {
            let (baseline, what) = baseline(context)?;
            process::print_line(format_args!("breaks are those since {baseline}, {what}"));
            suite.check("no break since the baseline", |log| {
                let mut check = context.cargo(&["semver-checks", "--package", CRATE]);
                check.args(["--baseline-rev", &baseline, "--release-type", "minor"]);
                log.run(check.env("PATH", path_with(context, &programs)?))
            });
        }
        None => process::print_line(format_args!(
            "not checked: breaks by the rules of {} {}; `scripts/xtask rust-api --semver` installs it, which takes minutes",
            SEMVER_CHECKS.0, SEMVER_CHECKS.1
        )),
    }
    Ok(suite.end())
}

/// Returns the public items, one a line. Derived, automatic and blanket implementations are left out.
fn public_items(context: &Context) -> Result<String> {
    let programs = context.cargo_tool(PUBLIC_API.0, PUBLIC_API.1)?;
    // The JSON of rustdoc is not stable, so it needs this variable. Nothing that is shipped is built with it.
    let target = context.target.join("rustdoc-json");
    let mut rustdoc = context.cargo(&["rustdoc", "--quiet", "--package", CRATE, "--lib", "--target-dir"]);
    rustdoc.arg(&target).args(["--", "-Z", "unstable-options", "--output-format", "json"]);
    process::run(rustdoc.env("RUSTC_BOOTSTRAP", "1"))?;
    let mut list = context.command(programs.join(PUBLIC_API.0));
    list.args(["public-api", "-sss", "--color", "never", "--rustdoc-json"]);
    let items = process::output(list.arg(target.join("doc/vfio_probe.json")))?;
    Ok(items + "\n")
}

/// Names the items that only one of the lists has.
fn compare(accepted: &str, items: &str, log: &mut Log) -> Result {
    let only_in = |list: &str, other: &str| -> Vec<String> {
        let other: std::collections::BTreeSet<&str> = other.lines().collect();
        list.lines().filter(|line| !other.contains(line)).map(str::to_owned).collect()
    };
    let (removed, added) = (only_in(accepted, items), only_in(items, accepted));
    for (sign, lines) in [('-', &removed), ('+', &added)] {
        lines.iter().for_each(|line| log.say(&format!("{sign}{line}")));
    }
    ensure(
        removed.is_empty() && added.is_empty(),
        &format!("the public items differ from {LIST}; accept them with `scripts/xtask rust-api --update`"),
    )
}

/// Checks that the package contains what crates.io shows.
fn package(context: &Context, log: &mut Log) -> Result {
    let mut list = context.cargo(&["package", "--package", CRATE, "--list", "--allow-dirty"]);
    let files = process::output(&mut list)?;
    log.say(&files);
    for file in ["README.md", "LICENSE", "src/lib.rs", "examples/list.rs"] {
        ensure(files.lines().any(|line| line == file), &format!("the package lacks {file}"))?;
    }
    Ok(())
}

/// Returns the directory of cargo-semver-checks. None if it is not installed and is not to be.
fn semver_checks(context: &Context, install: bool) -> Result<Option<PathBuf>> {
    let (name, version) = SEMVER_CHECKS;
    let built = context.cache.join("cargo").join(format!("{name}-{version}/bin")).join(name);
    if install || built.exists() { context.cargo_tool(name, version).map(Some) } else { Ok(None) }
}

/// Returns the revision to compare with, and what it is: the latest release, or the commit that changed the accepted list last.
fn baseline(context: &Context) -> Result<(String, &'static str)> {
    let git = |arguments: &[&str]| process::output(context.command("git").args(arguments));
    let tags = git(&["tag", "--list", "v[0-9]*", "--merged", "HEAD", "--sort=-v:refname"])?;
    if let Some(tag) = tags.lines().next() {
        return Ok((tag.to_owned(), "the latest release"));
    }
    let commit = git(&["log", "-1", "--format=%H", "--", LIST])?;
    ensure(!commit.is_empty(), &format!("no commit has {LIST}"))?;
    Ok((commit, "the commit that accepted the public items, because nothing is released"))
}

/// Returns PATH with a directory in front.
fn path_with(context: &Context, directory: &Path) -> Result<std::ffi::OsString> {
    let path = context.get("PATH").unwrap_or_default();
    let directories = std::iter::once(directory.to_owned()).chain(std::env::split_paths(&path));
    std::env::join_paths(directories).map_err(|error| error.to_string().into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn removed_and_added_items_are_named() {
        let mut log = Log::new().unwrap();
        assert!(compare("a\nb\n", "a\nb\n", &mut log).is_ok());
        let error = compare("a\nb\n", "b\nc\n", &mut log).unwrap_err().to_string();
        assert!(error.contains(LIST), "{error}");
    }
}
