//! The runner of `./verify` with steps that pass, fail, are killed, and print wrong counts: real processes and real logs.

#![allow(clippy::unwrap_used, missing_docs, reason = "tests may panic")]

use std::path::PathBuf;

use xtask::context::Context;
use xtask::counts::Counts;
use xtask::scratch::Scratch;
use xtask::verify::runner::Runner;
use xtask::verify::steps::{Step, check, count};

/// What a run has left.
struct Run {
    counts: Counts,
    output: String,
    logs: PathBuf,
    _scratch: Scratch,
}

fn run_in(context: &mut Context, steps: &[Step], verbose: bool) -> Run {
    let scratch = Scratch::new().unwrap();
    let logs = scratch.path().to_owned();
    let mut out = Vec::new();
    let selected: Vec<&Step> = steps.iter().collect();
    let counts = Runner { context, logs: logs.clone(), verbose, out: &mut out }.run(&selected).unwrap();
    Run { counts, output: String::from_utf8(out).unwrap(), logs, _scratch: scratch }
}

fn run(steps: &[Step]) -> Run {
    run_in(&mut Context::new().unwrap(), steps, false)
}

/// Checks the counts, and that the last line has them.
fn expect(run: &Run, passed: u64, failed: u64) {
    assert_eq!(run.counts, Counts { passed, failed }, "{}", run.output);
    assert_eq!(run.output.lines().last(), Some(format!("{passed} passed, {failed} failed").as_str()));
}

#[test]
fn failed_step_does_not_stop_later_ones() {
    let run = run(&[
        check("first", &["sh", "-c", "echo the reason; exit 3"]),
        count("second", &["sh", "-c", "echo 4 passed, 0 failed"]),
    ]);
    expect(&run, 4, 1);
    assert!(run.output.contains("step 2 of 2, second, 0m 0"), "{}", run.output);
    assert!(run.output.contains("    | the reason\n"), "{}", run.output);
    assert!(run.output.contains("FAILED first: 0 passed, 1 failed; see "), "{}", run.output);
    assert!(!run.output.contains("FAILED second"), "{}", run.output);
}

#[test]
fn killed_step_is_a_failure_and_names_the_signal() {
    let run = run(&[
        check("a check", &["sh", "-c", "kill -9 $$"]),
        count("after its last line", &["sh", "-c", "echo 7 passed, 0 failed; kill -9 $$"]),
        count("before its last line", &["sh", "-c", "echo 7 passed,; kill -15 $$"]),
    ]);
    expect(&run, 7, 3);
    assert!(
        run.output.contains("FAILED a check: 0 passed, 1 failed (signal: 9 (SIGKILL)); see "),
        "{}",
        run.output
    );
    assert!(run.output.contains("(signal: 15 (SIGTERM))"), "{}", run.output);
}

#[test]
fn wrong_counts_are_failures() {
    let run = run(&[
        count("failures with status 0", &["sh", "-c", "echo 7 passed, 2 failed"]),
        count("status 1 without a failure", &["sh", "-c", "echo 7 passed, 0 failed; exit 1"]),
        count("no test", &["sh", "-c", "echo 0 passed, 0 failed"]),
        count("no line", &["true"]),
        count("a word", &["sh", "-c", "echo many passed, 0 failed"]),
        count("more after the last line", &["sh", "-c", "echo 7 passed, 0 failed; echo late"]),
    ]);
    expect(&run, 14, 7);
}

#[test]
fn missing_program_is_a_failure_with_a_reason() {
    let run = run(&[check("missing", &["no-such-program"]), check("present", &["true"])]);
    expect(&run, 1, 1);
    assert!(run.output.contains("    | error: cannot run no-such-program: "), "{}", run.output);
}

#[test]
fn what_was_not_checked_is_shown_and_repeated_at_the_end() {
    let run = run(&[
        count(
            "partial",
            &["sh", "-c", "echo 'not checked: breaks; the tool is missing'; echo 1 passed, 0 failed"],
        ),
        check("complete", &["true"]),
    ]);
    expect(&run, 2, 0);
    assert!(run.output.contains("    not checked: breaks; the tool is missing\n"), "{}", run.output);
    let end = run.output.rfind("NOT CHECKED in partial: breaks; the tool is missing\n").unwrap();
    assert!(end > run.output.rfind("complete").unwrap(), "{}", run.output);
    assert!(!run.output.contains("NOT CHECKED in complete"), "{}", run.output);
}

#[test]
fn log_has_all_output_and_the_terminal_the_progress() {
    let step = count(
        "mixed: output",
        &["sh", "-c", "echo ok a; echo detail; printf '\\377\\n' >&2; echo 1 passed, 0 failed"],
    );
    let run = run(&[step]);
    expect(&run, 1, 0);
    assert!(run.output.contains("    ok a\n") && !run.output.contains("detail"), "{}", run.output);
    let log = std::fs::read_to_string(run.logs.join("01-mixed--output.log")).unwrap();
    assert!(log.starts_with("ok a\ndetail\n") && log.ends_with("1 passed, 0 failed\n"), "{log}");
    let costs = std::fs::read_to_string(run.logs.join("costs")).unwrap();
    assert!(costs.contains("mixed: output") && costs.lines().last().unwrap().starts_with("all "), "{costs}");
}

#[test]
fn verbose_run_prints_everything_once() {
    let steps = [check("first", &["sh", "-c", "echo detail; false"])];
    let run = run_in(&mut Context::new().unwrap(), &steps, true);
    expect(&run, 0, 1);
    assert_eq!(run.output.matches("detail").count(), 1, "{}", run.output);
}

#[test]
fn listed_failures_are_printed_instead_of_the_end() {
    const TEXT: &str = "echo early; printf 'failures:\\n    a\\ntest result: FAILED. 0 passed; 1 failed; x\\n'; echo late; false";
    let run = run(&[count("tests", &["sh", "-c", TEXT])]);
    expect(&run, 0, 1);
    assert!(run.output.contains("    | failures:\n    |     a\n    | test result: FAILED"), "{}", run.output);
    assert!(!run.output.contains("| early") && !run.output.contains("| late"), "{}", run.output);
}

#[test]
fn passed_step_prepares_later_ones_and_a_failed_one_does_not() {
    fn set(context: &mut Context) {
        context.set("XTASK_PREPARED", "yes");
    }
    let test = check("test", &["sh", "-c", "[ \"$XTASK_PREPARED\" = yes ]"]);
    expect(&run(&[check("build", &["true"]).then(set), test]), 2, 0);
    expect(&run(&[check("build", &["false"]).then(set), test]), 0, 2);
}

#[test]
fn environment_of_a_step_is_its_own() {
    let test: &[&str] = &["sh", "-c", "[ -n \"$XTASK_VALUE\" ]"];
    expect(&run(&[check("with", test).environment(&[("XTASK_VALUE", "1")]), check("without", test)]), 1, 1);
}

#[test]
fn step_that_reads_its_input_does_not_wait() {
    expect(&run(&[check("cat", &["cat"])]), 1, 0);
}
