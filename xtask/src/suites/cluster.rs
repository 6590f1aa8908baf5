//! The plugin in a whole Kubernetes cluster of one node: builds and runs the crate in tests/cluster.

use std::os::unix::process::CommandExt;

use crate::Result;
use crate::context::Context;

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
