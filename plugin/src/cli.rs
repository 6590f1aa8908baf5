//! Defines the command line: the commands, and how flags and environment variables override each other.

use crate::commands::exit_code::{FAILED, USAGE};
use crate::commands::{stderr, stdout};
use crate::config::Config;
use clap::builder::{OsStr, Resettable};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;
use std::io::IsTerminal;
use std::num::NonZeroUsize;

/// Kubelet device plugin for devices bound to VFIO: reports which are free, which are held, and by whom
#[derive(Parser, Debug)]
#[command(name = "vfio-device-plugin", version, max_term_width = 110)]
#[command(
    after_help = "Exit codes: 0 success; 1 no (no holder found, not ready, warnings); 2 failure; 3 unknown (who); 64 wrong usage or settings."
)]
pub(crate) struct Cli {
    /// The command; `serve` without one.
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    /// The settings, which all commands share.
    #[command(flatten)]
    pub(crate) config: Config,
}

/// What to run. The first line of each command is its help.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Run the device plugin until SIGTERM (the default)
    Serve,
    /// Print the devices, their holders, and the health reported to the kubelet
    List {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Probe each group by opening its device node; a VM that starts at that moment can fail
        #[arg(long)]
        probe: bool,
        /// Do not fit the lines to the width of the terminal, which COLUMNS overrides
        #[arg(long)]
        wide: bool,
        /// Fit the lines to so many columns, also without a terminal
        #[arg(long, value_name = "NUMBER", value_parser = columns, conflicts_with = "wide")]
        columns: Option<NonZeroUsize>,
    },
    /// Print the processes that hold a device or group; exit 1 if none is found
    Who {
        /// PCI address, mdev uuid, group, or device node: 0000:3b:00.0, 3b:00.0, 51, /dev/vfio/51, vfio3
        #[arg(value_name = "NAME")]
        target: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Do not fit the lines to the width of the terminal, which COLUMNS overrides
        #[arg(long)]
        wide: bool,
    },
    /// Print changes as they happen, until interrupted
    Watch {
        /// Print one JSON object per line
        #[arg(long)]
        json: bool,
        /// Do not fit the lines to the width of the terminal, which COLUMNS overrides
        #[arg(long)]
        wide: bool,
    },
    /// Exit 0 if a running `serve` is registered and has sent its first lists: for readiness probes
    Ready {
        /// Check only that the process works, with or without a kubelet: for liveness probes
        #[arg(long)]
        live: bool,
    },
    /// Check this node and print what is wrong, with advice
    Doctor {
        /// Print JSON
        #[arg(long)]
        json: bool,
        /// Probe each group by opening its device node; a VM that starts at that moment can fail
        #[arg(long)]
        probe: bool,
    },
    /// Print what a driver for Dynamic Resource Allocation (DRA) publishes of this node
    #[cfg(feature = "dra")]
    Dra {
        /// What to print.
        #[command(subcommand)]
        command: DraCommand,
    },
    /// Print a shell completion script
    Completions {
        /// The shell
        shell: Shell,
    },
}

#[cfg(feature = "dra")]
pub(crate) use crate::commands::dra::DraCommand;

impl Cli {
    /// Reads the command line and the environment.
    ///
    /// An empty variable counts as not set, because manifests leave values out that way. A flag overrides a
    /// variable; `--select` also overrides the variable of `--pools`, and the other way round.
    ///
    /// # Errors
    /// Wrong usage, or a request for the help or the version ([`clap::Error::use_stderr`] is false then).
    pub(crate) fn read() -> Result<Self, clap::Error> {
        let mut command = Self::command().mut_args(|arg| {
            let value = arg.get_env().and_then(std::env::var_os);
            if value.is_some_and(|value| value.is_empty()) {
                arg.env(Resettable::<OsStr>::Reset)
            } else {
                arg
            }
        });
        let matches = command.try_get_matches_from_mut(std::env::args_os())?;
        let mut cli = Self::from_arg_matches(&matches)?;
        match selection(matches.value_source("select"), matches.value_source("pools")) {
            Selection::Select => cli.config.pools = None,
            Selection::Pools => {}
            Selection::Conflict(names) => {
                let text = format!("{names} exclude each other: put the selectors into the pools file");
                return Err(command.error(ErrorKind::ArgumentConflict, text));
            }
        }
        let is_set = |id| matches.value_source(id).is_some_and(|source| source != ValueSource::DefaultValue);
        cli.config.derive_kubelet_paths(is_set("kubelet_dir"), is_set("pod_resources"));
        cli.config.validate().map_err(|text| command.error(ErrorKind::ArgumentConflict, text))?;
        Ok(cli)
    }
}

