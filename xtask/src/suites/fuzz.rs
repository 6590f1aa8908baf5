//! Fuzzing of every parser of input from outside, and the soak of the plugin.

use std::path::PathBuf;
use std::process::Command;

use crate::context::Context;
use crate::packages::Need;
use crate::suite::Suite;
use crate::{Result, process};

/// Seconds for each target without an argument.
const SECONDS: u64 = 10;
/// What `cargo fuzz --sanitizer none` sets. The crates have no unsafe code, so a sanitizer of memory would find nothing more, and
/// it needs a nightly Rust; the coverage does not.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Ccodegen-units=1 -Cllvm-args=-sanitizer-coverage-level=4 \
                     -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
                     -Cllvm-args=-sanitizer-coverage-trace-compares";

/// Runs the fuzz targets of fuzz/ with libFuzzer. The arguments are the minutes for all targets together, and targets; without
/// minutes each target runs for 10 s. Inputs that reach new code are kept in cargo's target directory for the next run.
///
/// # Errors
///
/// Fails if the targets do not build.
pub fn fuzz(context: &mut Context, arguments: &[String]) -> Result<bool> {
    let (minutes, names) = match arguments.split_first() {
        Some((first, rest)) if first.parse::<u64>().is_ok() => (first.parse::<u64>().ok(), rest),
        _ => (None, arguments),
    };
    let mut targets: Vec<String> = names.to_vec();
    if targets.is_empty() {
        let files = process::entries(&context.top.join("fuzz/fuzz_targets"));
        targets = files.iter().map(|file| process::file_name(file).replace(".rs", "")).collect();
    }
    let count = u64::try_from(targets.len())?.max(1);
    let seconds = minutes.map_or(SECONDS, |minutes| minutes * 60 / count);
    let programs = build(context)?;
    let mut suite = Suite::new();
    for target in targets {
        suite.check_aloud(&target, |log| {
            let work = context.target.join("fuzz");
            let corpus = work.join("corpus").join(&target);
            process::make_directory(&corpus)?;
            process::make_directory(&work.join("artifacts"))?;
            let mut fuzzer = Command::new(programs.join(&target));
            fuzzer.args([
                "-max_len=65536",
                "-timeout=20",
                "-rss_limit_mb=1024",
                "-print_final_stats=1",
                "-verbosity=0",
            ]);
            fuzzer.arg(format!("-max_total_time={seconds}"));
            fuzzer.arg(format!("-artifact_prefix={}/{target}-", work.join("artifacts").display()));
            // The first directory receives new inputs.
            fuzzer.arg(corpus).arg(context.top.join("fuzz/seeds").join(&target));
            let output = fuzzer.output().map_err(process::cannot_start(&fuzzer))?;
            let text = String::from_utf8_lossy(&output.stderr);
            match (output.status.success(), inputs(&text)) {
                (true, Some(inputs)) => log.say(&format!("{inputs} inputs in {seconds} s")),
                _ => log.say(&text),
            }
            process::check(&fuzzer, output.status)
        });
    }
    Ok(suite.end())
}

/// Returns the number of inputs in libFuzzer's report.
fn inputs(report: &str) -> Option<&str> {
    report.lines().find_map(|line| line.strip_prefix("stat::number_of_executed_units:")).map(str::trim)
}

/// Builds the targets with coverage and returns the directory of the programs.
fn build(context: &Context) -> Result<PathBuf> {
    context.need(&[Need::Program("g++", "g++")])?;
    let version = process::output(context.command("rustc").arg("-vV"))?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: ")).ok_or("rustc names no host")?;
    let directory = context.target.join("fuzz");
    let mut build = context.cargo(&["build", "--quiet", "--locked", "--release", "--bins"]);
    // With --target, the flags are not those of build scripts.
    build.args(["--manifest-path", "fuzz/Cargo.toml", "--target", host]);
    build.arg("--target-dir").arg(&directory).env("RUSTFLAGS", FLAGS).env("CARGO_INCREMENTAL", "0");
    process::run(&mut build)?;
    Ok(directory.join(host).join("release"))
}

/// Runs the plugin under random moves, and fails if its memory, descriptors or threads grow. The arguments are minutes, 1 by
/// default, and a seed.
///
/// # Errors
///
/// Fails if the programs do not build.
pub fn soak(context: &mut Context, arguments: &[String]) -> Result<bool> {
    context.programs(&["vfio-soak", "vfio-device-plugin", "vfio-sim-node"])?;
    let argument = |index: usize| arguments.get(index).map_or("1", String::as_str);
    let (minutes, seed) = (argument(0), argument(1));
    let mut soak = context.command(context.debug("vfio-soak"));
    soak.arg("--plugin").arg(context.debug("vfio-device-plugin")).args(["--seed", seed, minutes]);
    let mut suite = Suite::new();
    suite.check_aloud("soak", |log| log.run(&mut soak));
    Ok(suite.end())
}

#[cfg(test)]
mod tests {
    use super::inputs;

    #[test]
    fn number_of_inputs_is_read_from_the_report() {
        let report =
            "INFO: seed corpus\nstat::number_of_executed_units: 5062425\nstat::average_exec_per_sec: 1\n";
        assert_eq!(inputs(report), Some("5062425"));
        assert_eq!(inputs("==1== ERROR: libFuzzer: deadly signal"), None);
    }
}
