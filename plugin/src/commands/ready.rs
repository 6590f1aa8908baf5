//! `ready`: whether a running `serve` does its work, for exec probes.

use crate::commands::stderr;
use crate::config::Config;
use crate::device_plugin::sockets;
use crate::files::names;
use crate::status::client;
use crate::status::client::ANSWER_TIMEOUT;
use crate::status::readiness::Readiness;
use crate::status::report::StatusReport;
use std::path::Path;

/// Runs the command and returns the exit code: 0 yes, 1 no.
pub(crate) fn run(config: &Config, live: bool) -> u8 {
    let word = if live { "not live" } else { "not ready" };
    let reasons = match report(&config.run_dir).map(|report| Readiness::from(&report)) {
        Ok(state) if live => state.silent(config.interval).into_iter().collect(),
        Ok(state) => state.unready(config.interval),
        Err(error) => vec![format!("{error:#}")],
    };
    for reason in &reasons {
        stderr::print(format_args!("{word}: {reason}"));
    }
    u8::from(!reasons.is_empty())
}

/// Returns the report of the process in this container. During an upgrade, the `serve` of another pod has the same run directory.
///
/// Outside of a container, or if it has several processes of `serve`, the active one answers.
fn report(run_dir: &Path) -> anyhow::Result<StatusReport> {
    let mut own = names(run_dir).into_iter().filter(|name| sockets::is_ours(name)).filter_map(|name| {
        let path = run_dir.join(name);
        client::is_of_this_container(&path).then_some(path)
    });
    match (own.next(), own.next()) {
        (Some(path), None) => client::fetch_from(&path, ANSWER_TIMEOUT),
        _ => client::fetch(run_dir, ANSWER_TIMEOUT),
    }
}
