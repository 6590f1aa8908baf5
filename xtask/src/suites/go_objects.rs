//! Builds the objects of the Go package: the C library of each architecture as one relocatable object, which `go get` fetches with
//! the package.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::artifacts::remap;
use crate::context::Context;
use crate::log::{Log, ensure};
use crate::packages::{C, Need};
use crate::release::licenses::third_party;
use crate::release::target::{self, Target};
use crate::{Result, process};

/// The Go package.
pub(crate) const PACKAGE: &str = "go/vfioprobe";
/// The directory of the objects.
const OBJECTS: &str = "go/vfioprobe/internal/object";
/// What the objects are built from, besides the crates of other authors.
const SOURCES: &[&str] = &["core/build.rs", "core/src", "ffi/src", "ffi/static-object", "go/object.ld"];
const HEADER: &str = "include/vfio_probe.h";
const LIST: &str = "objects.txt";
const AGAIN: &str = "run scripts/xtask go-objects and commit the result";
const BINUTILS: &[Need] = &[Need::Program("ld", "binutils"), Need::Program("sha256sum", "coreutils")];

/// Builds the objects: the task `go-objects [TARGET]...`. Without targets, builds those that have an object and those that can
/// be built here.
///
/// # Errors
///
/// Fails if a target has no standard library or no tools here.
pub fn build(context: &mut Context, targets: &[String]) -> Result<bool> {
    context.need(C)?;
    context.need(BINUTILS)?;
    let directory = context.top.join(OBJECTS);
    for target in selected(context, targets)? {
        let made = object(context, &target)?;
        let file = directory.join(file_name(&target));
        std::fs::copy(&made, &file).map_err(|error| format!("cannot write {}: {error}", file.display()))?;
        process::print_line(format!("built {}", file.display()));
    }
    let package = context.top.join(PACKAGE);
    process::write(&package.join("vfio_probe.h"), process::read(&context.top.join(HEADER))?)?;
    let notices = third_party(context, "vfio-probe-ffi", &[], &Target::host()?, false)?;
    process::write(&package.join("THIRD-PARTY"), notices)?;
    process::write(&directory.join("missing.go"), missing(&built(context)))?;
    process::write(&directory.join(LIST), list(context)?)?;
    Ok(true)
}

/// Returns the targets to build.
fn selected(context: &Context, names: &[String]) -> Result<Vec<Target>> {
    if !names.is_empty() {
        return names.iter().map(|name| target::named(name)).collect();
    }
    let (here, _) = target::installed(context)?;
    let have = built(context);
    let wanted = |target: &&Target| {
        target.is_glibc && (here.contains(target) || have.iter().any(|one| one == target.architecture))
    };
    Ok(target::TARGETS.iter().filter(wanted).copied().collect())
}

/// Returns the architectures of the objects in the repository, by Go's names.
fn built(context: &Context) -> Vec<String> {
    let files = process::entries(&context.top.join(OBJECTS));
    let names = files.iter().map(|path| process::file_name(path));
    names
        .filter_map(|name| Some(name.strip_prefix("object_linux_")?.strip_suffix(".syso")?.to_owned()))
        .collect()
}

fn file_name(target: &Target) -> String {
    format!("object_linux_{}.syso", target.architecture)
}

