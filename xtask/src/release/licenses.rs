//! Writes THIRD-PARTY: what is linked into a program or library besides the project's own code, with licenses and their texts.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use super::target::{Target, sysroot};
use crate::context::Context;
use crate::{Result, process};

/// A line between two texts.
const RULE: &str =
    "--------------------------------------------------------------------------------------------------\n";

/// Something that is linked.
struct Part {
    /// Name, version and license.
    line: String,
    /// Its license texts. They are printed once for all parts that have the same.
    texts: Vec<String>,
}

/// Returns the text of THIRD-PARTY for a package of the workspace, built with cargo's features for a target. `is_static` adds
/// the C library.
///
/// # Errors
///
/// Fails if a part has no license text here. Nothing may be distributed without it.
pub fn third_party(
    context: &Context,
    package: &str,
    features: &[&str],
    target: &Target,
    is_static: bool,
) -> Result<String> {
    let mut parts = crates(context, package, features, target)?;
    parts.push(pci_ids(context)?);
    parts.push(standard_library(context)?);
    if is_static {
        parts.extend(c_library(context, target)?);
    }
    Ok(print(package, target, &parts))
}

fn print(package: &str, target: &Target, parts: &[Part]) -> String {
    let mut text = format!(
        "Software of other authors in {package} for {}\n\nThe number after a license is that of its text below.\n\n",
        target.triple
    );
    let mut texts: Vec<(&str, Vec<&str>)> = Vec::new();
    for part in parts {
        let mut numbers = Vec::new();
        for license in &part.texts {
            let known = texts.iter().position(|(known, _)| known == license);
            let index = known.unwrap_or_else(|| {
                texts.push((license, Vec::new()));
                texts.len() - 1
            });
            if let Some((_, users)) = texts.get_mut(index) {
                users.push(part.line.split(':').next().unwrap_or_default());
            }
            numbers.push((index + 1).to_string());
        }
        let _ = writeln!(text, "{} [{}]", part.line, numbers.join(", "));
    }
    for (index, (license, users)) in texts.iter().enumerate() {
        let _ = write!(text, "\n{RULE}Text {} of {}\n{RULE}\n{license}\n", index + 1, users.join(", "));
    }
    text
}

/// Returns the crates that are compiled into a package: no build scripts, proc macros, tests, and nothing of this workspace.
fn crates(context: &Context, package: &str, features: &[&str], target: &Target) -> Result<Vec<Part>> {
    let directories = directories(context, target)?;
    let mut parts = Vec::new();
    for (key, license) in linked(context, package, features, target)? {
        if key.contains(" (/") {
            continue;
        }
        let directory = directories.get(&key).ok_or_else(|| format!("cargo metadata has no crate {key}"))?;
        let mut texts = texts(directory)?;
        if texts.is_empty() {
            texts.push(standard_text(context, &key, &license)?);
        }
        parts.push(Part { line: format!("{key}: {license}"), texts });
    }
    if parts.is_empty() {
        return Err(format!("cargo tree lists no crates of {package}").into());
    }
    Ok(parts)
}

/// Returns name, version and license of the crates that are compiled into a package. The directory follows the version of a crate
/// of this workspace, in parentheses.
pub(crate) fn linked(
    context: &Context,
    package: &str,
    features: &[&str],
    target: &Target,
) -> Result<BTreeMap<String, String>> {
    let mut tree = context.cargo(&["tree", "--quiet", "--locked", "--prefix", "none", "--no-dedupe"]);
    tree.args(["--package", package, "--edges", "normal,no-proc-macro", "--target", target.triple]);
    tree.args(["--format", "{p}|{l}"]).args(features);
    let split = |line: &str| {
        let (name, license) = line.split_once('|')?;
        Some((name.replacen(" v", " ", 1), license.to_owned()))
    };
    let lines = process::output(&mut tree)?;
    lines.lines().map(|line| split(line).ok_or_else(|| "cargo tree prints no license".into())).collect()
}

/// Returns the directories of all crates by name and version.
fn directories(context: &Context, target: &Target) -> Result<BTreeMap<String, PathBuf>> {
    let mut metadata = context.cargo(&["metadata", "--format-version", "1", "--all-features", "--locked"]);
    let metadata = process::output(metadata.args(["--filter-platform", target.triple]))?;
    Ok(manifests(&metadata).collect())
}

/// Returns name, version and directory of each package in cargo's metadata. A package's object begins with its name and its
/// version and contains the path of its manifest; a dependency's object contains no such path.
fn manifests(metadata: &str) -> impl Iterator<Item = (String, PathBuf)> {
    let mut package = None;
    metadata.split("{\"name\":\"").filter_map(move |part| {
        let (name, rest) = part.split_once('"')?;
        if let Some((version, _)) = rest.strip_prefix(",\"version\":\"").and_then(|rest| rest.split_once('"'))
        {
            package = Some(format!("{name} {version}"));
        }
        let (_, rest) = rest.split_once("\"manifest_path\":\"")?;
        let manifest = Path::new(rest.split_once('"')?.0);
        Some((package.take()?, manifest.parent()?.to_owned()))
    })
}

