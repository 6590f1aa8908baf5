//! What `make install` puts where, and what the library exports and needs.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use libtest_mimic::Trial;
use xtask::Result;
use xtask::log::{Log, ensure, same};
use xtask::process::{entries, file_name, output, read};

use super::library::{Installed, Library, trial};

pub(crate) fn trials(library: &Arc<Library>) -> Vec<Trial> {
    let test = |name: &str, test: fn(&Installed, &mut Log) -> Result| {
        trial(library, format!("install::{name}"), test)
    };
    vec![
        test("pkg_config_finds_an_installed_tree_after_a_move", pkg_config_after_move),
        test("install_refuses_a_relative_prefix_and_one_with_spaces", refuses_invalid_prefix),
        test("install_honours_variables_and_uninstall_removes_all", installs_every_file),
        test("install_runs_no_cargo", install_runs_no_cargo),
        test("install_before_a_build_says_run_make_first", install_before_a_build),
        test("install_after_a_failed_build_says_run_make_first", install_after_a_failed_build),
        test("install_for_another_target_refuses_this_hosts_library", install_for_another_target),
        test("install_removes_the_file_of_the_version_before", removes_older_version),
        test("shared_library_exports_exactly_the_functions_of_the_header", exports_only_vfp),
        test("functions_have_the_version_that_brought_them", exports_versions),
        test("shared_library_does_not_need_python", needs_no_python),
        test("soname_has_the_abi_number_and_few_libraries_are_needed", has_soname_and_few_libraries),
        test("pkg_config_reports_the_version", pkg_config_version),
    ]
}

impl Installed {
    fn library(&self) -> PathBuf {
        self.prefix.join("lib/libvfio_probe.so")
    }

    /// Returns the names of functions in the last column of nm, without their versions.
    fn symbols(&self, log: &mut Log, which: &str) -> Result<BTreeSet<String>> {
        let listed = log.output(self.context.command("nm").args(["-D", which]).arg(self.library()))?;
        let names = listed.lines().filter(|line| !line.contains(" A "));
        let names = names.filter_map(|line| line.split_whitespace().last()?.split('@').next());
        Ok(names.map(str::to_owned).collect())
    }
}

fn pkg_config_after_move(installed: &Installed, log: &mut Log) -> Result {
    log.run(&mut installed.make(&["install", "PREFIX=/opt/here"], "moved"))?;
    let moved = installed.work.join("moved/opt/here");
    let mut pkg_config = installed.context.command("pkg-config");
    pkg_config.env("PKG_CONFIG_PATH", moved.join("lib/pkgconfig"));
    let flags = log.output(pkg_config.args(["--define-prefix", "--cflags", "vfio-probe"]))?;
    same(flags.trim(), &format!("-I{}/include", moved.display()))
}

fn refuses_invalid_prefix(installed: &Installed, _: &mut Log) -> Result {
    for prefix in ["relative/prefix", "/with space", ""] {
        let mut make = installed.make(&["install", &format!("PREFIX={prefix}")], "refused");
        let output = make.output()?;
        let error = String::from_utf8_lossy(&output.stderr);
        ensure(!output.status.success(), &format!("make install accepts PREFIX={prefix}"))?;
        ensure(error.contains("PREFIX must be an absolute path without spaces"), &error)?;
    }
    ensure(!installed.work.join("refused").exists(), "make install has written something")
}

fn installs_every_file(installed: &Installed, log: &mut Log) -> Result {
    let words = ["PREFIX=/usr", "LIBDIR=/usr/lib/somewhere"];
    let stage = installed.work.join("stage");
    let make = |target| installed.make(&[target, words[0], words[1]], "stage");
    log.run(&mut make("install"))?;
    let library = "/usr/lib/somewhere/libvfio_probe";
    let versioned = format!("{library}.so.{}", installed.version);
    let mut expected = [
        "/usr/include/vfio_probe.h".into(),
        format!("{library}.a"),
        format!("{library}.so"),
        format!("{library}.so.1"),
        versioned,
        "/usr/lib/somewhere/pkgconfig/vfio-probe-static.pc".into(),
        "/usr/lib/somewhere/pkgconfig/vfio-probe.pc".into(),
    ];
    expected.sort();
    let relative: Vec<String> = files(&stage)
        .iter()
        .map(|file| file.display().to_string().replace(&stage.display().to_string(), ""))
        .collect();
    same(&relative.join("\n"), &expected.join("\n"))?;
    for file in entries(&stage.join("usr/lib/somewhere/pkgconfig")) {
        let names_work = read(&file)?.contains(&installed.work.path().display().to_string());
        ensure(!names_work, &format!("{} names DESTDIR", file_name(&file)))?;
    }
    log.run(&mut make("uninstall"))?;
    ensure(files(&stage).is_empty(), &format!("uninstall leaves {:?}", files(&stage)))
}