/// Builds one object in the target directory.
fn object(context: &Context, target: &Target) -> Result<PathBuf> {
    target.need_std(context)?;
    if !target.is_native() {
        let tool = target.tool("ld");
        context
            .find(&tool)
            .ok_or_else(|| format!("{tool} is missing (on Debian: binutils-{})", target.gnu))?;
    }
    // A directory of its own: other flags would compile everything again in the one of other builds.
    let work = context.target.join("go-objects");
    let mut cargo = context.cargo(&[
        "rustc",
        "--quiet",
        "--profile",
        "c-library",
        "--locked",
        "--package",
        "vfio-probe-ffi",
    ]);
    cargo.args(["--lib", "--crate-type", "staticlib", "--target", target.triple]);
    cargo.env("CARGO_TARGET_DIR", &work).env("CARGO_ENCODED_RUSTFLAGS", remap(context));
    process::run(&mut cargo)?;
    let built = work.join(target.triple).join("c-library");
    let (archive, all, merged) =
        (built.join("libvfio_probe.a"), built.join("all.o"), built.join("object.syso"));
    let (ld, nm, objcopy) = (target.tool("ld"), target.tool("nm"), target.tool("objcopy"));
    let readelf = target.tool("readelf");
    let mut localize = context.command("ffi/static-object");
    localize
        .env("LD", &ld)
        .env("NM", &nm)
        .env("OBJCOPY", &objcopy)
        .env("READELF", &readelf)
        .arg(archive)
        .arg(&all);
    process::run(&mut localize)?;
    process::run(context.command(&ld).args(["-r", "-T", "go/object.ld", "-o"]).arg(&merged).arg(&all))?;
    process::run(context.command(&objcopy).arg("--strip-unneeded").arg(&merged))?;
    Ok(merged)
}

/// Returns missing.go, which names the cause where the package has no object.
fn missing(architectures: &[String]) -> String {
    let any = architectures.join(" || ");
    let any = if architectures.len() == 1 { any } else { format!("({any})") };
    format!(
        "//go:build cgo && !(linux && {any})\n\n// Written by scripts/xtask go-objects.\n\npackage object\n\n\
         // The compiler's error contains this name.\n\
         var _ = vfioprobe_has_no_object_for_this_target__install_the_C_library_and_build_with_tags_vfio_probe_system\n"
    )
}

/// Returns objects.txt: the sum of the sources, the tools, and the sum of each object.
fn list(context: &Context) -> Result<String> {
    let mut text = format!(
        "# Written by scripts/xtask go-objects.\nsources {}\ntools {}\n",
        sources(context)?,
        tools(context)?
    );
    for architecture in built(context) {
        let name = format!("object_linux_{architecture}.syso");
        let file = context.top.join(OBJECTS).join(&name);
        text += &format!("{name} {} {} bytes\n", sum_of_file(context, &file)?, file.metadata()?.len());
    }
    Ok(text)
}

/// Returns the versions of the tools that determine the bytes of an object.
fn tools(context: &Context) -> Result<String> {
    let rustc = process::output(context.command("rustc").arg("--version"))?;
    let ld = process::output(context.command("ld").arg("--version"))?;
    Ok(format!("{rustc}, {}", ld.lines().next().unwrap_or_default()))
}

/// Returns the sum of everything that the objects are built from. The code of tests is left out where it has files of its own.
fn sources(context: &Context) -> Result<String> {
    let mut text = String::new();
    for name in SOURCES {
        add(&context.top, &context.top.join(name), &mut text)?;
    }
    let manifest = process::read(&context.top.join("Cargo.toml"))?;
    let profile = manifest.split("[profile.").find(|part| part.starts_with("release]")).unwrap_or_default();
    text += profile;
    text += &context.version()?;
    // The crates and features of other authors. Cargo.lock has those of the whole workspace.
    let mut tree =
        context.cargo(&["tree", "--locked", "--package", "vfio-probe-ffi", "--edges", "normal,build"]);
    let tree = process::output(tree.args(["--prefix", "none", "--target", "all", "--format", "{p} {f}"]))?;
    let mut crates: Vec<&str> = tree.lines().map(|line| line.split(" (/").next().unwrap_or(line)).collect();
    crates.sort_unstable();
    crates.dedup();
    text += &crates.join("\n");
    sum(context.command("sha256sum"), &text)
}

/// Adds the files of a directory with their names.
fn add(top: &Path, path: &Path, text: &mut String) -> Result {
    let name = process::file_name(path);
    if name == "tests" || name == "tests.rs" || path.ends_with("ffi/src/python") {
        return Ok(());
    }
    if path.is_dir() {
        return process::entries(path).iter().try_for_each(|entry| add(top, entry, text));
    }
    let content = process::read(path)?;
    let shown = path.strip_prefix(top).unwrap_or(path).display();
    *text += &format!("{shown} {}\n{content}\n", content.len());
    Ok(())
}

