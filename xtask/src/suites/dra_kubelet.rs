//! The DRA driver with the kubelet's own DRA manager and a real API server.

use std::path::{Path, PathBuf};

use super::go::is_formatted;
use super::kubelet_build::go_in;
use crate::artifacts::SIM_NODE;
use crate::context::Context;
use crate::suite::Suite;
use crate::{Result, process};

/// The Go module.
const HERE: &str = "tests/dra/kubelet";

/// Programs of the cluster test (tests/cluster), with the variables that name them to the tests.
const PARTS: [(&str, &str, &str); 2] =
    [("etcd-", "etcd", "VFIO_TEST_ETCD"), ("kubernetes-", "kube-apiserver", "VFIO_TEST_APISERVER")];

/// Runs the tests: the arguments are those of a Go test program, such as `-test.run NAME`.
///
/// # Errors
///
/// Fails if Go is missing, if nothing builds, or if the cluster test has not built the API server.
pub fn run(context: &mut Context, arguments: &[String]) -> Result<bool> {
    context.need_go()?;
    for (prefix, program, variable) in PARTS {
        let path = match context.get(variable) {
            Some(path) => PathBuf::from(path),
            None => part(&context.cache.join("cluster"), prefix, program)?,
        };
        context.set(variable, path);
    }
    context.simulated_node()?;
    let program = context.target.join("dra/kubelet.test");
    let gofmt = context.gofmt()?;
    let mut suite = Suite::new();
    suite.check("format", |log| is_formatted(context, &gofmt, &context.top.join(HERE), log));
    let is_built = suite.check("build", |log| {
        log.run(&mut context.cargo(&["build", "-p", "vfio-device-plugin"]))?;
        log.run(go_in(context, HERE, &["test", "-c", "-o"]).arg(&program).arg("."))
    });
    if !is_built {
        return Ok(suite.end());
    }
    context.set("VFIO_TEST_PLUGIN", context.debug("vfio-device-plugin"));
    let node = context.get(SIM_NODE).ok_or("the simulated node is not built")?;
    context.set("VFIO_TEST_SIM_NODE", node);
    let mut tests = context.command(&program);
    tests.current_dir(context.top.join(HERE)).args(["-test.v", "-test.timeout=20m"]).args(arguments);
    suite.count_output("the driver with the kubelet and an API server", |output| {
        let ended = process::each_line(tests, |line| {
            process::print(line);
            output.push_str(line);
        })?;
        Ok(ended.success())
    });
    Ok(suite.end())
}

/// Returns the newest build of a part of the cluster test.
fn part(cache: &Path, prefix: &str, program: &str) -> Result<PathBuf> {
    let is_part = |path: &PathBuf| process::file_name(path).starts_with(prefix);
    let mut built: Vec<PathBuf> =
        process::entries(cache).into_iter().filter(is_part).map(|path| path.join(program)).collect();
    built.retain(|path| path.exists());
    built.sort_by_key(|path| path.metadata().and_then(|data| data.modified()).ok());
    built
        .pop()
        .ok_or_else(|| format!("no {program} in {}: run tests/cluster/run first", cache.display()).into())
}
