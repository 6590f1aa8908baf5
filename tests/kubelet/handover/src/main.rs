//! Replaces the plugin by a second process again and again, with the kubelet's own device manager on a simulated node.
//!
//! Meanwhile the kubelet is asked for allocatable devices without a pause. The program prints for how long devices were missing,
//! with the hand-over between the two processes and without it, and with either process killed at every step.
#![allow(clippy::indexing_slicing, reason = "only JSON values are indexed; a missing key yields null")]

mod node;
mod pods;
mod process;
mod row;
mod stories;

use clap::Parser;
use kubelet_process::Launcher;
use node::{Node, Programs};
use row::Row;
use std::path::PathBuf;
use std::process::ExitCode;

/// Replace the plugin with the kubelet's device manager, and kill either process at every step
#[derive(Parser)]
struct Args {
    /// The program vfio-device-plugin
    #[arg(long)]
    plugin: PathBuf,
    /// The program of the kubelet's device manager (tests/kubelet)
    #[arg(long)]
    kubelet: PathBuf,
    /// How often to replace the plugin in each way
    #[arg(long, default_value_t = 5)]
    times: u32,
    /// Kill a process only when it writes its own line of a step, not also at the other's line
    #[arg(long)]
    short: bool,
    /// Play only stories with this text in their names
    #[arg(long, value_name = "TEXT", default_value = "")]
    only: String,
    /// Keep the logs
    #[arg(long)]
    keep: bool,
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn run(args: &Args) -> anyhow::Result<bool> {
    let programs = Programs { plugin: args.plugin.canonicalize()?, kubelet: args.kubelet.canonicalize()? };
    let launcher = Launcher::start();
    let (mut passed, mut failed) = (0, 0);
    println!("{}", row::HEAD);
    // One node for each story: a failure leaves nothing behind for the next one.
    let mut stories = stories::all(args.times, args.short);
    stories.retain(|story| story.to_string().contains(&args.only));
    for story in stories {
        let outcome = Node::start(&launcher, &programs).and_then(|mut node| {
            let row = node.play(story);
            if args.keep || row.as_ref().map_or(true, |row| story.verdict(row).is_some()) {
                eprintln!("logs of {story}: {}", node.keep());
            }
            Ok((row?, node.version().to_owned()))
        });
        match outcome {
            Ok((row, version)) => {
                let verdict = story.verdict(&row);
                println!(
                    "{}",
                    Row { version: &version, story: &story, found: &row, verdict: verdict.as_deref() }
                );
                passed += usize::from(verdict.is_none());
                failed += usize::from(verdict.is_some());
            }
            Err(error) => {
                println!("FAILED {story}: {error:#}");
                failed += 1;
            }
        }
    }
    println!("{passed} passed, {failed} failed");
    Ok(failed == 0)
}
