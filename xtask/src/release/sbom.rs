//! Makes the bill of materials of the program with cargo-cyclonedx.
//!
//! The tool knows crates only, and names macros and crates of tests too. What is not linked is removed, and the libraries that no
//! crate stands for are added, so that a scanner finds flaws in them.

use std::collections::BTreeSet;
use std::path::Path;

use super::target::Target;
use super::{epoch, in_worktree, licenses};
use crate::context::Context;
use crate::{Result, process};

/// From crates.io. It reads cargo's metadata and runs no code of the crates.
const CYCLONEDX: (&str, &str) = ("cargo-cyclonedx", "0.5.9");
const NAME: &str = "vfio-probe-sbom";
/// What is between two objects in a list of the document, and at its end.
const BETWEEN: &str = "\n    },\n";
const LAST: &str = "\n    }";

/// Returns the bill of materials of the plugin of the commit HEAD for a target, as JSON of CycloneDX.
///
/// # Errors
///
/// Fails if the tool cannot be installed or fails, or writes another form of JSON.
pub fn of_program(context: &Context, target: &Target) -> Result<String> {
    let programs = context.cargo_tool(CYCLONEDX.0, CYCLONEDX.1)?;
    // The tool writes a file beside each manifest of the workspace, so it runs in a copy.
    let text = in_worktree(context, |sources| {
        let mut tool = context.command(programs.join(CYCLONEDX.0));
        tool.current_dir(sources).env("SOURCE_DATE_EPOCH", epoch(context)?.to_string());
        tool.args(["cyclonedx", "--quiet", "--format", "json", "--spec-version", "1.5", "--no-build-deps"]);
        tool.args(["--target", target.triple, "--override-filename", NAME]);
        process::run(tool.args(["--manifest-path", "plugin/Cargo.toml"]))?;
        let text = process::read(&sources.join("plugin").join(format!("{NAME}.json")))?;
        // The directory of the copy is in the references.
        Ok(text.replace(&sources.display().to_string(), "/vfio-probe"))
    })?;
    let linked = licenses::linked(context, "vfio-device-plugin", &[], target)?;
    let linked = linked.keys().filter_map(|name| name.split(" (").next()).map(str::to_owned).collect();
    only_linked(&text, &linked, &libraries(context, target)?)
}

/// Removes the components that are not among `linked` (name and version), and adds others.
fn only_linked(bill: &str, linked: &BTreeSet<String>, others: &[String]) -> Result<String> {
    let unknown = || "cargo-cyclonedx prints another form of JSON".to_owned();
    let (before, rest) = bill.split_once("\n  \"components\": [\n").ok_or_else(unknown)?;
    let (components, rest) = rest.split_once("\n  ],\n  \"dependencies\": [\n").ok_or_else(unknown)?;
    let (dependencies, after) = rest.split_once("\n  ]").ok_or_else(unknown)?;
    let mut removed = BTreeSet::new();
    let mut kept = Vec::new();
    for component in objects(components) {
        let field = |name| field(component, name).ok_or_else(unknown);
        if linked.contains(&format!("{} {}", field("name")?, field("version")?)) {
            kept.push(component.to_owned());
        } else {
            removed.insert(field("bom-ref")?);
        }
    }
    let missing = linked.len().saturating_sub(kept.len());
    // The program itself is no component.
    if missing > 1 {
        return Err(format!("cargo-cyclonedx leaves out {missing} of the linked crates").into());
    }
    kept.extend(others.iter().cloned());
    let mut edges = Vec::new();
    for object in objects(dependencies) {
        if !removed.contains(field(object, "ref").ok_or_else(unknown)?) {
            edges.push(without_references(object, &removed));
        }
    }
    Ok(format!(
        "{before}\n  \"components\": [\n{}{LAST}\n  ],\n  \"dependencies\": [\n{}{LAST}\n  ]{after}",
        kept.join(BETWEEN),
        edges.join(BETWEEN)
    ))
}

/// Returns the objects of a list, each without its closing brace.
fn objects(list: &str) -> impl Iterator<Item = &str> {
    list.strip_suffix(LAST).unwrap_or(list).split(BETWEEN)
}

/// Returns a text of an object itself, not of objects in it.
fn field<'a>(object: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = object.split_once(&format!("\n      \"{name}\": \""))?;
    Some(rest.split_once('"')?.0)
}

/// Removes references from the list `dependsOn` of an object.
fn without_references(object: &str, removed: &BTreeSet<&str>) -> String {
    const LIST: &str = "\"dependsOn\": [\n";
    let Some((before, list)) = object.split_once(LIST) else { return object.to_owned() };
    let references = list.split('"').skip(1).step_by(2).filter(|reference| !removed.contains(reference));
    let lines: Vec<String> = references.map(|reference| format!("        \"{reference}\"")).collect();
    if lines.is_empty() {
        return before.trim_end().trim_end_matches(',').to_owned();
    }
    format!("{before}{LIST}{}\n      ]", lines.join(",\n"))
}

