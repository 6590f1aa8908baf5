//! Checks the plugin's CDI specs and names with the library of the container runtimes, in two versions: today's and containerd
//! 1.7.0's.

use std::path::Path;
use std::process::Command;

use super::go::is_formatted;
use crate::context::Context;
use crate::scratch::Scratch;
use crate::suite::Suite;
use crate::{Result, process};

/// Runs the suite.
///
/// # Errors
///
/// Fails if Go is missing or the plugin's tests do not build.
pub fn cdi(context: &mut Context, _: &[String]) -> Result<bool> {
    context.need_go()?;
    context.set("CGO_ENABLED", "0");
    let work = Scratch::new()?;
    let here = context.top.join("tests/cdi");
    let gofmt = context.gofmt()?;
    let mut suite = Suite::new();
    suite.check("format", |log| is_formatted(context, &gofmt, &here, log));
    let libraries: [(&str, &str, &[&str]); 2] = [
        ("library 1.1.1", "newer", &[]),
        ("library 0.5.4", "older", &["-modfile=older.mod", "-tags", "older"]),
    ];
    for (name, program, flags) in libraries {
        suite.count_made(name, || build(context, &here, &work.join(program), flags));
    }
    Ok(suite.end())
}

/// Builds the program with one library and returns the plugin's tests that use it.
fn build(context: &Context, here: &Path, program: &Path, flags: &[&str]) -> Result<Command> {
    process::run(context.command("go").current_dir(here).arg("vet").args(flags).arg("."))?;
    let mut build = context.command("go");
    process::run(build.current_dir(here).arg("build").args(flags).arg("-o").arg(program).arg("."))?;
    let mut tests = context.command(context.test_program("cdi")?);
    tests.current_dir(context.top.join("plugin")).env("CDI_LIBRARY", program).arg("--ignored");
    Ok(tests)
}
