//! `doctor`: what is wrong with this node, in plain words, and what to do.

mod device;
mod finding;
mod hardware;
mod host;
mod kubelet;
mod serving;
mod specs;

use crate::commands::list::combined;
use crate::commands::offered::look;
use crate::config::Config;
use crate::status::client;
use crate::status::client::ANSWER;
use finding::Findings;
use std::sync::Arc;
use vfio_probe::Root;

/// Runs the command: 0 fine, 1 warnings, 2 broken.
pub(crate) fn run(config: &Config, json: bool, probe: bool) -> anyhow::Result<u8> {
    let findings = examine(config, probe)?;
    if json {
        println!("{}", findings.json());
    } else {
        print!("{}", findings.text());
    }
    Ok(findings.worst() as u8)
}

/// From the host outwards: whoever reads it mends the first thing first.
fn examine(config: &Config, probe: bool) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    if let Some(mistake) = &config.not_understood {
        let advice =
            "Mend it: the running serve goes on with what it has read before, but would not start again.";
        findings.broken(config.pools_file(), format!("is not understood: {mistake}"), advice);
    }
    let root = Arc::new(Root::open(&config.root)?);
    let mut unreadable = Vec::new();
    let views = look(config, probe, |error| unreadable.push(error))?;
    let serving = client::fetch(&config.run_dir, ANSWER);
    host::examine(config, &root, &views, &unreadable, &mut findings);
    let mut kubelet = Findings::default();
    let told = serving.as_ref().map(|report| report.devices.as_slice()).unwrap_or_default();
    let owners = kubelet::examine(config, told, &mut kubelet)?;
    for view in &views {
        // With what a look alone cannot know: a count that is left over, a holder without a device.
        device::examine(config, view, &combined(view, told), &owners, &mut findings);
        hardware::examine(config, &root, view, &owners, &mut findings);
    }
    findings.extend(kubelet);
    specs::examine(config, &views, told, &mut findings);
    serving::examine(config, &serving, &views, &mut findings);
    Ok(findings)
}
