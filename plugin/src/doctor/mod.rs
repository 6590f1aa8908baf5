//! `doctor`: what is wrong with this node, in plain words, and what to do.

mod device;
mod finding;
mod hardware;
mod host;
mod kubelet;
mod serving;
mod specs;

use crate::list::{ANSWER, beside, look};
use crate::settings::Settings;
use crate::status;
use finding::Findings;
use std::sync::Arc;
use vfio_probe::Root;

/// Runs the command: 0 fine, 1 warnings, 2 broken.
pub(crate) fn run(settings: &Settings, json: bool, probe: bool) -> anyhow::Result<u8> {
    let findings = examine(settings, probe)?;
    if json {
        println!("{}", findings.json());
    } else {
        print!("{}", findings.text());
    }
    Ok(findings.worst() as u8)
}

/// From the host outwards: whoever reads it mends the first thing first.
fn examine(settings: &Settings, probe: bool) -> anyhow::Result<Findings> {
    let mut findings = Findings::default();
    if let Some(mistake) = &settings.not_understood {
        let advice =
            "Mend it: the running serve goes on with what it has read before, but would not start again.";
        findings.broken(settings.pools_file(), format!("is not understood: {mistake}"), advice);
    }
    let root = Arc::new(Root::open(&settings.root)?);
    let mut unreadable = Vec::new();
    let views = look(settings, probe, |error| unreadable.push(error))?;
    let serving = status::fetch(&settings.run_dir, ANSWER);
    host::examine(settings, &root, &views, &unreadable, &mut findings);
    let mut kubelet = Findings::default();
    let told = serving.as_ref().map(|report| report.devices.as_slice()).unwrap_or_default();
    let owners = kubelet::examine(settings, told, &mut kubelet)?;
    for view in &views {
        // With what a look alone cannot know: a count that is left over, a holder without a device.
        device::examine(settings, view, &beside(view, told), &owners, &mut findings);
        hardware::examine(settings, &root, view, &owners, &mut findings);
    }
    findings.extend(kubelet);
    specs::examine(settings, &views, told, &mut findings);
    serving::examine(settings, &serving, &views, &mut findings);
    Ok(findings)
}
