//! Checks what the plugin publishes for DRA with the code of the API server and the scheduler, in three versions of Kubernetes.

use super::go::is_formatted;
use super::kubelet_build::{go_in, vet};
use crate::artifacts::SIM_NODE;
use crate::context::Context;
use crate::scratch::Scratch;
use crate::suite::Suite;
use crate::{Result, process};

/// The second numbers of the versions of Kubernetes, with Go's flags for each. 1.34 is the oldest with the API; taints and counters
/// are on from 1.36.
const VERSIONS: [(&str, &[&str]); 3] =
    [("37", &[]), ("36", &["-modfile=v1.36.mod"]), ("34", &["-modfile=v1.34.mod", "-tags=older"])];

/// The Go module.
const HERE: &str = "tests/dra/allocator";

/// Runs the suite.
///
/// # Errors
///
/// Fails if Go is missing or the programs do not build.
pub fn allocator(context: &mut Context, _: &[String]) -> Result<bool> {
    context.need_go()?;
    context.programs(&["vfio-device-plugin", "vfio-sim-node"])?;
    context.simulated_node()?;
    let gofmt = context.gofmt()?;
    let work = Scratch::new()?;
    let mut suite = Suite::new();
    suite.check("format", |log| is_formatted(context, &gofmt, &context.top.join(HERE), log));
    for (minor, flags) in VERSIONS {
        let program = context.target.join(format!("dra/allocator-1.{minor}"));
        suite.count_made(&format!("allocator of Kubernetes 1.{minor}"), || {
            // Go links the program again only if a source has changed.
            process::run(
                go_in(context, HERE, &["build", "-ldflags=-s"]).args(flags).arg("-o").arg(&program),
            )?;
            let mut tests = context.command(&program);
            tests.arg(context.debug("vfio-device-plugin"));
            tests.arg(context.get(SIM_NODE).ok_or("the simulated node is not built")?).arg(minor);
            Ok(tests)
        });
        suite.check(&format!("vet, Kubernetes 1.{minor}"), |_| vet(context, HERE, &work, flags, "."));
    }
    Ok(suite.end())
}
