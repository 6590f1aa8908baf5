//! `watch`: what changes, as it changes.

use crate::config::Config;
use crate::status::report::HolderReport;
use anyhow::Context;
use rustix::event::{PollFd, PollFlags, poll};
use serde::Serialize;
use std::io::Write;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use vfio_plugin_policy::holders::describe;
use vfio_probe::monitor::{Monitor, Options};
use vfio_probe::{Event, GroupId, Prober, Root, Watch};

#[derive(Serialize)]
struct Line {
    /// Seconds after 1970, with milliseconds.
    time: f64,
    event: &'static str,
    device: Option<String>,
    group: Option<u32>,
    holders: Vec<HolderReport>,
}

/// Runs the command until its output is closed or a signal ends it. Opens no group: it only looks.
pub(crate) fn run(config: &Config, json: bool) -> anyhow::Result<u8> {
    let root = Arc::new(Root::open(&config.root)?);
    let prober = Arc::new(Prober::new(Arc::clone(&root)));
    let options = Options { interval: config.interval, probe: false, ..Options::default() };
    let mut watch = Watch::new(Monitor::new(root, prober, options)?, Default::default())?;
    loop {
        while let Some(event) = watch.next() {
            let line = line(&watch, event);
            let text = if json { serde_json::to_string(&line)? } else { plain(&watch, event) };
            let mut out = std::io::stdout().lock();
            // A reader that has gone is the ordinary end.
            if writeln!(out, "{text}").and_then(|()| out.flush()).is_err() {
                return Ok(0);
            }
        }
        if let Some(error) = watch.failure() {
            return Err(error).context("cannot list bound devices");
        }
        let fd = watch.fd();
        match poll(&mut [PollFd::new(&fd, PollFlags::IN)], None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno).context("poll"),
        }
    }
}

/// The devices of a group, for people who know addresses and not groups.
fn members(watch: &Watch, group: GroupId) -> String {
    let devices = watch.monitor().devices().iter().filter(|tracked| tracked.device.group == Some(group));
    devices.map(|tracked| tracked.device.id.to_string()).collect::<Vec<_>>().join(",")
}

fn line(watch: &Watch, event: Event) -> Line {
    let group = event.group();
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Line {
        time: (time.as_secs_f64() * 1000.0).round() / 1000.0,
        event: event.as_str(),
        device: event.device().map(|id| id.to_string()).or_else(|| group.map(|group| members(watch, group))),
        group: group.map(|group| group.0),
        holders: group.map(|group| watch.holders(group).iter().map(Into::into).collect()).unwrap_or_default(),
    }
}

fn plain(watch: &Watch, event: Event) -> String {
    let word = event.as_str();
    match (event.device(), event.group()) {
        (Some(device), _) => format!("{word:<8} {device}"),
        (None, Some(group)) => {
            let holders = watch.holders(group);
            let by = if word == "held" { format!(" by {}", describe(holders)) } else { String::new() };
            format!("{word:<8} group {group} ({}){by}", members(watch, group))
        }
        (None, None) => word.to_owned(),
    }
}