/// Parses the value of `--columns`.
fn columns(text: &str) -> Result<NonZeroUsize, &'static str> {
    text.parse().map_err(|_| "expected a number of columns above 0, like 120")
}

/// The setting that decides which devices are offered.
#[derive(PartialEq, Eq, Debug)]
enum Selection {
    /// `--select`, also by its default.
    Select,
    /// `--pools`.
    Pools,
    /// Both are flags, or both are variables: their names.
    Conflict(&'static str),
}

/// Returns which of `--select` and `--pools` decides, by where their values come from.
fn selection(select: Option<ValueSource>, pools: Option<ValueSource>) -> Selection {
    use ValueSource::{CommandLine, EnvVariable};
    match (select, pools) {
        (Some(CommandLine), Some(CommandLine)) => Selection::Conflict("--select and --pools"),
        (Some(EnvVariable), Some(EnvVariable)) => {
            Selection::Conflict("VFIO_DEVICE_PLUGIN_SELECT and VFIO_DEVICE_PLUGIN_POOLS")
        }
        (Some(CommandLine), _) | (_, None) => Selection::Select,
        _ => Selection::Pools,
    }
}

/// Prints the completion script of a shell on standard output.
///
/// # Errors
/// Standard output cannot be written.
pub(crate) fn completions(shell: Shell) -> anyhow::Result<()> {
    stdout::print(&completion_script(shell))
}

/// Returns the completion script of a shell.
pub(crate) fn completion_script(shell: Shell) -> String {
    let mut script = Vec::new();
    // Into memory: clap_complete panics if it cannot write.
    clap_complete::generate(shell, &mut Cli::command(), "vfio-device-plugin", &mut script);
    // clap_complete 4.6.11 calls a command of a program with hyphens by two names in its script for bash, which then completes no
    // options of commands (`bash::subcommand_details`).
    String::from_utf8_lossy(&script).replace("vfio__subcmd__device__subcmd__plugin", "vfio__device__plugin")
}

/// Prints what [`Cli::read`] returned as an error. Help and the version are a result, on standard output; wrong usage is an error.
/// Returns the exit code.
pub(crate) fn report(error: &clap::Error) -> u8 {
    let text = error.render();
    let styled = |is_terminal: bool| match is_terminal && std::env::var_os("NO_COLOR").is_none() {
        true => text.ansi().to_string(),
        false => text.to_string(),
    };
    if error.use_stderr() {
        stderr::print_text(&styled(std::io::stderr().is_terminal()));
        return USAGE;
    }
    match stdout::print(&styled(std::io::stdout().is_terminal())) {
        Ok(()) => 0,
        Err(error) => {
            stderr::print(format_args!("vfio-device-plugin: {error:#}"));
            FAILED
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn command_line_definition_is_valid() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_setting_is_documented() {
        let page = include_str!("../../docs/command-line.md");
        let command = Cli::command();
        for arg in command.get_arguments().filter(|arg| arg.get_env().is_some()) {
            let (flag, variable) = (arg.get_long().unwrap(), arg.get_env().unwrap().to_str().unwrap());
            assert!(
                page.contains(&format!("`--{flag}")) && page.contains(&format!("`{variable}`")),
                "{flag}"
            );
        }
        for command in command.get_subcommands().filter(|command| !command.is_hide_set()) {
            assert!(page.contains(&format!("| `{}", command.get_name())), "{}", command.get_name());
        }
        for shell in Shell::value_variants() {
            let script = completion_script(*shell);
            assert!(script.contains("cdi-dir") && script.contains("doctor"), "{shell}");
        }
    }
}
