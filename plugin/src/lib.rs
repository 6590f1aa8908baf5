//! The program `vfio-device-plugin`: reads the command line, starts the log and runs one command.
//!
//! This is a library for the program in `bin/` and for the fuzz targets only. It promises no interface.

#![warn(
    clippy::print_stderr,
    clippy::print_stdout,
    reason = "`eprintln!` and `println!` panic if the stream is closed or full, and `eprintln!` may block: use \
              `commands::stderr` and `commands::stdout`"
)]

mod allocate;
mod assignments;
mod backoff;
mod bounded_json;
mod cli;
mod client_tasks;
mod commands;
mod config;
mod device_plugin;
#[cfg(feature = "dra")]
mod dra;
mod driver_status;
mod file_id;
mod files;
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub mod fuzzing;
mod handover;
mod http;
mod kubelet;
mod log;
mod log_once;
mod metrics;
mod node;
mod problems;
mod publisher;
mod reservations;
mod run_dir;
mod state_file;
mod status;
mod supervise;

use cli::{Cli, Command};
use commands::exit_code::{FAILED, USAGE};
use commands::serve::Logged;
use commands::stderr;
use config::{Config, LogFormat};
use log::{FlushAtExit, LogWriter};
use std::io::IsTerminal;
use std::num::NonZeroUsize;
use std::process::ExitCode;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;

/// Runs the program. Returns its exit code.
pub fn main() -> ExitCode {
    let _flush = FlushAtExit;
    log::log_panics();
    let cli = match Cli::read() {
        Ok(cli) => cli,
        // Help and the version come this way too.
        Err(error) => return cli::report(&error).into(),
    };
    start_log(&cli.config);
    let mut config = cli.config;
    let command = cli.command.unwrap_or(Command::Serve);
    // The other commands do not need the pools. `ready` must not fail because of a file that the running serve did not take over.
    let pools = match command {
        Command::Serve => config.read_pools().and_then(|()| config.check_pools()),
        Command::List { .. } | Command::Doctor { .. } => commands::offered::read_pools(&mut config),
        #[cfg(feature = "dra")]
        Command::Dra { .. } => commands::offered::read_pools(&mut config),
        _ => Ok(()),
    };
    if let Err(error) = pools {
        let file = config.pools_file();
        // Every line of serve's log is JSON then.
        let is_json = matches!((&command, config.log_format), (Command::Serve, LogFormat::Json));
        if is_json && tracing::enabled!(tracing::Level::ERROR) {
            tracing::error!(%file, %error, "pools file rejected");
        } else {
            stderr::print(format_args!("vfio-device-plugin: {file}: {error}"));
        }
        return USAGE.into();
    }
    let code = run(&config, command).unwrap_or_else(|error| {
        stderr::print(format_args!("vfio-device-plugin: {error:#}"));
        FAILED
    });
    code.into()
}

/// Returns the definition of the command line, for `examples/command_line_files.rs`.
#[doc(hidden)]
#[must_use]
pub fn command_line() -> clap::Command {
    <Cli as clap::CommandFactory>::command()
}

/// Returns the completion script of a shell, for `examples/command_line_files.rs`.
#[doc(hidden)]
#[must_use]
pub fn completion_script(shell: clap_complete::Shell) -> String {
    cli::completion_script(shell)
}

/// Runs a command and returns the exit code.
fn run(config: &Config, command: Command) -> anyhow::Result<u8> {
    match command {
        // Serve has logged why it failed.
        Command::Serve => Ok(commands::serve::run(config).map_or_else(|Logged| FAILED, |()| 0)),
        Command::List { json, probe, wide, columns } => {
            commands::list::run(config, json, probe, columns.map(NonZeroUsize::get).or_else(|| width(wide)))
        }
        Command::Who { target, json, wide } => commands::who::run(config, &target, json, width(wide)),
        Command::Watch { json, wide } => commands::watch::run(config, json, wide),
        Command::Ready { live } => Ok(commands::ready::run(config, live)),
        Command::Doctor { json, probe } => commands::doctor::run(config, json, probe),
        #[cfg(feature = "dra")]
        Command::Dra { command } => commands::dra::run(config, &command),
        Command::Completions { shell } => {
            cli::completions(shell)?;
            Ok(0)
        }
    }
}

/// Returns the width that a table must fit into.
fn width(wide: bool) -> Option<usize> {
    if wide { None } else { commands::terminal::columns() }
}

/// Starts the log on standard error; standard output is for results. The events of libraries, such as those of HTTP/2 frames, are
/// logged up to the level info.
fn start_log(config: &Config) {
    let level = config.log_level;
    let targets =
        Targets::new().with_target("vfio_device_plugin", level).with_default(level.min(LevelFilter::INFO));
    let log = tracing_subscriber::fmt().with_writer(LogWriter).with_max_level(level);
    // Otherwise a failed write is reported by `eprintln!`, which panics on the same stream.
    let log = log.log_internal_errors(false);
    match config.log_format {
        LogFormat::Text => log.with_ansi(has_color()).finish().with(targets).init(),
        LogFormat::Json => log.json().finish().with(targets).init(),
    }
}

/// Returns whether text on standard error may have colors.
fn has_color() -> bool {
    std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none()
}
