//! The command line.

use crate::config::Config;
use clap::builder::{OsStr, Resettable};
use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::Shell;

/// Kubelet device plugin for devices bound to VFIO: reports which are free, which are held, and by whom
#[derive(Parser, Debug)]
#[command(name = "vfio-device-plugin", version, max_term_width = 110)]
#[command(
    after_help = "Exit codes: 0 success; 1 no (no holder found, not ready, warnings); 2 failure; 64 wrong usage or settings."
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
    #[command(flatten)]
    pub(crate) config: Config,
}

/// The command to run; `serve` without one.
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
    },
    /// Print the processes that hold a device or group; exit 1 if none is found
    Who {
        /// PCI address, mdev uuid or group number
        target: String,
        /// Print JSON
        #[arg(long)]
        json: bool,
    },
    /// Print changes as they happen, until interrupted
    Watch {
        /// Print one JSON object per line
        #[arg(long)]
        json: bool,
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
    /// Print a shell completion script
    Completions {
        /// The shell
        shell: Shell,
    },
}

impl Cli {
    /// Reads the command line and the environment. A variable that is empty is not set, as in manifests that leave a value out;
    /// and what is said on the command line goes before what the environment says of the same thing.
    ///
    /// # Errors
    /// Wrong usage, or a wish for help.
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
        match offered_by(matches.value_source("select"), matches.value_source("pools")) {
            Offered::Select => cli.config.pools = None,
            Offered::Pools => {}
            Offered::Both(names) => {
                let text = format!("{names} exclude each other: put the selectors into the file of pools");
                return Err(command.error(ErrorKind::ArgumentConflict, text));
            }
        }
        cli.config.validate().map_err(|text| command.error(ErrorKind::ArgumentConflict, text))?;
        Ok(cli)
    }
}

/// What says which devices are offered.
#[derive(PartialEq, Eq, Debug)]
enum Offered {
    /// The selectors.
    Select,
    /// The file.
    Pools,
    /// Both of these names, from the same place.
    Both(&'static str),
}

fn offered_by(select: Option<ValueSource>, pools: Option<ValueSource>) -> Offered {
    use ValueSource::{CommandLine, EnvVariable};
    match (select, pools) {
        (Some(CommandLine), Some(CommandLine)) => Offered::Both("--select and --pools"),
        (Some(EnvVariable), Some(EnvVariable)) => {
            Offered::Both("VFIO_DEVICE_PLUGIN_SELECT and VFIO_DEVICE_PLUGIN_POOLS")
        }
        (Some(CommandLine), _) | (_, None) => Offered::Select,
        _ => Offered::Pools,
    }
}

/// Prints a shell's completion script.
pub(crate) fn completions(shell: Shell) {
    clap_complete::generate(shell, &mut Cli::command(), "vfio-device-plugin", &mut std::io::stdout());
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::ValueEnum;

    #[test]
    fn the_command_line_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_and_setting_is_documented_and_completed() {
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
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "vfio-device-plugin", &mut script);
            let script = String::from_utf8(script).unwrap();
            assert!(script.contains("cdi-dir") && script.contains("doctor"), "{shell}");
        }
    }
}
