//! The device plugin and its command line.

mod allocate;
mod assignments;
mod backoff;
mod cli;
mod commands;
mod config;
mod device_plugin;
mod file_id;
mod kubelet;
mod log_once;
mod node;
mod publisher;
mod reservations;
mod state_file;
mod status;
mod supervise;

use cli::{Cli, Command};
use config::{Config, LogFormat};
use std::io::IsTerminal;
use std::process::ExitCode;
use tracing_subscriber::filter::{LevelFilter, Targets};
use tracing_subscriber::prelude::*;

/// EX_USAGE of sysexits.h: a supervisor can tell bad settings from a crash.
const USAGE: u8 = 64;
const BROKEN: u8 = 2;

fn main() -> ExitCode {
    let cli = match Cli::read() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    log(&cli.config);
    let mut config = cli.config;
    let command = cli.command.unwrap_or(Command::Serve);
    // The others ask a running serve, or look at all devices: `ready` must not fail by a file that serve did not take in.
    let read = match command {
        Command::Serve => config.read_pools(),
        Command::List { .. } | Command::Doctor { .. } => commands::offered::read_pools(&mut config),
        _ => Ok(()),
    };
    if let Err(mistake) = read {
        eprintln!("vfio-device-plugin: {}: {mistake}", config.pools_file());
        return USAGE.into();
    }
    let config = &config;
    let done = match command {
        Command::Serve => commands::serve::run(config).map(|()| 0),
        Command::List { json, probe } => commands::list::run(config, json, probe),
        Command::Who { target, json } => commands::who::run(config, &target, json),
        Command::Watch { json } => commands::watch::run(config, json),
        Command::Ready { live } => Ok(commands::ready::run(config, live)),
        Command::Doctor { json, probe } => commands::doctor::run(config, json, probe),
        Command::Completions { shell } => {
            cli::completions(shell);
            Ok(0)
        }
    };
    done.unwrap_or_else(|error| {
        eprintln!("vfio-device-plugin: {error:#}");
        BROKEN
    })
    .into()
}

/// Logs go to standard error; standard output is for answers. What the HTTP/2 library says of each frame is never of use.
fn log(config: &Config) {
    let level = config.log_level;
    let targets =
        Targets::new().with_target("vfio_device_plugin", level).with_default(level.min(LevelFilter::INFO));
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(level);
    match config.log_format {
        LogFormat::Text => {
            let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            log.with_ansi(colours).finish().with(targets).init();
        }
        LogFormat::Json => log.json().finish().with(targets).init(),
    }
}
