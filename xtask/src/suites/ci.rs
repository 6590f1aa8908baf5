//! Runs everything on a clean clone: `./verify`, then the VM's tests on a kernel with IOMMUFD and mediated devices, which Debian's
//! kernel lacks, and a few stories in a cluster if its parts are in the cache.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::context::Context;
use crate::counts::Counts;
use crate::suite::Suite;
use crate::{Result, disk, process};

/// The limit of the stories in a cluster.
const STORIES: Duration = Duration::from_secs(15 * 60);
/// What the stories leave of the 90 minutes that a run may take. They are its last part.
const RUN: Duration = Duration::from_secs(80 * 60);
/// With less time, no story ends on a slow host.
const SHORT: Duration = Duration::from_secs(10 * 60);
/// A story that has printed nothing for this time hangs. Slow hosts need up to four minutes for a step.
const SILENCE: Duration = Duration::from_secs(6 * 60);
/// What timeout(1) exits with if the limit was reached.
const TIMED_OUT: i32 = 124;

/// The space in GB that a run from nothing takes, with a reserve. With less, what earlier runs have left is removed first.
const ROOM: u64 = 40;

/// Runs all parts.
///
/// # Errors
///
/// Fails if the current directory is unknown.
pub fn ci(context: &mut Context, _: &[String]) -> Result<bool> {
    let (mut suite, began) = (Suite::new(), Instant::now());
    // A test that cannot run fails, also without root.
    context.set("CI", "true");
    // The code does not change between two builds, so the files for incremental compilation only take space.
    context.set("CARGO_INCREMENTAL", "0");
    make_room(context);
    suite.count("verify", context.command("./verify"));
    // A kernel that has been built before saves its build.
    let mut kernel: Result<PathBuf> = Ok(context.top.join("../shared/rig/kernel"));
    if !context.top.join("../shared/rig/kernel/vmlinuz").exists() {
        kernel = process::output(&mut context.command("tests/vm/build-kernel")).map(PathBuf::from);
    }
    suite.count_made("VM with a built kernel", || {
        let mut tests = context.command("tests/vm/run-tests");
        tests.env("VFIO_PROBE_VM_KERNEL", kernel?.canonicalize()?);
        Ok(tests)
    });
    cluster(context, &mut suite, STORIES.min(RUN.saturating_sub(began.elapsed())));
    Ok(suite.end())
}

/// Removes what Go has built for earlier runs if its file system has little space. A full disk makes tests fail that say nothing of it.
fn make_room(context: &mut Context) {
    let cache =
        context.need_go().and_then(|()| process::output(context.command("go").args(["env", "GOCACHE"])));
    // Without Go there is no such cache yet, and the steps say that Go is missing.
    let Ok(cache) = cache else { return };
    let free = || disk::free(context, Path::new(cache.trim()));
    let Some(before) = free().filter(|free| *free < ROOM) else { return };
    process::print_line(format!(
        "ci: {before} GB are free, and a run may take {ROOM}; removing Go's build cache"
    ));
    if !process::succeeds(context.command("go").args(["clean", "-cache"])) {
        process::print_line("ci: Go's build cache could not be removed");
    }
    if let Some(after) = free() {
        process::print_line(format!("ci: {after} GB are free now"));
    }
}

/// Runs the quick stories in a cluster. Its parts take longer to build than this may take.
fn cluster(context: &Context, suite: &mut Suite, limit: Duration) {
    const NAME: &str = "stories in a cluster";
    let seconds = limit.as_secs().to_string();
    let obstacle = if limit < SHORT {
        Some(format!("the parts before took so long that {seconds} s are left"))
    } else if !process::succeeds(context.command("tests/cluster/run").arg("--cached")) {
        Some("the parts are not in the cache, run tests/cluster/run --build".to_owned())
    } else {
        None
    };
    if let Some(obstacle) = obstacle {
        process::print_line(format!("== {NAME}"));
        process::print_line(format!("not run: {obstacle}"));
        return;
    }
    suite.count_output(NAME, |text| {
        let mut run = context.command("timeout");
        run.args(["-k", "30", &seconds]).arg(context.top.join("tests/cluster/run")).arg("--quick");
        let mut spoke = Instant::now();
        let status = process::each_line(run, |line| {
            process::print(line);
            text.push_str(line);
            spoke = Instant::now();
        })?;
        let ended = ended_in_time(status.code(), text).filter(|_| spoke.elapsed() < SILENCE);
        let Some(ended) = ended else { return Ok(status.success()) };
        process::print_line(format!(
            "the {seconds} s of the stories are over on this host; those that are not listed as ok were not run to their end"
        ));
        text.push_str(&format!("\n{ended}\n"));
        Ok(true)
    });
}

/// Returns the counts of the stories that had ended when the limit was reached, if one had and none had failed.
fn ended_in_time(code: Option<i32>, text: &str) -> Option<Counts> {
    let began = |word: &str| text.lines().filter(|line| line.starts_with(word)).count();
    let (passed, failed) = (began("ok "), began("FAILED "));
    let is_slow = code == Some(TIMED_OUT) && passed > 0 && failed == 0;
    is_slow.then_some(Counts { passed: passed.try_into().ok()?, failed: 0 })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stories_that_a_limit_cuts_off_have_not_failed() {
        let one = "ok scheduled 6:06\n 6:10 replaced: the plugin's pod is replaced\n";
        let counts = |code, text: &str| ended_in_time(Some(code), text).map(|counts| counts.passed);
        assert_eq!(counts(TIMED_OUT, one), Some(1));
        assert_eq!(counts(TIMED_OUT, " 0:36 the node is up\n"), None, "none has ended");
        assert_eq!(counts(TIMED_OUT, &format!("{one}FAILED replaced 9:00\n")), None);
        assert_eq!(counts(1, one), None);
        assert_eq!(ended_in_time(None, one).map(|counts| counts.passed), None, "killed by a signal");
    }
}
