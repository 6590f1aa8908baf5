//! Runs everything on a clean clone: `./verify`, then the VM's tests on a kernel with IOMMUFD and mediated devices, which Debian's
//! kernel lacks.

use std::path::PathBuf;

use crate::context::Context;
use crate::suite::Suite;
use crate::{Result, process};

/// Runs both parts.
///
/// # Errors
///
/// Fails if the current directory is unknown.
pub fn ci(context: &mut Context, _: &[String]) -> Result<bool> {
    let mut suite = Suite::new();
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
    Ok(suite.end())
}
