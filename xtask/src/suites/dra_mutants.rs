//! Drivers that break a promise, which the tests and the random steps must find: the plugin with one change of its source.

use std::path::{Path, PathBuf};

use crate::context::Context;
use crate::log::Log;
use crate::{Result, process};

/// A driver that breaks a promise.
pub(super) struct Mutant {
    /// Its name.
    pub(super) name: &'static str,
    /// The test of tests/dra/kubelet that must find it.
    pub(super) test: &'static str,
    /// A regular expression of the violation that the random steps must find.
    pub(super) violation: &'static str,
    /// The source file.
    file: &'static str,
    /// A text that the file has once, and what replaces it.
    change: (&'static str, &'static str),
}

/// The mutants.
pub(super) const MUTANTS: [Mutant; 8] = [
    Mutant {
        name: "unprepare-without-barrier",
        test: "unprepare_of_a_held_group_succeeds_after_the_taint_is_stored",
        violation: "is unprepared while .* is held, and the API server offers",
        file: "plugin/src/dra/unprepare.rs",
        change: (
            "if !self.withhold(group, &devices, deadline).await {",
            "if group == GroupId(u32::MAX) && !self.withhold(group, &devices, deadline).await {",
        ),
    },
    Mutant {
        name: "refusal-before-taint",
        test: "refusal_is_sent_after_the_taint_is_stored",
        violation: "is refused while .* is held, and the API server offers",
        file: "plugin/src/dra/refusal.rs",
        change: (
            "let withheld = self.withhold(group, &devices, Instant::now() + STORE);",
            "let withheld = async { group != GroupId(u32::MAX) && !devices.is_empty() };",
        ),
    },
    Mutant {
        name: "prepare-of-a-held-group",
        test: "refusal_is_sent_after_the_taint_is_stored",
        violation: "is prepared with .*, which is held",
        file: "plugin/src/dra/group.rs",
        change: (
            "Ok(Some(Obstacle::Held)) => Err(self.refuse_held(group, device).await),",
            "Ok(Some(Obstacle::Held)) => Ok(drop(self.refuse_held(group, device))),",
        ),
    },
    Mutant {
        name: "record-after-answer",
        test: "answered_claim_is_recorded",
        violation: "the record is wrong: claims.json lacks",
        file: "plugin/src/dra/prepared.rs",
        change: (
            "file.write_versioned(VERSION, &content);",
            "let before = ClaimRecord { claims: self.state.lock().claims.clone() };\n        file.write_versioned(VERSION, &before);",
        ),
    },
    Mutant {
        name: "prepare-ignores-other-claims",
        test: "claimed_and_unknown_devices_are_refused",
        violation: "the record is wrong: claims.json has group .* for|are prepared for one group",
        file: "plugin/src/dra/prepared.rs",
        change: (
            "|(other, claim)| *other != uid && self.is_current(claim)",
            "|(other, claim)| *other == \"\" && self.is_current(claim)",
        ),
    },
    Mutant {
        name: "claim-of-the-kubelet-ends",
        test: "claim_that_the_kubelet_has_keeps_its_device",
        violation: "are prepared for one group|is unprepared while .* is held, and the API server offers|claims.json lacks",
        file: "plugin/src/dra/kubelet_claims.rs",
        change: ("Some(claims(path)?.has(uid))", "Some(claims(path)?.has(uid) && uid.is_empty())"),
    },
    Mutant {
        name: "refusal-without-a-wait",
        test: "claim_that_the_kubelet_has_keeps_its_device",
        violation: "is refused, although another claim is ending",
        file: "plugin/src/dra/earlier.rs",
        change: (
            "Earlier::Unknown if Instant::now() >= until => {",
            "Earlier::Unknown if Instant::now() >= until || !other.uid.is_empty() => {",
        ),
    },
    Mutant {
        name: "foreign-holder-without-taint",
        test: "slices_belong_to_the_node_and_are_not_written_again",
        violation: "the scheduler can allocate .*, and a VM can open|is refused while .* is held, and the API server offers",
        file: "plugin/policy/src/dra/taints.rs",
        change: (
            "Health::Unhealthy(reason) => Some(Withheld::from((**reason).clone())),",
            "Health::Unhealthy(reason) if matches!(**reason, Reason::Held { .. }) => None,\n        \
             Health::Unhealthy(reason) => Some(Withheld::from((**reason).clone())),",
        ),
    },
];

impl Mutant {
    /// Returns the name of its program.
    pub(super) fn program(&self) -> String {
        format!("mutant-{}", self.name)
    }

    /// Builds the mutant from a copy of the sources and returns its program.
    ///
    /// # Errors
    ///
    /// Fails if the source no longer has the text once, or if the copy does not build.
    pub(super) fn build(&self, context: &Context, log: &mut Log) -> Result<PathBuf> {
        // All mutants use one copy, so that only the plugin is compiled again.
        let copy = context.target.join("dra/mutant");
        let mut list = context.command("git");
        let files = process::output(list.args(["ls-files", "--cached", "--others", "--exclude-standard"]))?;
        for file in files.lines() {
            let (from, to) = (context.top.join(file), copy.join(file));
            let Ok(content) = std::fs::read(&from) else { continue };
            if std::fs::read(&to).is_ok_and(|known| known == content) {
                continue;
            }
            if let Some(parent) = to.parent() {
                process::make_directory(parent)?;
            }
            std::fs::write(&to, content)?;
        }
        edit(&copy.join(self.file), self.change.0, self.change.1)?;
        // The target directory is shared, so that dependencies are compiled once. With the same version the crates of the copy would
        // replace those of the workspace there, and cargo would take them for current. The program has another name, too.
        let version = format!("version = \"{}", context.version()?);
        edit(&copy.join("Cargo.toml"), &format!("\n{version}\""), &format!("\n{version}+mutant\""))?;
        let manifest = copy.join("plugin/Cargo.toml");
        let program = self.program();
        let text = process::read(&manifest)?;
        process::write(
            &manifest,
            format!("{text}\n[[bin]]\nname = \"{program}\"\npath = \"src/bin/vfio-device-plugin.rs\"\n"),
        )?;
        let mut build = context.cargo(&["build", "-p", "vfio-device-plugin", "--bin", &program]);
        build.arg("--manifest-path").arg(copy.join("Cargo.toml")).env("CARGO_TARGET_DIR", &context.target);
        log.run(&mut build)?;
        Ok(context.debug(&program))
    }
}

/// Replaces a text that a file has once.
fn edit(file: &Path, from: &str, to: &str) -> Result {
    let text = process::read(file)?;
    if text.matches(from).count() != 1 {
        return Err(format!("{} does not have the text `{from}` once", file.display()).into());
    }
    process::write(file, text.replace(from, to))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mutants_change_texts_and_name_tests_that_exist() {
        let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let tests = process::read(&top.join("tests/dra/kubelet/dra_test.go")).unwrap();
        for mutant in &MUTANTS {
            let source = process::read(&top.join(mutant.file)).unwrap();
            assert_eq!(source.matches(mutant.change.0).count(), 1, "{}: {}", mutant.name, mutant.file);
            let test = mutant.test;
            assert!(tests.contains(&format!("{{\"{test}\", ")), "{}: {test}", mutant.name);
        }
    }
}
