//! Checks the alerts and the dashboard: their own tests, and every query on a real Prometheus that scrapes the plugin.

use std::path::PathBuf;

use crate::context::Context;
use crate::suite::Suite;
use crate::{Result, process};

/// Debian's package of prometheus and promtool.
const PACKAGE: &str = "prometheus";

/// Runs the suite.
///
/// # Errors
///
/// Fails if Prometheus cannot be had or the plugin does not build.
pub fn monitoring(context: &mut Context, _: &[String]) -> Result<bool> {
    let programs = programs(context)?;
    let promtool = programs.join("promtool");
    context.programs(&["monitoring", "vfio-device-plugin"])?;
    let here = context.top.join("deploy/monitoring");
    let run = |words: &[&str]| {
        let mut promtool = context.command(&promtool);
        promtool.current_dir(&here).args(words);
        promtool
    };
    let mut suite = Suite::new();
    suite.check("promtool check rules alerts.yaml", |log| {
        log.run(&mut run(&["check", "rules", "alerts.yaml"]))
    });
    suite.check("promtool test rules alerts_test.yaml", |log| {
        log.run(&mut run(&["test", "rules", "alerts_test.yaml"]))
    });
    let mut queries = context.command(context.debug("monitoring"));
    queries.arg("--plugin").arg(context.debug("vfio-device-plugin"));
    queries.arg("--prometheus").arg(&programs).arg("--repository").arg(&context.top);
    suite.count("queries on a Prometheus that scrapes the plugin", queries);
    Ok(suite.end())
}

/// Returns the directory of the two programs: that of an installed Prometheus, or of the unpacked package in the cache. The package
/// is not installed, because Debian would start its service.
fn programs(context: &Context) -> Result<PathBuf> {
    if let Some(directory) = context.find("promtool").as_deref().and_then(std::path::Path::parent)
        && directory.join(PACKAGE).is_file()
    {
        return Ok(directory.into());
    }
    let directory = context.cache.join(PACKAGE);
    if !directory.is_dir() {
        process::make_directory(&context.cache)?;
        context.update_apt();
        context.unpack_package(PACKAGE, &directory)?;
    }
    Ok(directory.join("usr/bin"))
}
