//! Plays the plugin's main scenarios on a simulated node with eight GPUs: `vfio-demo [--once] [--plugin PATH]`.
//!
//! The device plugin is the program that ships. It runs as a process of its own against a simulated node and a kubelet
//! stand-in (crate `vfio-sim-node`), so that the demo needs no GPU, no kubelet and no privilege.

mod plugin;
mod scenario;
mod screen;
mod stage;

use anyhow::Context;
use clap::{Parser, Subcommand};
use plugin::Plugin;
use screen::Screen;
use stage::Stage;
use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// Play the plugin's main scenarios on a simulated node; needs no GPU, kubelet or privilege
#[derive(Parser, Debug)]
#[command(name = "vfio-demo", version, max_term_width = 110)]
#[command(
    after_help = "Exit codes: 0 every check passed; 1 a check failed; 2 the demo could not run; 64 wrong usage."
)]
struct Args {
    /// Play once as plain text, without pauses
    #[arg(long)]
    once: bool,
    /// The program vfio-device-plugin [default: beside this program, else on PATH]
    #[arg(long, value_name = "PATH")]
    plugin: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Act as one VM of the demo: sleep until killed
    #[command(name = stage::VM_COMMAND, hide = true)]
    Vm,
}

const USAGE: u8 = 64;
const CANNOT_RUN: u8 = 2;

fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { USAGE.into() } else { ExitCode::SUCCESS };
        }
    };
    if let Some(Command::Vm) = args.command {
        loop {
            std::thread::sleep(Duration::from_secs(3600));
        }
    }
    match play(&args) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("vfio-demo: {error:#}");
            CANNOT_RUN.into()
        }
    }
}

/// Plays all scenarios and returns the number of failed checks.
fn play(args: &Args) -> anyhow::Result<u32> {
    let plugin = Plugin::find(args.plugin.clone())?;
    // Before any thread starts: capabilities are per thread, and an opener with CAP_SYS_ADMIN gets no EBUSY here.
    vfio_sim_node::drop_sys_admin().context("cannot give up CAP_SYS_ADMIN")?;
    let live = !args.once && std::io::stdout().is_terminal();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let mut screen = Screen::new(live);
        let mut stage = Stage::set(plugin).await?;
        scenario::play(&mut stage, &mut screen).await?;
        Ok(screen.finish())
    })
}
