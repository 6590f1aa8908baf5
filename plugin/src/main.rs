//! The device plugin and its command line.

mod advertise;
mod allocate;
mod cdi;
mod claims;
mod cli;
mod condition;
#[cfg(feature = "demo")]
mod demo;
mod device_nodes;
mod doctor;
mod feed;
mod guard;
mod hardware;
mod health;
mod kubelet_dir;
mod list;
mod memory;
#[cfg(test)]
mod model;
mod monitoring;
mod names;
mod opening;
mod owned_groups;
mod owners;
mod pools;
mod preferred;
mod ready;
mod registration;
mod resources;
mod serve;
mod service;
mod settings;
mod snapshot;
mod sriov;
mod stamp;
mod status;
mod steady;
mod table;
mod told;
mod vgpu_types;
mod watch;
mod who;

use cli::{Cli, Command};
use settings::{LogFormat, Settings};
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
    log(&cli.settings);
    let mut settings = cli.settings;
    let command = cli.command.unwrap_or(Command::Serve);
    // The others ask a running serve, or look at all devices: `ready` must not fail by a file that serve did not take in.
    let read = match command {
        Command::Serve => settings.read_pools(),
        Command::List { .. } | Command::Doctor { .. } => settings.read_pools_or_ask(),
        _ => Ok(()),
    };
    if let Err(mistake) = read {
        eprintln!("vfio-device-plugin: {}: {mistake}", settings.pools_file());
        return USAGE.into();
    }
    let settings = &settings;
    let done = match command {
        Command::Serve => serve::run(settings).map(|()| 0),
        Command::List { json, probe } => list::run(settings, json, probe),
        Command::Who { target, json } => who::run(settings, &target, json),
        Command::Watch { json } => watch::run(settings, json),
        Command::Ready => ready::run(settings),
        Command::Doctor { json, probe } => doctor::run(settings, json, probe),
        #[cfg(feature = "demo")]
        Command::Demo { once } => demo::run(once),
        #[cfg(feature = "demo")]
        Command::DemoVm => demo::machine(),
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
fn log(settings: &Settings) {
    let level = settings.log_level;
    let targets =
        Targets::new().with_target("vfio_device_plugin", level).with_default(level.min(LevelFilter::INFO));
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr).with_max_level(level);
    match settings.log_format {
        LogFormat::Text => {
            let colours = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
            log.with_ansi(colours).finish().with(targets).init();
        }
        LogFormat::Json => log.json().finish().with(targets).init(),
    }
}
