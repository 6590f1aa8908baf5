//! Runs `serve` on a simulated node under random moves, and samples its memory, descriptors and threads.
//!
//! Before each sample the node is brought back to the same state: all devices bound, no VM, no pod. Growth therefore is a leak.
//! The medians of the first and of the last third of the samples are compared, so one odd sample decides nothing.

mod moves;
mod sample;

use anyhow::{Context, Result, bail};
use clap::Parser;
use moves::World;
use sample::Samples;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The time between two samples.
const SAMPLE_INTERVAL: Duration = Duration::from_secs(2);

/// Runs the plugin under random moves, and fails if its memory, descriptors or threads grow.
#[derive(Parser)]
struct Options {
    /// Minutes to run
    #[arg(default_value_t = 1.0)]
    minutes: f64,
    /// The program to run
    #[arg(long)]
    plugin: PathBuf,
    /// Seed of the random moves
    #[arg(long, default_value_t = 1)]
    seed: u64,
}

fn main() -> ExitCode {
    match run(&Options::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("FAILED soak: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(options: &Options) -> Result<()> {
    // The thread drops CAP_SYS_ADMIN with the node, so the runtime has no other.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(soak(options))
}

async fn soak(options: &Options) -> Result<()> {
    let duration = Duration::try_from_secs_f64(options.minutes * 60.0).context("minutes")?;
    let mut random = fastrand::Rng::with_seed(options.seed);
    let mut world = World::start(&options.plugin).await?;
    let mut samples = Samples::default();
    let (began, mut sampled) = (Instant::now(), Instant::now());
    while began.elapsed() < duration {
        world.random_move(&mut random).await?;
        if sampled.elapsed() >= SAMPLE_INTERVAL {
            world.rest().await?;
            samples.take(world.pid()).context("the plugin has ended")?;
            sampled = Instant::now();
        }
    }
    let moves = world.moves();
    world.end()?;
    match samples.growth() {
        Some(growth) if growth.is_leak() => bail!("{moves} moves: {growth}"),
        Some(growth) => println!("ok soak: {moves} moves, {growth}"),
        None => bail!("{} samples are too few; run it for longer", samples.len()),
    }
    Ok(())
}
