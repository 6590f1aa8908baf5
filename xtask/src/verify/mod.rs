//! `./verify`: runs every test of the project.

pub mod runner;
pub mod steps;

use crate::context::Context;
use crate::packages::{C, C_TESTS, Need, PCI_IDS, PYTHON};
use crate::{Result, process};
use runner::Runner;
use steps::{STEPS, Step};

/// The help text.
const HELP: &str = "\
Runs every test of the project. The last line is `N passed, N failed`.

  ./verify [OPTION]... [NAME]...    run all steps, or those with a NAME in their name

  -q, --quick      leave out the kubelets, the VM, the image and measurements (under 5 minutes if built before)
  -v, --verbose    print all output of the steps; it is in the directory verify of cargo's target directory as well
  -l, --list       print the names of the steps and do nothing else
  -h, --help       print this help

A step that fails does not stop the others. Fast steps run first. Missing tools are installed: with apt as root on Debian, and
in the user's caches from PyPI, crates.io and the Go module proxy. The exit status is 0 if every test passed.";

/// What the command line asks for.
#[derive(Debug, Default, PartialEq, Eq)]
struct Options {
    quick: bool,
    verbose: bool,
    list: bool,
    help: bool,
    names: Vec<String>,
}

impl Options {
    fn parse(arguments: &[String]) -> Result<Self, String> {
        let mut options = Self::default();
        for argument in arguments {
            match argument.as_str() {
                "-q" | "--quick" => options.quick = true,
                "-v" | "--verbose" => options.verbose = true,
                "-l" | "--list" => options.list = true,
                "-h" | "--help" => options.help = true,
                _ if argument.starts_with('-') => {
                    return Err(format!("unknown option {argument}; see ./verify --help"));
                }
                _ => options.names.push(argument.clone()),
            }
        }
        Ok(options)
    }
}

/// Runs the command `verify`. Returns the exit status: 0 if every test passed, 2 for wrong usage.
///
/// # Errors
///
/// Fails if a tool is missing and cannot be installed, and if no step has one of the names.
pub fn verify(context: &mut Context, arguments: &[String]) -> Result<u8> {
    let options = match Options::parse(arguments) {
        Ok(options) => options,
        Err(error) => {
            eprintln!("verify: {error}");
            return Ok(2);
        }
    };
    if options.help {
        process::print_line(HELP);
        return Ok(0);
    }
    let selected = steps::select(STEPS, &options.names, options.quick)?;
    if options.list {
        selected.iter().for_each(|step| process::print_line(step.name));
        return Ok(0);
    }
    let logs = context.target.join("verify");
    prepare(context, &options, &selected)?;
    let _ = std::fs::remove_dir_all(&logs);
    process::make_directory(&logs)?;
    let mut runner = Runner { context, logs, verbose: options.verbose, out: std::io::stdout() };
    Ok((runner.run(&selected)?.failed > 0).into())
}

/// Says what will happen, and installs what the steps need, all at once: no step stops for a missing tool after ten minutes.
fn prepare(context: &mut Context, options: &Options, selected: &[&Step]) -> Result {
    for (arguments, tool) in [(&["fmt", "--version"], "rustfmt"), (&["clippy", "--version"], "clippy")] {
        if !process::succeeds(&mut context.cargo(arguments)) {
            return Err(format!("{tool} is missing; install your Rust's {tool}").into());
        }
    }
    let mut needs = vec![Need::Program("git", "git"), PCI_IDS];
    needs.extend(PYTHON.iter().chain(C));
    needs.extend(selected.iter().flat_map(|step| step.needs).copied().flatten());
    let missing = context.missing(&needs);
    let is_built = context.debug("vfio-sim-node").exists();
    let state = if is_built { "before" } else { "never before" };
    process::print_line(format!(
        "verify: {} steps. This takes {} on two idle cores (built {state}). The output of each step is in {}.",
        selected.len(),
        duration(options, is_built),
        context.target.join("verify").display()
    ));
    if !missing.is_empty() {
        process::print_line(format!("verify: installing with apt: {}", missing.join(" ")));
    }
    process::print_line(format!(
        "verify: downloads what is missing: crates (~/.cargo), Go and its modules (~/go), Python tools and a kernel ({}); \
         with the builds, about 20 GB of disk",
        context.cache.display()
    ));
    context.install(&missing)?;
    if selected.iter().any(|step| step.needs.contains(&C_TESTS)) {
        context.need_sanitizers()?;
    }
    context.need_go()
}

fn duration(options: &Options, is_built: bool) -> &'static str {
    match (options.names.is_empty(), options.quick, is_built) {
        (false, ..) => "a few minutes",
        (true, true, true) => "under 5 minutes",
        (true, true, false) => "about 13 minutes",
        (true, false, true) => "about 12 minutes",
        (true, false, false) => "about 25 minutes",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(line: &str) -> Result<Options, String> {
        Options::parse(&line.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn options_and_names_are_separated() {
        let expected =
            Options { quick: true, verbose: true, names: vec!["model".into()], ..Options::default() };
        assert_eq!(parse("-q model --verbose"), Ok(expected));
        assert!(parse("--list").unwrap().list && parse("-h").unwrap().help);
    }

    #[test]
    fn unknown_option_is_refused_by_name() {
        assert_eq!(parse("--quik").unwrap_err(), "unknown option --quik; see ./verify --help");
    }
}