/// Under sudo there may be no cargo on PATH.
fn install_runs_no_cargo(installed: &Installed, log: &mut Log) -> Result {
    log.run(&mut installed.make(&["install", "CARGO=/no/such/cargo"], "no-cargo"))?;
    let library = installed.work.join("no-cargo/usr/local/lib/libvfio_probe.so");
    ensure(library.exists(), "the library was not installed")
}

/// Runs `make install` with the words and the environment, and expects it to fail with a text and to write nothing.
fn refuses(installed: &Installed, words: &[&str], environment: (&str, &Path), expected: &str) -> Result {
    let mut words = words.to_vec();
    words.push("install");
    let output = installed.make(&words, "not-built").env(environment.0, environment.1).output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure(!output.status.success(), "make install succeeds")?;
    ensure(error.contains(expected), &error)?;
    ensure(!installed.work.join("not-built").exists(), "make install has written something")
}

fn install_before_a_build(installed: &Installed, _: &mut Log) -> Result {
    let empty = ("CARGO_TARGET_DIR", &*installed.work.join("empty"));
    refuses(installed, &[], empty, "run make first, then make install")
}

/// The library of an earlier build must not be installed.
fn install_after_a_failed_build(installed: &Installed, _: &mut Log) -> Result {
    let target = installed.work.join("failed");
    let stamp = target.join("c-library/libvfio_probe.version");
    std::fs::create_dir_all(target.join("c-library"))?;
    std::fs::write(&stamp, &installed.version)?;
    let mut make = installed.make(&["CARGO=/bin/false"], "not-built");
    let output = make.env("CARGO_TARGET_DIR", &target).output()?;
    ensure(!output.status.success(), "make succeeds without a compiler")?;
    ensure(!stamp.exists(), "the stamp of the earlier build is still there")?;
    refuses(installed, &[], ("CARGO_TARGET_DIR", &target), "run make first, then make install")
}

fn install_for_another_target(installed: &Installed, _: &mut Log) -> Result {
    let triple = "riscv64gc-unknown-linux-gnu";
    let expected = format!("run make with CARGO_BUILD_TARGET={triple} first");
    refuses(installed, &[], ("CARGO_BUILD_TARGET", Path::new(triple)), &expected)?;
    refuses(installed, &[&format!("CARGO_BUILD_TARGET={triple}")], ("LANG", Path::new("C")), &expected)
}

fn removes_older_version(installed: &Installed, log: &mut Log) -> Result {
    let lib = installed.work.join("upgraded/usr/local/lib");
    std::fs::create_dir_all(&lib)?;
    // An older version of this ABI, and one of an older ABI, whose programs still need it.
    for (link, file) in
        [("libvfio_probe.so.1", "libvfio_probe.so.0.0.9"), ("libvfio_probe.so.0", "libvfio_probe.so.0.0.1")]
    {
        std::fs::write(lib.join(file), "")?;
        std::os::unix::fs::symlink(file, lib.join(link))?;
    }
    log.run(&mut installed.make(&["install"], "upgraded"))?;
    let names: Vec<String> = entries(&lib).iter().map(|path| file_name(path)).collect();
    let current = format!("libvfio_probe.so.{}", installed.version);
    let expected = [
        "libvfio_probe.a",
        "libvfio_probe.so",
        "libvfio_probe.so.0",
        "libvfio_probe.so.0.0.1",
        &current,
        "libvfio_probe.so.1",
        "pkgconfig",
    ];
    same(&names.join(" "), &expected.join(" "))
}

