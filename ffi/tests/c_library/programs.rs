//! The tests in C, built in many ways.

use std::path::PathBuf;
use std::process::Command;
use std::sync::{Arc, OnceLock};

use libtest_mimic::Trial;
use xtask::Result;
use xtask::log::{Log, ensure};

use super::library::{Installed, Library, Link, trial};

/// A program in C: its name and its source.
type Source = (&'static str, &'static str);

const API: Source = ("api", include_str!("../c/api.c"));
const INVALID_CALLS: Source = ("invalid_calls", include_str!("../c/invalid_calls.c"));
const THREADS: Source = ("threads", include_str!("../c/threads.c"));
const ALL: &[Source] = &[API, INVALID_CALLS, THREADS];

const VALGRIND: [&str; 6] = [
    "valgrind",
    "--quiet",
    "--leak-check=full",
    "--errors-for-leak-kinds=definite,indirect,possible",
    "--suppressions=ffi/tests/valgrind.supp",
    "--error-exitcode=9",
];

/// A way to build and run programs.
#[derive(Clone, Copy)]
struct Variant {
    name: &'static str,
    compiler: &'static [&'static str],
    link: Link,
    /// The programs of this way.
    sources: &'static [Source],
    /// A symbol that proves that the program is instrumented.
    symbol: Option<&'static str>,
    /// Whether valgrind runs the program.
    valgrind: bool,
}

const fn variant(name: &'static str, compiler: &'static [&'static str], link: Link) -> Variant {
    Variant { name, compiler, link, sources: ALL, symbol: None, valgrind: false }
}

const fn sanitized(
    name: &'static str,
    compiler: &'static [&'static str],
    link: Link,
    symbol: &'static str,
    sources: &'static [Source],
) -> Variant {
    Variant { symbol: Some(symbol), sources, ..variant(name, compiler, link) }
}

