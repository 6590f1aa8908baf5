//! The plugin in a whole Kubernetes cluster of one node: builds and runs the crate in tests/cluster.

use std::os::unix::process::CommandExt;

use crate::context::Context;
use crate::log::ensure;
use crate::{Result, process};

/// Becomes the program that runs the stories with these names, or all of them. A signal to this process then reaches it.
///
/// # Errors
///
/// Fails if the program does not build or start.
pub fn cluster(context: &mut Context, arguments: &[String]) -> Result<bool> {
    context.programs(&["vfio-cluster-test"])?;
    let program = context.debug("vfio-cluster-test");
    let error = context.command(&program).args(arguments).exec();
    Err(format!("cannot run {}: {error}", program.display()).into())
}

/// Checks the Go code of the cluster's parts with gofmt, and that of the tests' own programs with vet and their tests.
///
/// # Errors
///
/// Fails with what gofmt, vet or a test reports.
pub fn cluster_lint(context: &mut Context, _: &[String]) -> Result<bool> {
    context.need_go()?;
    let parts = context.top.join("tests/cluster/parts");
    let mut gofmt = context.command(context.gofmt()?);
    let unformatted = process::output(gofmt.arg("-l").arg(&parts))?;
    ensure(unformatted.is_empty(), &format!("gofmt would change: {unformatted}"))?;
    for verb in ["vet", "test"] {
        let mut go = context.command("go");
        go.current_dir(parts.join("tools")).env("CGO_ENABLED", "0").env("GOFLAGS", "-mod=readonly -trimpath");
        process::run(go.args([verb, "./..."]))?;
    }
    Ok(true)
}
