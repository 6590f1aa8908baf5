//! `ready`: whether a running `serve` does its work, for exec probes.

use crate::commands::stderr;
use crate::config::Config;
use crate::status::client;
use crate::status::client::ANSWER_TIMEOUT;
use crate::status::readiness::Readiness;

/// Runs the command and returns the exit code: 0 yes, 1 no.
pub(crate) fn run(config: &Config, live: bool) -> u8 {
    let word = if live { "not live" } else { "not ready" };
    let reasons = match client::fetch(&config.run_dir, ANSWER_TIMEOUT).map(|report| Readiness::from(&report))
    {
        Ok(state) if live => state.silent(config.interval).into_iter().collect(),
        Ok(state) => state.unready(config.interval),
        Err(error) => vec![format!("{error:#}")],
    };
    for reason in &reasons {
        stderr::print(format_args!("{word}: {reason}"));
    }
    u8::from(!reasons.is_empty())
}