/// Returns the SHA-256 sum of a text.
fn sum(mut program: Command, text: &str) -> Result<String> {
    let mut child = program.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    child.stdin.take().ok_or("sha256sum has no input")?.write_all(text.as_bytes())?;
    let output = String::from_utf8(child.wait_with_output()?.stdout)?;
    Ok(output.split_whitespace().next().ok_or("sha256sum prints nothing")?.to_owned())
}

fn sum_of_file(context: &Context, file: &Path) -> Result<String> {
    let output = process::output(context.command("sha256sum").arg(file))?;
    Ok(output.split_whitespace().next().ok_or("sha256sum prints nothing")?.to_owned())
}

/// Fails unless the objects, the header and the notices are of these sources.
pub(crate) fn are_current(context: &Context, log: &mut Log) -> Result {
    let recorded = process::read(&context.top.join(OBJECTS).join(LIST))?;
    let line = format!("sources {}", sources(context)?);
    log.say(&format!("recorded:\n{recorded}now:\n{line}"));
    ensure(
        recorded.lines().any(|known| known == line),
        &format!("the objects of the Go package are of other sources; {AGAIN}"),
    )?;
    ensure(
        process::read(&context.top.join(PACKAGE).join("vfio_probe.h"))?
            == process::read(&context.top.join(HEADER))?,
        &format!("{PACKAGE}/vfio_probe.h differs from {HEADER}; {AGAIN}"),
    )?;
    let missing_go = process::read(&context.top.join(OBJECTS).join("missing.go"))?;
    ensure(
        missing_go == missing(&built(context)),
        &format!("missing.go names other architectures than there are objects; {AGAIN}"),
    )
}

/// Builds the object of this architecture again and compares it byte by byte. Other tools make other bytes: their object is
/// checked for its symbols only.
pub(crate) fn is_reproducible(context: &Context, log: &mut Log) -> Result {
    let target = Target::host()?;
    let checked_in = context.top.join(OBJECTS).join(file_name(&target));
    let made = object(context, &target)?;
    let recorded = process::read(&context.top.join(OBJECTS).join(LIST))?;
    let is_same = sum_of_file(context, &made)? == sum_of_file(context, &checked_in)?;
    let tools = format!("tools {}", tools(context)?);
    if !is_same && !recorded.lines().any(|line| line == tools) {
        log.say(&format!("not compared: this host has other {tools}"));
        return Ok(());
    }
    ensure(is_same, &format!("{} is not what its sources give; {AGAIN}", checked_in.display()))
}

/// Fails unless only the functions of the header are global in the object, and tables for unwinding are in it: without them a
/// panic would end the process.
pub(crate) fn has_header_only(context: &Context, log: &mut Log) -> Result {
    let object = context.top.join(OBJECTS).join(file_name(&Target::host()?));
    let symbols = log.output(context.command("nm").args(["--extern-only", "--defined-only"]).arg(&object))?;
    let mut defined: Vec<&str> = symbols.lines().filter_map(|line| line.split_whitespace().nth(2)).collect();
    defined.sort_unstable();
    let header = process::read(&context.top.join(HEADER))?;
    let code = header.lines().filter(|line| !line.trim_start().starts_with(['/', '*']));
    let words =
        code.flat_map(|line| line.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '(')));
    let mut declared: Vec<&str> = words
        .filter_map(|word| word.split_once('(').map(|(name, _)| name).filter(|name| name.starts_with("vfp_")))
        .collect();
    declared.sort_unstable();
    declared.dedup();
    crate::log::same(&defined.join("\n"), &declared.join("\n"))?;
    let sections = log.output(context.command("readelf").args(["-SW"]).arg(&object))?;
    ensure(sections.contains(" .eh_frame "), "the object has no section .eh_frame")
}
