//! Runs steps one after the other: progress, logs, counts and costs.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::steps::{Kind, Step};
use crate::context::Context;
use crate::counts::Counts;
use crate::{Result, disk, packages, process};

/// What is printed for a failed step that does not list its failures: the end of its output.
const LAST_LINES: usize = 40;
/// What is printed of the failures that a step lists.
const FAILURE_LINES: usize = 100;
/// How a line begins in which a step says what it could not check here. It is repeated at the end.
const NOT_CHECKED: &str = "not checked: ";

/// Runs steps.
#[derive(Debug)]
pub struct Runner<'a, Out> {
    /// What the steps' commands get. Steps may change it for later ones.
    pub context: &'a mut Context,
    /// An empty directory for the steps' output.
    pub logs: PathBuf,
    /// Whether all output of the steps is printed.
    pub verbose: bool,
    /// The terminal.
    pub out: Out,
}

/// What one step has led to.
struct Outcome {
    counts: Counts,
    /// How the command ended, if not with an exit status.
    ended_by: Option<String>,
    wall: Duration,
    cpu: Duration,
    log: PathBuf,
}

impl<Out: Write> Runner<'_, Out> {
    /// Runs the steps and prints the table of costs, what was not checked, the failures and the last line `N passed, N failed`.
    ///
    /// # Errors
    ///
    /// Fails if a log or the terminal cannot be written. A step that fails is no error.
    pub fn run(&mut self, steps: &[&Step]) -> Result<Counts> {
        let (started, cpu_started) = (Instant::now(), children_cpu());
        let mut total = Counts::default();
        let (mut failures, mut unchecked) = (Vec::new(), Vec::new());
        let mut costs = format!("{:<32} {:>14} {:>10} {:>10}  result\n", "step", "wall", "CPU s", "number");
        for (index, step) in steps.iter().enumerate() {
            let number = index + 1;
            writeln!(
                self.out,
                "step {number} of {}, {}, {} elapsed",
                steps.len(),
                step.name,
                minutes(started.elapsed())
            )?;
            let outcome = self.step(number, step)?;
            total += outcome.counts;
            for line in read_log(&outcome.log)?.lines().filter_map(|line| line.strip_prefix(NOT_CHECKED)) {
                unchecked.push(format!("NOT CHECKED in {}: {line}", step.name));
            }
            if let (0, Some(passed)) = (outcome.counts.failed, step.passed) {
                passed(self.context);
            }
            let (result, wall, cpu) = (outcome.counts, minutes(outcome.wall), outcome.cpu.as_secs());
            if result.failed > 0 {
                let ended = outcome.ended_by.map(|how| format!(" ({how})")).unwrap_or_default();
                failures.push(format!(
                    "FAILED {}: {result}{ended}; see {}",
                    step.name,
                    outcome.log.display()
                ));
                if !self.verbose {
                    self.excerpt(&outcome.log)?;
                }
            }
            costs += &format!("{:<32} {wall:>14} {cpu:>10} {number:>10}  {result}\n", step.name);
            let free = disk::least_free(self.context).map(|free| format!(", {free} GB free"));
            writeln!(self.out, "    {result}, {wall}, CPU {cpu} s{}", free.unwrap_or_default())?;
        }
        let cpu = children_cpu().saturating_sub(cpu_started).as_secs();
        costs += &format!("{:<32} {:>14} {cpu:>10}\n", "all", minutes(started.elapsed()));
        process::write(&self.logs.join("costs"), &costs)?;
        write!(self.out, "{costs}")?;
        for line in unchecked.iter().chain(&failures) {
            writeln!(self.out, "{line}")?;
        }
        writeln!(self.out, "\n{total}")?;
        Ok(total)
    }

    fn step(&mut self, number: usize, step: &Step) -> Result<Outcome> {
        let name: String = step.name.chars().map(|c| if c.is_ascii_alphabetic() { c } else { '-' }).collect();
        let log = self.logs.join(format!("{number:02}-{name}.log"));
        let mut file =
            File::create(&log).map_err(|error| format!("cannot write {}: {error}", log.display()))?;
        let (started, cpu_started) = (Instant::now(), children_cpu());
        let mut written = Ok(());
        let status = command(self.context, step).and_then(|command| {
            process::each_line(command, |line| {
                let shown = if self.verbose { self.out.write_all(line.as_bytes()) } else { self.show(line) };
                written =
                    std::mem::replace(&mut written, Ok(())).and(file.write_all(line.as_bytes())).and(shown);
            })
        });
        written?;
        let (success, ended_by) = match status {
            Ok(status) => (status.success(), status.code().is_none().then(|| status.to_string())),
            Err(error) => {
                writeln!(file, "error: {error}")?;
                (false, Some(error.to_string()))
            }
        };
        let counts = match step.kind {
            Kind::Check => Counts::one(success),
            Kind::Count => Counts::of(success, &read_log(&log)?),
        };
        let cpu = children_cpu().saturating_sub(cpu_started);
        Ok(Outcome { counts, ended_by, wall: started.elapsed(), cpu, log })
    }

    /// Prints what the terminal gets from a step's output without `--verbose`.
    fn show(&mut self, line: &str) -> std::io::Result<()> {
        const BEGINNINGS: [&str; 7] =
            ["ok ", "FAILED ", NOT_CHECKED, "== ", "vm: ", "error: ", "     Running "];
        let is_shown = BEGINNINGS.iter().any(|begin| line.starts_with(begin));
        if is_shown || line.contains(" states") || line.contains(" ns (") {
            writeln!(self.out, "    {}", line.trim_end())?;
        }
        Ok(())
    }

    /// Prints the failures in a step's output as cargo test lists them, otherwise its end.
    fn excerpt(&mut self, log: &Path) -> Result {
        let text = read_log(log)?;
        let lines: Vec<&str> = text.lines().collect();
        let mut in_failures = false;
        let failures = lines.iter().filter(|line| {
            in_failures |= **line == "failures:";
            let listed = in_failures;
            in_failures &= !line.starts_with("test result");
            listed
        });
        let mut excerpt: Vec<&&str> = failures.take(FAILURE_LINES).collect();
        if excerpt.is_empty() {
            excerpt = lines.iter().skip(lines.len().saturating_sub(LAST_LINES)).collect();
        }
        for line in excerpt {
            writeln!(self.out, "    | {line}")?;
        }
        Ok(())
    }
}

/// Returns a step's output, whatever bytes it has.
fn read_log(log: &Path) -> Result<String> {
    let bytes = std::fs::read(log).map_err(|error| format!("cannot read {}: {error}", log.display()))?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Returns a step's command.
fn command(context: &Context, step: &Step) -> Result<Command> {
    let mut command = match step.command.split_first() {
        Some((&"xtask", arguments)) => {
            let mut command = context.command(context.debug("xtask"));
            command.args(arguments);
            command
        }
        _ => packages::words(context, step.command)?,
    };
    command.envs(step.environment.iter().copied());
    Ok(command)
}

/// Returns the CPU time of this process's children that have ended, and of theirs.
fn children_cpu() -> Duration {
    // proc(5): fields 16 and 17 are cutime and cstime. The kernel's unit is 1/100 s on every architecture (USER_HZ).
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let after_name = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
    let ticks: u64 =
        after_name.split(' ').skip(13).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// Returns a duration as minutes and seconds.
fn minutes(duration: Duration) -> String {
    format!("{}m {:02}s", duration.as_secs() / 60, duration.as_secs() % 60)
}
