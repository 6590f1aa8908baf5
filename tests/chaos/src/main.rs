//! The plugin, the kubelet's own device manager and a simulated node, driven at random, and compared with the truth after
//! every step: allocatable - requested = the number of devices that a new machine could open now.
#![allow(clippy::indexing_slicing, reason = "only JSON values are indexed: Null where there is nothing")]

mod check;
mod launcher;
mod moves;
mod pods;
mod shrink;
mod stories;
mod story;
mod truth;
mod violation;
mod world;

use clap::Parser;
use launcher::Launcher;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};
use story::{Counts, Step};
use violation::Violation;
use world::Settings;

/// Steps on one node; then comes a new one, so that a story that fails is short enough to be played again.
const CHAPTER: usize = 100;
/// How long a failing story is made shorter.
const SHRINK: Duration = Duration::from_secs(300);

/// Plays random stories on a simulated node and checks the plugin after every step.
#[derive(Parser)]
struct Args {
    /// The plugin's program
    #[arg(long)]
    plugin: PathBuf,
    /// The kubelet's program (tests/kubelet)
    #[arg(long)]
    kubelet: PathBuf,
    /// How many steps in all
    #[arg(long, default_value_t = 2000)]
    steps: usize,
    /// Where chance begins; a failure names the one that repeats it
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Play these steps of the first chapter alone
    #[arg(long, value_delimiter = ',', value_name = "NUMBER")]
    only: Option<Vec<usize>>,
    /// The plugin's policy
    #[arg(long, default_value = "attributed")]
    busy: String,
    /// What the plugin's Allocate does with a held device
    #[arg(long, default_value = "reject")]
    busy_allocate: String,
    /// Succeed only if a violation is found
    #[arg(long)]
    expect_violation: bool,
    /// Tell the stories that the plugin was made for instead
    #[arg(long)]
    stories: bool,
    /// Say every step
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
    if args.stories {
        return Ok(stories::tell(&launcher, &settings));
    }
    let began = Instant::now();
    let mut counts = Counts::default();
    for chapter in 0..args.steps.div_ceil(CHAPTER) {
        let seed = args.seed + u64::try_from(chapter)?;
        let steps = CHAPTER.min(args.steps - chapter * CHAPTER);
        let mut story = story::draw(seed, steps);
        if let Some(only) = &args.only {
            story.retain(|step| only.contains(&step.number));
        }
        if let Err((step, error)) = story::play(&launcher, &settings, &story, &mut counts) {
            let violation = error.downcast_ref::<Violation>();
            if args.expect_violation && violation.is_some_and(|violation| violation.short) {
                println!("as it must be with --busy {}, after {} steps: {error}", args.busy, counts.steps);
                return Ok(true);
            }
            println!("seed {seed}, step {step}: {error:#}");
            if violation.is_some() {
                let told = story.get(..=step).unwrap_or(&story);
                let only = tell(&settings, &launcher, told);
                println!("repeat it with: --verbose --seed {seed} --steps {steps} --only {only}");
            }
            println!("{}", summary(&counts, 1, began));
            return Ok(false);
        }
    }
    println!("{}", summary(&counts, 0, began));
    if args.expect_violation {
        println!("no violation was found with --busy {}, where one must be", args.busy);
    }
    Ok(!args.expect_violation)
}

/// Prints the shortest story that fails; the numbers of its steps.
fn tell(settings: &Settings, launcher: &Launcher, story: &[Step]) -> String {
    let quiet = Settings { verbose: false, ..settings.clone() };
    let mut last = None;
    let short = shrink::shrink(story, Instant::now() + SHRINK, |story| {
        let outcome = story::play(launcher, &quiet, story, &mut Counts::default());
        let error = outcome.err().map(|(_, error)| error).filter(anyhow::Error::is::<Violation>);
        let failed = error.is_some();
        last = error.or(last.take());
        failed
    });
    println!("{} of {} steps are enough:", short.len(), story.len());
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