/// Returns the license texts in the directory of a crate.
fn texts(directory: &Path) -> Result<Vec<String>> {
    let is_license = |path: &PathBuf| {
        let name = process::file_name(path).to_ascii_lowercase();
        let names = ["license", "licence", "copying", "unlicense", "notice", "copyright"];
        path.is_file() && names.iter().any(|prefix| name.starts_with(prefix))
    };
    process::entries(directory).iter().filter(|path| is_license(path)).map(|path| read_text(path)).collect()
}

/// Returns the text of a file without trailing blanks, so that equal texts of several crates are equal.
fn read_text(path: &Path) -> Result<String> {
    let text = process::read(path)?;
    let lines: Vec<&str> = text.lines().map(str::trim_end).collect();
    Ok(lines.join("\n").trim_matches('\n').to_owned())
}

/// Returns the text of a license for a crate that has none. Rust's documentation has the texts.
fn standard_text(context: &Context, name: &str, license: &str) -> Result<String> {
    let licenses = documentation(context)?.join("licenses");
    let known = license.split([' ', '/']).map(|word| licenses.join(format!("{word}.txt")));
    let file = known.into_iter().find(|file| file.exists());
    let file = file.ok_or_else(|| {
        format!("the crate {name} has no license text, and {} has none of {license}", licenses.display())
    })?;
    Ok(format!(
        "The crate has no license text. This is the general text of its license.\n\n{}",
        read_text(&file)?
    ))
}

fn documentation(context: &Context) -> Result<PathBuf> {
    Ok(sysroot(context)?.join("share/doc/rust"))
}

/// The table of names is data of pci.ids.
fn pci_ids(context: &Context) -> Result<Part> {
    let key = format!("pci-ids {}", pci_ids_version(context)?);
    let directories = directories(context, &Target::host()?)?;
    let directory = directories.get(&key).ok_or_else(|| format!("cargo metadata has no crate {key}"))?;
    let data = process::read(&directory.join("pciids/pci.ids"))?;
    let notice: Vec<&str> = data
        .lines()
        .take_while(|line| line.starts_with('#'))
        .map(|line| line.trim_start_matches('#').trim())
        .collect();
    let text = format!("The names of models come from this file:\n\n{}", notice.join("\n"));
    Ok(Part { line: format!("data of {key}: BSD-3-Clause"), texts: vec![text, bsd(context)?] })
}

/// Returns the version of the crate with the data of the table of names.
pub(super) fn pci_ids_version(context: &Context) -> Result<String> {
    let lock = process::read(&context.top.join("Cargo.lock"))?;
    let rest = lock.split_once("name = \"pci-ids\"\nversion = \"").ok_or("Cargo.lock has no pci-ids")?.1;
    Ok(rest.split('"').next().unwrap_or_default().to_owned())
}

/// Returns the text of the BSD license of pci.ids. The file names the license; the text is the same for all.
fn bsd(context: &Context) -> Result<String> {
    let two = read_text(&documentation(context)?.join("licenses/BSD-2-Clause.txt"))?;
    Ok(format!(
        "{two}\n\nBSD-3-Clause has one more condition:\n\n3. Neither the name of the copyright holder nor the names of its \
         contributors may be used to endorse or promote products derived from this software without specific prior written \
         permission."
    ))
}

/// Rust's standard library, with the notices of its own dependencies.
fn standard_library(context: &Context) -> Result<Part> {
    let number = rust_version(context)?;
    let notices = documentation(context)?.join("COPYRIGHT-library.html");
    Ok(Part {
        line: format!("Rust's standard library {number}: MIT OR Apache-2.0"),
        texts: vec![plain(&process::read(&notices)?)],
    })
}

/// Returns the version of the Rust in use.
pub(super) fn rust_version(context: &Context) -> Result<String> {
    let version = process::output(context.command("rustc").arg("--version"))?;
    Ok(version.split_whitespace().nth(1).ok_or("rustc prints no version")?.to_owned())
}

/// Returns the text of a page of HTML, without its empty lines.
fn plain(html: &str) -> String {
    let mut text = String::with_capacity(html.len());
    let mut rest = html;
    while let Some((before, tag)) = rest.split_once('<') {
        text.push_str(before);
        rest = tag.split_once('>').map_or("", |(_, after)| after);
    }
    text.push_str(rest);
    let text = text.replace("&lt;", "<").replace("&gt;", ">").replace("&quot;", "\"").replace("&#39;", "'");
    let text = text.replace("&#34;", "\"").replace("&#x27;", "'").replace("&amp;", "&");
    let lines: Vec<&str> = text.lines().map(str::trim_end).filter(|line| !line.trim().is_empty()).collect();
    lines.join("\n")
}

