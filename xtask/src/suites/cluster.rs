//! The plugin in a whole Kubernetes cluster of one node: builds and runs the crate in tests/cluster.

use crate::context::Context;
use crate::{Result, process};

/// Runs the stories with these names, or all of them.
///
/// # Errors
///
/// Fails if the program does not build or start.
pub fn cluster(context: &mut Context, arguments: &[String]) -> Result<bool> {
    context.programs(&["vfio-cluster-test"])?;
    let mut run = context.command(context.debug("vfio-cluster-test"));
    let status = run.args(arguments).status().map_err(process::cannot_start(&run))?;
    Ok(status.success())
}
