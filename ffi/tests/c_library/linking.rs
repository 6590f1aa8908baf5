//! The static library beside another static library of Rust, in programs of every compiler.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use libtest_mimic::Trial;
use xtask::Result;
use xtask::log::{Log, ensure, same};

use super::library::{Installed, Library, trial};

/// The most that the static library may take. Without `ffi/static-object` it would be seven times as much.
const MAX_SIZE: u64 = 1_400_000;
/// The most that a stripped program may take that calls a few functions, with --gc-sections.
const MAX_PROGRAM: u64 = 450_000;

const COMPILERS: [(&str, &[&str]); 6] = [
    ("gcc", &["gcc", "-std=c11"]),
    ("gcc_static", &["gcc", "-std=c11", "-static"]),
    ("gcc_static_pie", &["gcc", "-std=c11", "-static-pie"]),
    ("g++", &["g++", "-x", "c++", "-std=c++17"]),
    ("clang", &["clang", "-std=c11", "-Wl,--gc-sections"]),
    ("clang++_static", &["clang++", "-x", "c++", "-std=c++17", "-static"]),
];

pub(crate) fn trials(library: &Arc<Library>) -> Vec<Trial> {
    let mut trials = vec![
        trial(library, "linking::static_library_is_small_and_defines_only_vfp", defines_only_vfp),
        trial(library, "linking::program_keeps_only_what_it_calls", program_is_small),
        trial(library, "linking::object_without_a_matching_function_is_refused", refuses_no_function),
    ];
    for (name, compiler) in COMPILERS {
        let name = format!("linking::links_beside_another_rust_library_in_both_orders_{name}");
        trials.push(trial(library, name, move |installed, log| links_beside(installed, log, compiler)));
    }
    trials
}

fn archive(installed: &Installed) -> PathBuf {
    installed.prefix.join("lib/libvfio_probe.a")
}

fn defines_only_vfp(installed: &Installed, log: &mut Log) -> Result {
    let mut nm = installed.context.command("nm");
    let listed = log.output(nm.args(["--extern-only", "--defined-only"]).arg(archive(installed)))?;
    let names: Vec<&str> = listed.lines().filter_map(|line| line.split_whitespace().nth(2)).collect();
    ensure(names.len() > 20, "there are fewer than 20 names")?;
    let foreign = names.iter().find(|name| !name.starts_with("vfp_"));
    ensure(foreign.is_none(), &format!("the static library defines {foreign:?}"))?;
    let size = archive(installed).metadata()?.len();
    println!("libvfio_probe.a: {size} bytes");
    ensure(size < MAX_SIZE, &format!("the static library has {size} bytes"))
}

fn program_is_small(installed: &Installed, log: &mut Log) -> Result {
    let program = installed.work.join("small");
    let mut cc = installed.context.command("gcc");
    cc.args(["-std=c11", "-O1", "-s", "-Wl,--gc-sections", "-I"]).arg(installed.prefix.join("include"));
    cc.arg("-o").arg(&program).arg("ffi/examples/list.c").arg(archive(installed)).args([
        "-lpthread",
        "-lm",
        "-ldl",
    ]);
    log.run(&mut cc)?;
    let size = program.metadata()?.len();
    println!("ffi/examples/list.c: {size} bytes");
    ensure(size < MAX_PROGRAM, &format!("the program has {size} bytes"))
}

fn refuses_no_function(installed: &Installed, _: &mut Log) -> Result {
    let mut script = installed.context.command("ffi/static-object");
    let output = script.arg(archive(installed)).arg("/dev/null").env("PATTERN", "none_*").output()?;
    ensure(!output.status.success(), "the script succeeds")?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure(error.ends_with("defines no none_*\n"), &error)
}

/// Compiles the other library, and returns it as rustc leaves it and as an object like ours.
fn other(installed: &Installed, log: &mut Log, directory: &Path) -> Result<[PathBuf; 2]> {
    let (library, object) = (directory.join("libother.a"), directory.join("other.o"));
    let mut rustc = installed.context.command("rustc");
    rustc.args(["--edition=2024", "--crate-type=staticlib", "-O", "ffi/tests/c/other.rs", "-o"]);
    log.run(rustc.arg(&library))?;
    let mut script = installed.context.command("ffi/static-object");
    log.run(script.args([&library, &object]).env("PATTERN", "other_*"))?;
    Ok([library, object])
}

fn links_beside(installed: &Installed, log: &mut Log, compiler: &[&str]) -> Result {
    let directory = xtask::scratch::Scratch::new()?;
    let ours = archive(installed);
    for other in other(installed, log, directory.path())? {
        for libraries in [[&ours, &other], [&other, &ours]] {
            let program = directory.join("beside");
            let (name, arguments) = compiler.split_first().ok_or("no compiler")?;
            let mut command = installed.context.command(name);
            command.args(arguments).args(["-Wall", "-Wextra", "-Werror", "-I"]);
            command.arg(installed.prefix.join("include")).arg("-o").arg(&program);
            command.args(["ffi/tests/c/beside.c", "-x", "none"]).args(libraries);
            log.run(command.args(["-lpthread", "-lm", "-ldl"]))?;
            // Helper threads need no device and no privilege here.
            same(log.output(&mut installed.context.command(&program))?.trim(), &installed.version)?;
        }
    }
    Ok(())
}