const GCC: &[&str] = &["gcc", "-std=c11", "-Wstrict-prototypes"];
const GXX: &[&str] = &["g++", "-x", "c++", "-std=c++17"];
const CLANG: &[&str] = &["clang", "-std=c11", "-Wstrict-prototypes"];
const CLANGXX: &[&str] = &["clang++", "-x", "c++", "-std=c++17"];
const GCC_ASAN: &[&str] =
    &["gcc", "-std=c11", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
const GCC_TSAN: &[&str] = &["gcc", "-std=c11", "-O1", "-fsanitize=thread", "-fno-sanitize-recover=all"];
const CLANG_ASAN: &[&str] =
    &["clang", "-std=c11", "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"];
const CLANG_TSAN: &[&str] = &["clang", "-std=c11", "-O1", "-fsanitize=thread", "-fno-sanitize-recover=all"];

#[rustfmt::skip]
const VARIANTS: &[Variant] = &[
    variant("gcc_shared", GCC, Link::Shared),
    variant("gcc_static", GCC, Link::Static),
    variant("g++_shared", GXX, Link::Shared),
    variant("g++_static", GXX, Link::Static),
    variant("clang_shared", CLANG, Link::Shared),
    variant("clang_static", CLANG, Link::Static),
    variant("clang++_shared", CLANGXX, Link::Shared),
    variant("clang++_static", CLANGXX, Link::Static),
    sanitized("gcc_asan_ubsan", GCC_ASAN, Link::Static, "__asan_init", ALL),
    sanitized("gcc_tsan", GCC_TSAN, Link::Shared, "__tsan_init", &[THREADS]),
    sanitized("clang_asan_ubsan", CLANG_ASAN, Link::Static, "__asan_init", ALL),
    sanitized("clang_tsan", CLANG_TSAN, Link::Shared, "__tsan_init", &[THREADS]),
    // valgrind 3.19 does not read newer debug information.
    Variant { valgrind: true, ..variant("valgrind", &["gcc", "-std=c11", "-gdwarf-4"], Link::Shared) },
];

pub(crate) fn trials(library: &Arc<Library>) -> Vec<Trial> {
    let mut trials = Vec::new();
    for variant in VARIANTS {
        for source in variant.sources {
            trials.extend(trials_of(library, *variant, *source));
        }
    }
    trials
}

/// A program that is built and run once, when its first test begins.
struct Program {
    variant: Variant,
    source: Source,
    built: OnceLock<Result<(), String>>,
    ran: OnceLock<Ran>,
}

/// What a run has printed, and how it ended.
struct Ran {
    output: String,
    ended: Result<(), String>,
}

/// What is checked of a program.
type Test = Box<dyn FnOnce(&Program, &Installed, &mut Log) -> Result + Send>;

/// Returns the names of the tests in a source.
fn cases(source: &'static str) -> Vec<&'static str> {
    source.lines().filter_map(|line| line.trim().strip_prefix("RUN(")?.strip_suffix(");")).collect()
}

/// Returns the tests of one program: that it compiles, each of its own tests, and that it ends without a leak or a race.
fn trials_of(library: &Arc<Library>, variant: Variant, source: Source) -> Vec<Trial> {
    let program = Arc::new(Program { variant, source, built: OnceLock::new(), ran: OnceLock::new() });
    let new = |name: &str, test: Test| {
        let program = Arc::clone(&program);
        let name = format!("{}::{}::{name}", variant.name, source.0);
        trial(library, name, move |installed, log| test(&program, installed, log))
    };
    let mut trials = vec![new("compiles", Box::new(|program, installed, _| program.is_built(installed)))];
    if let Some(symbol) = variant.symbol {
        trials.push(new(
            "is_instrumented",
            Box::new(move |program, installed, log| {
                program.is_built(installed)?;
                let symbols = log.output(installed.context.command("nm").arg(program.path(installed)))?;
                ensure(symbols.contains(symbol), &format!("the program has no {symbol}"))
            }),
        ));
    }
    for case in cases(source.1) {
        trials.push(new(
            case,
            Box::new(move |program, installed, _| {
                let ran = program.ran(installed)?;
                let passed = format!("ok {case}");
                ensure(
                    ran.output.lines().any(|line| line == passed),
                    &format!("{}no line {passed}", ran.output),
                )
            }),
        ));
    }
    trials.push(new(
        "ends_cleanly",
        Box::new(|program, installed, _| {
            let ran = program.ran(installed)?;
            let total = format!("{} passed, 0 failed", cases(program.source.1).len());
            ran.ended.clone().map_err(|error| format!("{}{error}", ran.output))?;
            ensure(ran.output.lines().any(|line| line == total), &format!("{}no line {total}", ran.output))
        }),
    ));
    trials
}

impl Program {
    fn path(&self, installed: &Installed) -> PathBuf {
        installed.work.join(format!("{}-{}", self.variant.name, self.source.0))
    }

    /// Compiles it once.
    fn is_built(&self, installed: &Installed) -> Result {
        let build = || {
            let mut log = Log::new().map_err(|error| error.to_string())?;
            let source = format!("ffi/tests/c/{}.c", self.source.0);
            let Variant { compiler, link, .. } = self.variant;
            let built = installed.compile(&mut log, compiler, link, &source, &self.path(installed));
            built.map_err(|error| format!("{}{error}", log.text()))
        };
        Ok(self.built.get_or_init(build).clone()?)
    }

    /// Runs it once.
    fn ran(&self, installed: &Installed) -> Result<&Ran> {
        self.is_built(installed)?;
        Ok(self.ran.get_or_init(|| {
            let log = Log::new().map_err(|error| error.to_string());
            log.map_or_else(
                |error| Ran { output: String::new(), ended: Err(error) },
                |mut log| {
                    let ended = log.run(&mut self.command(installed)).map_err(|error| error.to_string());
                    Ran { output: log.text(), ended }
                },
            )
        }))
    }

    /// Returns the command without CAP_SYS_ADMIN, with which the open of a held group would succeed.
    fn command(&self, installed: &Installed) -> Command {
        let program = self.path(installed);
        if !self.variant.valgrind {
            return installed.context.bare(program);
        }
        let [valgrind, options @ ..] = VALGRIND;
        let mut command = installed.context.bare(valgrind);
        // Fewer rounds of the threads.
        command.args(options).arg(program).arg("5");
        command
    }
}
