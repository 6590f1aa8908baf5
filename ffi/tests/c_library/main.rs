//! Tests the C library as users get it: installs it, links it as a shared and as a static library with gcc, g++, clang and
//! clang++, and runs its tests natively, under valgrind and under the sanitizers.
//!
//! Each test in C (`RUN` in ffi/tests/c) is one test here for each way to build it. All are ignored by default, because they need
//! compilers, valgrind and make: `cargo test -p vfio-probe-ffi --test c_library -- --ignored [NAME]`, or `ffi/test`.

#![allow(missing_docs, reason = "a test program")]

mod examples;
mod installation;
mod library;
mod linking;
mod programs;

use std::process::ExitCode;
use std::sync::Arc;

use libtest_mimic::{Arguments, Trial};

use library::Library;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // A program in C has up to eight threads and deadlines of its own.
    arguments.test_threads = arguments.test_threads.or(Some(1));
    let library = Arc::new(Library::default());
    let mut trials: Vec<Trial> = Vec::new();
    trials.extend(installation::trials(&library));
    trials.extend(linking::trials(&library));
    trials.extend(programs::trials(&library));
    trials.extend(examples::trials(&library));
    let trials = trials.into_iter().map(|trial| trial.with_ignored_flag(true)).collect();
    libtest_mimic::run(&arguments, trials).exit_code()
}