/// Returns the components of a static program that are no crates.
fn libraries(context: &Context, target: &Target) -> Result<Vec<String>> {
    let component = |name: &str, version: &str, license: &str, url: &str| {
        format!(
            "    {{\n      \"type\": \"library\",\n      \"bom-ref\": \"{url}\",\n      \"name\": \"{name}\",\n      \"version\": \
             \"{version}\",\n      \"scope\": \"required\",\n      \"licenses\": [\n        {{\n          \"expression\": \
             \"{license}\"\n        }}\n      ],\n      \"purl\": \"{url}\""
        )
    };
    let rust = licenses::rust_version(context)?;
    let data = licenses::pci_ids_version(context)?;
    let mut found = vec![
        component("rust-std", &rust, "MIT OR Apache-2.0", &format!("pkg:generic/rust-std@{rust}")),
        component("pci-ids", &data, "BSD-3-Clause", &format!("pkg:cargo/pci-ids@{data}")),
    ];
    if !target.is_glibc {
        found.push(component("musl", &format!("of Rust {rust}"), "MIT", "pkg:generic/musl"));
        return Ok(found);
    }
    for (pattern, license) in [
        (licenses::glibc_package(target), "LGPL-2.1-or-later"),
        (licenses::GCC_PACKAGE, "GPL-3.0-or-later WITH GCC-exception-3.1"),
    ] {
        let directory = licenses::document_directory(pattern)?;
        let package = process::file_name(Path::new(&directory));
        let query = ["--show", "--showformat", "${Version}\n", &package];
        let versions = process::output(context.command("dpkg-query").args(query))?;
        let version = versions.lines().next().unwrap_or_default();
        let url = format!("pkg:deb/debian/{package}@{}", version.replace('+', "%2B").replace(':', "%3A"));
        found.push(component(&package, version, license, &url));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bill(names: &[&str], edges: &str) -> String {
        let components: Vec<String> = names
            .iter()
            .map(|name| format!("    {{\n      \"bom-ref\": \"r-{name}\",\n      \"name\": \"{name}\",\n      \"version\": \"1\",\n      \"licenses\": [\n        {{\n          \"name\": \"x\"\n        }}\n      ]"))
            .collect();
        format!(
            "{{\n  \"version\": 1,\n  \"components\": [\n{}{LAST}\n  ],\n  \"dependencies\": [\n{edges}{LAST}\n  ]\n}}",
            components.join(BETWEEN)
        )
    }

    #[test]
    fn components_and_references_that_are_not_linked_are_removed() {
        let edges = "    {\n      \"ref\": \"r-a\",\n      \"dependsOn\": [\n        \"r-b\",\n        \"r-macro\"\n      ]\n    },\n    \
                     {\n      \"ref\": \"r-b\",\n      \"dependsOn\": [\n        \"r-macro\"\n      ]\n    },\n    {\n      \"ref\": \"r-macro\"";
        let linked = ["a 1", "b 1"].map(str::to_owned).into();
        let text = only_linked(&bill(&["a", "macro", "b"], edges), &linked, &[]).unwrap();
        let expected = "    {\n      \"ref\": \"r-a\",\n      \"dependsOn\": [\n        \"r-b\"\n      ]\n    },\n    {\n      \"ref\": \"r-b\"";
        assert_eq!(text, bill(&["a", "b"], expected));
    }

    #[test]
    fn other_libraries_are_added() {
        let linked = ["a 1".to_owned()].into();
        let text = only_linked(
            &bill(&["a"], "    {\n      \"ref\": \"r-a\""),
            &linked,
            &["    {\n      \"name\": \"c\"".into()],
        );
        assert!(text.unwrap().contains("\n    },\n    {\n      \"name\": \"c\"\n    }\n  ],\n"));
    }

    #[test]
    fn linked_crates_that_the_tool_leaves_out_are_an_error() {
        let linked = ["a 1", "b 1", "c 1"].map(str::to_owned).into();
        let error = only_linked(&bill(&["a"], "    {\n      \"ref\": \"r-a\""), &linked, &[]).unwrap_err();
        assert_eq!(error.to_string(), "cargo-cyclonedx leaves out 2 of the linked crates");
        assert!(only_linked("{}", &linked, &[]).is_err());
    }

    #[test]
    fn static_program_has_libraries_that_are_no_crates() {
        let context = Context::new().unwrap();
        let found = libraries(&context, &Target::host().unwrap()).unwrap().concat();
        for name in ["rust-std", "pci-ids", "libc6-dev", "libgcc-"] {
            assert!(found.contains(&format!("\"name\": \"{name}")), "{found}");
        }
    }
}