/// Returns all files and links below a directory, sorted.
fn files(directory: &Path) -> Vec<PathBuf> {
    let is_directory = |path: &Path| path.is_dir() && !path.is_symlink();
    let below = |path: PathBuf| if is_directory(&path) { files(&path) } else { vec![path] };
    let mut all: Vec<PathBuf> = entries(directory).into_iter().flat_map(below).collect();
    all.sort();
    all
}

/// Each function has the version of ffi/vfio_probe.map that brought it.
fn exports_versions(installed: &Installed, log: &mut Log) -> Result {
    let map = read(&installed.context.top.join("ffi/vfio_probe.map"))?;
    let mut expected = BTreeSet::new();
    let mut version = "";
    for line in map.lines().map(str::trim) {
        version = line.strip_suffix(" {").unwrap_or(version);
        expected.extend(
            line.strip_suffix(';').filter(|name| name.starts_with("vfp_")).map(|name| (name, version)),
        );
    }
    let nm =
        log.output(installed.context.command("nm").args(["-D", "--defined-only"]).arg(installed.library()))?;
    let symbols = nm.lines().filter_map(|line| line.split_whitespace().last()?.split_once("@@"));
    let symbols: BTreeSet<(&str, &str)> = symbols.collect();
    let lines = |names: BTreeSet<(&str, &str)>| {
        names.into_iter().map(|(name, version)| format!("{name} {version}")).collect::<Vec<_>>().join("\n")
    };
    same(&lines(symbols), &lines(expected))
}

fn exports_only_vfp(installed: &Installed, log: &mut Log) -> Result {
    let size = installed.library().metadata()?.len();
    println!("libvfio_probe.so: {size} bytes");
    let names = installed.symbols(log, "--defined-only")?;
    ensure(names.len() > 20, "there are fewer than 20 names")?;
    let header = read(&installed.prefix.join("include/vfio_probe.h"))?;
    let declared = header.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_' || c == '('));
    let declared =
        declared.flat_map(|word| word.split_inclusive('(')).filter_map(|word| word.strip_suffix('('));
    let declared: BTreeSet<String> =
        declared.filter(|word| word.starts_with("vfp_")).map(str::to_owned).collect();
    let lines = |names: BTreeSet<String>| names.into_iter().collect::<Vec<_>>().join("\n");
    same(&lines(names), &lines(declared))
}

fn needs_no_python(installed: &Installed, log: &mut Log) -> Result {
    let names = installed.symbols(log, "--undefined-only")?;
    ensure(!names.is_empty(), "nm lists no name")?;
    let is_python = |name: &&String| {
        let rest = name.trim_start_matches('_').strip_prefix("Py");
        rest.is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_uppercase() || c == '_'))
    };
    let python = names.iter().find(is_python);
    ensure(python.is_none(), &format!("the library needs {python:?}"))
}

/// The number in the soname is VFP_ABI, and the library needs only libc and the unwinder.
fn has_soname_and_few_libraries(installed: &Installed, log: &mut Log) -> Result {
    let header = read(&installed.context.top.join("include/vfio_probe.h"))?;
    let abi = header.lines().find_map(|line| line.strip_prefix("#define VFP_ABI ")).ok_or("no VFP_ABI")?;
    let dynamic = log.output(installed.context.command("readelf").arg("-d").arg(installed.library()))?;
    ensure(dynamic.contains(&format!("soname: [libvfio_probe.so.{}]", abi.trim())), "another soname")?;
    for line in dynamic.lines().filter(|line| line.contains("NEEDED")) {
        let known =
            ["[libc.so.6]", "[libgcc_s.so.1]", "[ld-linux"].iter().any(|library| line.contains(library));
        ensure(known, line)?;
    }
    Ok(())
}

fn pkg_config_version(installed: &Installed, _: &mut Log) -> Result {
    for package in ["vfio-probe", "vfio-probe-static"] {
        let version = output(installed.context.command("pkg-config").args(["--modversion", package]))?;
        same(&version, &installed.version)?;
    }
    Ok(())
}
