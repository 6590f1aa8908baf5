//! Runs everything on a clean clone: `./verify`, then the VM's tests on a kernel with IOMMUFD and mediated devices, which Debian's
//! kernel lacks, and a few stories in a cluster if its parts are in the cache.

use std::path::PathBuf;

use crate::context::Context;
use crate::suite::Suite;
use crate::{Result, process};

/// The limit of the stories in a cluster, in seconds.
const CLUSTER: &str = "900";

/// Runs all parts.
///
/// # Errors
///
/// Fails if the current directory is unknown.
pub fn ci(context: &mut Context, _: &[String]) -> Result<bool> {
    let mut suite = Suite::new();
    // A test that cannot run fails, also without root.
    context.set("CI", "true");
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