/// The C library and GCC's start code and unwinder in a static program.
fn c_library(context: &Context, target: &Target) -> Result<Vec<Part>> {
    if !target.is_glibc {
        let line = "musl libc, as Rust's standard library brings it: MIT".to_owned();
        return Ok(vec![Part { line, texts: vec![musl(context)?] }]);
    }
    let source = "The program is linked statically with the GNU C Library. Its sources are in Debian's package glibc. To link \
                  the program with another version, build it from the sources of this project with deploy/build-static, which \
                  uses the static library of the host.";
    let glibc = read_text(&document_directory(glibc_package(target))?.join("copyright"))?;
    let gcc = read_text(&document_directory(GCC_PACKAGE)?.join("copyright"))?;
    Ok(vec![
        Part { line: "GNU C Library: LGPL-2.1-or-later".into(), texts: vec![source.into(), glibc] },
        Part {
            line: "GCC's libgcc and unwinder: GPL-3.0-or-later WITH GCC-exception-3.1".into(),
            texts: vec![gcc],
        },
    ])
}

/// Returns the license of musl: its notice of copyright and the text of the MIT license.
fn musl(context: &Context) -> Result<String> {
    let text = read_text(&documentation(context)?.join("licenses/MIT.txt"))?;
    let (_, permission) = text.split_once("<copyright holders>").ok_or("Rust's MIT.txt has another form")?;
    Ok(format!(
        "Copyright © 2005-2020 Rich Felker, et al.{permission}\n\nhttps://git.musl-libc.org/cgit/musl/tree/COPYRIGHT names all authors."
    ))
}

/// The package of GCC's start code and unwinder, with `*` for anything.
pub(super) const GCC_PACKAGE: &str = "libgcc-*-dev*";

/// Returns the package of the static C library.
pub(super) fn glibc_package(target: &Target) -> &'static str {
    if target.is_native() { "libc6-dev" } else { "libc6-dev-*-cross" }
}

/// Returns the directory with Debian's copyright file of the first package with a name. A `*` stands for anything.
pub(super) fn document_directory(pattern: &str) -> Result<PathBuf> {
    let (before, after) = pattern.split_once('*').unwrap_or((pattern, ""));
    let after = after.trim_end_matches('*');
    let found = process::entries(Path::new("/usr/share/doc")).into_iter().find(|path| {
        let name = process::file_name(path);
        let fits = if pattern.contains('*') {
            name.strip_prefix(before).is_some_and(|rest| rest.contains(after))
        } else {
            name == pattern
        };
        fits && path.join("copyright").exists()
    });
    found.ok_or_else(|| {
        format!("/usr/share/doc has no copyright file of {pattern}; THIRD-PARTY is made on Debian, where that package is installed").into()
    })
}

#[cfg(test)]
mod tests {
    use super::super::target::TARGETS;
    use super::*;

    #[test]
    fn directories_are_those_of_packages_and_not_of_dependencies() {
        let metadata = r#"{"packages":[{"name":"a","version":"1.0.0","id":"a","dependencies":[{"name":"b","source":null}],"targets":[{"kind":["lib"],"name":"a"}],"manifest_path":"/x/a-1.0.0/Cargo.toml"},{"name":"c","version":"2.0.0","dependencies":[],"manifest_path":"/x/c/Cargo.toml"}]}"#;
        let found: Vec<_> = manifests(metadata).collect();
        assert_eq!(found, [("a 1.0.0".into(), "/x/a-1.0.0".into()), ("c 2.0.0".into(), "/x/c".into())]);
    }

    #[test]
    fn equal_texts_are_printed_once_for_all_their_users() {
        let part = |line: &str, text: &str| Part { line: line.into(), texts: vec![text.into()] };
        let text = print(
            "program",
            &TARGETS[0],
            &[part("a 1: MIT", "text one"), part("b 1: ISC", "text two"), part("c 1: MIT", "text one")],
        );
        assert!(text.contains("a 1: MIT [1]\nb 1: ISC [2]\nc 1: MIT [1]\n"), "{text}");
        assert_eq!(text.matches("text one").count(), 1);
        assert!(text.contains("Text 1 of a 1, c 1\n"), "{text}");
    }

    #[test]
    fn musl_has_its_notice_and_the_text_of_its_license() {
        let musl = TARGETS.iter().find(|target| !target.is_glibc).unwrap();
        let parts = c_library(&Context::new().unwrap(), musl).unwrap();
        let text = &parts[0].texts[0];
        assert!(text.starts_with("Copyright © 2005-2020 Rich Felker, et al.\n"), "{text}");
        assert!(text.contains("Permission is hereby granted, free of charge"), "{text}");
    }

    #[test]
    fn html_is_reduced_to_its_text() {
        assert_eq!(plain("<p>a &lt;b&gt;\n\n <b>c</b></p> \n\n"), "a <b>\n c");
    }
}
