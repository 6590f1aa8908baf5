//! The steps of `./verify`. A new step is one line of `STEPS`.

use crate::artifacts::{BUILT, SIM_NODE};
use crate::context::Context;
use crate::packages::{C_LIBRARY, C_TESTS, Need, VM};

/// How the tests of a step are counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// One test, by the exit status.
    Check,
    /// Many tests, by what the step prints about them.
    Count,
}

/// One step: a command and how its tests are counted.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// What `./verify NAME` selects by a part of it.
    pub name: &'static str,
    /// How its tests are counted.
    pub kind: Kind,
    /// The words of the command, run in the repository. The program `xtask` is this one.
    pub command: &'static [&'static str],
    /// Whether `--quick` leaves it out.
    pub full: bool,
    /// What it needs beyond the tools of all steps.
    pub needs: &'static [&'static [Need]],
    /// Variables of its environment.
    pub environment: &'static [(&'static str, &'static str)],
    /// Called if it has passed: what later steps can rely on.
    pub passed: Option<fn(&mut Context)>,
}

/// A step that is one test.
#[must_use]
pub const fn check(name: &'static str, command: &'static [&'static str]) -> Step {
    Step { name, kind: Kind::Check, command, full: false, needs: &[], environment: &[], passed: None }
}

/// A step that prints counts.
#[must_use]
pub const fn count(name: &'static str, command: &'static [&'static str]) -> Step {
    Step { kind: Kind::Count, ..check(name, command) }
}

impl Step {
    /// `--quick` leaves this step out.
    #[must_use]
    pub const fn full(self) -> Self {
        Self { full: true, ..self }
    }

    /// This step needs more than the tools of all steps.
    #[must_use]
    pub const fn needs(self, needs: &'static [&'static [Need]]) -> Self {
        Self { needs, ..self }
    }

    /// This step has these variables.
    #[must_use]
    pub const fn environment(self, environment: &'static [(&'static str, &'static str)]) -> Self {
        Self { environment, ..self }
    }

    /// Calls a function if this step has passed.
    #[must_use]
    pub const fn then(self, passed: fn(&mut Context)) -> Self {
        Self { passed: Some(passed), ..self }
    }
}

use Need::Program;

const MAN_PAGES: &[Need] = &[Program("groff", "groff-base"), Program("mandoc", "mandoc")];
const BUILDAH: &[Need] = &[Program("buildah", "buildah")];
const FUZZ: &[Need] = &[Program("g++", "g++")];
const PACKAGES: &[Need] = &[
    Program("lintian", "lintian"),
    Program("debootstrap", "debootstrap"),
    Program("dpkg-shlibdeps", "dpkg-dev"),
];
const SHELLCHECK: &[Need] = &[Program("shellcheck", "shellcheck")];
const UNSHARE: &[Need] = &[Program("unshare", "util-linux")];

const CLIPPY: &[&str] =
    &["cargo", "clippy", "--workspace", "--all-targets", "--all-features", "--", "-D", "warnings"];

/// All steps in their order: fast ones first.
#[rustfmt::skip]
pub const STEPS: &[Step] = &[
    check("format", &["cargo", "fmt", "--check"]),
    count("test counts", &["cargo", "test", "--package", "xtask"]),
    check("imports", &["scripts/check-imports"]),
    check("pages", &["scripts/check-docs"]),
    check("language", &["scripts/check-language"]),
    check("spelling", &["xtask", "spelling"]),
    check("shell scripts", &["xtask", "shell-scripts"]).needs(&[SHELLCHECK]),
    check("lints", CLIPPY),
    check("API documentation", &["cargo", "doc", "--workspace", "--no-deps"]).environment(&[("RUSTDOCFLAGS", "-D warnings")]),
    check("programs", &["cargo", "build", "--workspace", "--bins", "--tests"]).then(programs_are_built),
    check("help texts", &["xtask", "help-texts"]),
    count("man pages and completions", &["xtask", "command-line-files"]).needs(&[MAN_PAGES]),
    count("model", &["xtask", "model", "--nocapture"]),
    count("Rust tests", &["xtask", "rust-tests"]),
    count("Python module", &["xtask", "python"]),
    count("C library", &["xtask", "c"]).needs(&[C_TESTS, C_LIBRARY]),
    count("Go package", &["xtask", "go"]).needs(&[C_LIBRARY]),
    count("conformance of the bindings", &["xtask", "conformance"]).needs(&[C_LIBRARY]),
    count("README examples", &["xtask", "readme"]).needs(&[C_LIBRARY]),
    count("CDI specs", &["xtask", "cdi"]),
    count("DRA slices with the scheduler's allocator", &["xtask", "dra-allocator"]).full(),
    count("random steps with the DRA driver", &["xtask", "dra-chaos"]).full(),
    count("monitoring", &["xtask", "monitoring"]).full(),
    count("dependencies", &["xtask", "dependencies"]),
    count("notices of other authors", &["xtask", "third-party"]),
    count("public interface of the crate", &["xtask", "rust-api"]),
    count("fuzz targets", &["xtask", "fuzz"]).needs(&[FUZZ]).full(),
    count("soak", &["xtask", "soak"]).full(),
    check("cost of calls", &["xtask", "cost"]).needs(&[C_LIBRARY]).full(),
    count("image", &["xtask", "image"]).needs(&[BUILDAH]).full(),
    count("chart", &["xtask", "chart"]).full(),
    count("packages", &["xtask", "packages"]).needs(&[C_LIBRARY, PACKAGES]).full(),
    count("plugin with two kubelets", &["xtask", "kubelets"]).needs(&[UNSHARE]).full(),
    check("Go code of the kubelets", &["xtask", "kubelet-lint"]).full(),
    check("Go code of the cluster", &["xtask", "cluster-lint"]).full(),
    count("plugin in a VM with VFIO", &["xtask", "vm"]).needs(&[C_LIBRARY, VM]).full(),
];

/// The suites reuse what the step `programs` has built.
fn programs_are_built(context: &mut Context) {
    context.set(BUILT, "yes");
    context.set(SIM_NODE, context.debug("vfio-sim-node"));
}

/// Returns the steps with one of the names in theirs; without names all steps, or all but the slow ones.
///
/// # Errors
///
/// Fails with each name that selects no step.
pub fn select<'a>(steps: &'a [Step], names: &[String], quick: bool) -> Result<Vec<&'a Step>, String> {
    let offered = || steps.iter().filter(|step| !(quick && step.full));
    let unknown: Vec<&str> = names
        .iter()
        .filter(|name| !offered().any(|step| step.name.contains(name.as_str())))
        .map(String::as_str)
        .collect();
    if !unknown.is_empty() {
        return Err(format!("no step has such a name: {}; see ./verify --list", unknown.join(", ")));
    }
    let is_selected =
        |step: &&Step| names.is_empty() || names.iter().any(|name| step.name.contains(name.as_str()));
    Ok(offered().filter(is_selected).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selected(names: &[&str], quick: bool) -> Result<Vec<&'static str>, String> {
        let names: Vec<String> = names.iter().map(|&name| name.into()).collect();
        Ok(select(STEPS, &names, quick)?.iter().map(|step| step.name).collect())
    }

    #[test]
    fn no_name_selects_all_steps() {
        assert_eq!(selected(&[], false).unwrap().len(), STEPS.len());
    }

    #[test]
    fn part_of_a_name_selects_steps_in_their_order() {
        assert_eq!(
            selected(&["VM", "lint", "form"], false).unwrap(),
            ["format", "lints", "conformance of the bindings", "plugin in a VM with VFIO"]
        );
    }

    #[test]
    fn quick_leaves_out_slow_steps() {
        let quick = selected(&[], true).unwrap();
        assert!(quick.contains(&"CDI specs"));
        assert!(!quick.contains(&"plugin in a VM with VFIO"));
        assert!(selected(&["VM"], true).is_err());
    }

    #[test]
    fn each_unknown_name_is_reported() {
        let error = selected(&["format", "nonsense", "Format"], false).unwrap_err();
        assert_eq!(error, "no step has such a name: nonsense, Format; see ./verify --list");
    }

    #[test]
    fn names_of_steps_are_unique() {
        for (index, step) in STEPS.iter().enumerate() {
            assert!(STEPS.iter().skip(index + 1).all(|other| other.name != step.name), "{}", step.name);
        }
    }

    #[test]
    fn recipes_and_pages_select_existing_steps() {
        let top = Context::new().unwrap().top;
        for file in ["justfile", "CONTRIBUTING.md", ".github/workflows/verify.yml"] {
            let text = std::fs::read_to_string(top.join(file)).unwrap();
            for line in text.lines().filter_map(|line| line.trim().strip_prefix("./verify ")) {
                let names: Vec<&str> = line
                    .split('"')
                    .enumerate()
                    .flat_map(
                        |(index, part)| {
                            if index % 2 == 1 { vec![part] } else { part.split_whitespace().collect() }
                        },
                    )
                    .filter(|name| !name.starts_with('-'))
                    .collect();
                selected(&names, false).unwrap();
            }
        }
    }
}
