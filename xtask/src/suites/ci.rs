//! Runs everything on a clean clone: `./verify`, then the VM's tests on a kernel with IOMMUFD and mediated devices, which Debian's
//! kernel lacks, and a few stories in a cluster if its parts are in the cache.

use std::path::{Path, PathBuf};

use crate::context::Context;
use crate::suite::Suite;
use crate::{Result, disk, process};

/// The limit of the stories in a cluster, in seconds.
const CLUSTER: &str = "900";

/// The space in GB that a run from nothing takes, with a reserve. With less, what earlier runs have left is removed first.
const ROOM: u64 = 40;

/// Runs all parts.
///
/// # Errors
///
/// Fails if the current directory is unknown.
pub fn ci(context: &mut Context, _: &[String]) -> Result<bool> {
    let mut suite = Suite::new();
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
    cluster(context, &mut suite);
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
fn cluster(context: &Context, suite: &mut Suite) {
    if process::succeeds(context.command("tests/cluster/run").arg("--cached")) {
        let mut run = context.command("timeout");
        run.args(["-k", "30", CLUSTER]).arg(context.top.join("tests/cluster/run")).arg("--quick");
        suite.count("stories in a cluster", run);
    } else {
        process::print_line("== stories in a cluster");
        process::print_line("not run: the parts are not in the cache, run tests/cluster/run --build");
    }
}
