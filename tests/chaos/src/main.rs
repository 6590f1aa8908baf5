//! Drives the plugin, the kubelet's own device manager and a simulated node with random steps.
//!
//! After every step, allocatable - requested must be the number of devices that a new VM could open now.
#![allow(clippy::indexing_slicing, reason = "only JSON values are indexed; a missing key yields null")]

mod checker;
mod moves;
mod plugin_log;
mod scenarios;
mod sequence;
mod shrink;
mod violation;
mod world;

use clap::Parser;
use kubelet_process::Launcher;
use sequence::{Counts, Step};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use violation::Violation;
use world::Settings;

/// Steps on one node. A short sequence on a fresh node can be repeated when it fails.
const STEPS_PER_NODE: usize = 100;
/// The time for shortening a sequence that fails.
const SHRINK: Duration = Duration::from_secs(300);

/// Play random steps on a simulated node and check the plugin after every step
#[derive(Parser)]
struct Args {
    /// The program vfio-device-plugin
    #[arg(long)]
    plugin: PathBuf,
    /// The program of the kubelet's device manager (tests/kubelet)
    #[arg(long)]
    kubelet: PathBuf,
    /// The number of steps in all
    #[arg(long, default_value_t = 2000)]
    steps: usize,
    /// The seed of the random steps; a failure names the seed that repeats it
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Play only these steps of the first node
    #[arg(long, value_delimiter = ',', value_name = "NUMBER")]
    only: Option<Vec<usize>>,
    /// The plugin's --busy
    #[arg(long, default_value = "attributed")]
    busy: String,
    /// The plugin's --busy-allocate
    #[arg(long, default_value = "reject")]
    busy_allocate: String,
    /// Succeed only if a violation is found
    #[arg(long)]
    expect_violation: bool,
    /// Play the fixed scenarios instead, with the plugin's default times
    #[arg(long)]
    scenarios: bool,
    /// Print every step
    #[arg(long)]
    verbose: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    match run(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> anyhow::Result<bool> {
    let launcher = Launcher::start();
    let settings = Settings {
        plugin: args.plugin.canonicalize()?,
        kubelet: args.kubelet.canonicalize()?,
        busy: args.busy.clone(),
        busy_allocate: args.busy_allocate.clone(),
        as_shipped: false,
        verbose: args.verbose,
    };
    if args.scenarios {
        return Ok(scenarios::run(&launcher, &settings));
    }
    let began = Instant::now();
    let mut counts = Counts::default();
    for part in 0..args.steps.div_ceil(STEPS_PER_NODE) {
        let seed = args.seed + u64::try_from(part)?;
        let steps = STEPS_PER_NODE.min(args.steps - part * STEPS_PER_NODE);
        let mut sequence = sequence::draw(seed, steps);
        if let Some(only) = &args.only {
            sequence.retain(|step| only.contains(&step.number));
        }
        if let Err((step, error)) = sequence::play(&launcher, &settings, &sequence, &mut counts) {
            let violation = error.downcast_ref::<Violation>();
            if args.expect_violation && violation.is_some_and(|violation| violation.short) {
                println!(
                    "found with --busy {}, as expected, after {} steps: {error}",
                    args.busy, counts.steps
                );
                return Ok(true);
            }
            println!("seed {seed}, step {step}: {error:#}");
            if let Some(violation) = violation {
                println!("the end of the plugin's log:\n{}", violation.log.trim_end());
                let played = sequence.get(..=step).unwrap_or(&sequence);
                let only = print_shortest(&settings, &launcher, played);
                println!("repeat with: --verbose --seed {seed} --steps {steps} --only {only}");
            }
            println!("{}", summary(&counts, 1, began));
            return Ok(false);
        }
    }
    println!("{}", summary(&counts, 0, began));
    if args.expect_violation {
        println!("no violation was found with --busy {}, although one was expected", args.busy);
    }
    Ok(!args.expect_violation)
}

/// Prints the shortest sequence that still fails. Returns the numbers of its steps, separated by commas.
fn print_shortest(settings: &Settings, launcher: &Launcher, sequence: &[Step]) -> String {
    let quiet = Settings { verbose: false, ..settings.clone() };
    let mut last = None;
    let short = shrink::shrink(sequence, Instant::now() + SHRINK, |sequence| {
        let outcome = sequence::play(launcher, &quiet, sequence, &mut Counts::default());
        let error = outcome.err().map(|(_, error)| error).filter(anyhow::Error::is::<Violation>);
        let failed = error.is_some();
        last = error.or(last.take());
        failed
    });
    println!("{} of {} steps reproduce it:", short.len(), sequence.len());
    for step in &short {
        println!("  {step}");
    }
    if let Some(error) = last {
        println!("  -> {error}");
    }
    short.iter().map(|step| step.number.to_string()).collect::<Vec<_>>().join(",")
}

fn summary(counts: &Counts, violations: u32, began: Instant) -> String {
    let Counts { steps, moves, pods, checks, restarts } = counts;
    format!(
        "{steps} steps ({moves} moves, {pods} pods), restarts: {} of the plugin, {} of the kubelet ({} without its checkpoint); {checks} checks, {violations} violations, {} s",
        restarts.plugin,
        restarts.kubelet,
        restarts.lost_checkpoints,
        began.elapsed().as_secs()
    )
}
