//! `watch`: prints the changes of all devices that are bound to VFIO, as they happen.

use crate::commands::escape::escaped;
use crate::commands::stdout;
use crate::commands::stdout::Reader;
use crate::commands::terminal::{columns, shortened};
use crate::config::Config;
use crate::status::report::HolderReport;
use anyhow::Context;
use rustix::event::{PollFd, PollFlags, poll};
use serde::Serialize;
use std::time::{SystemTime, UNIX_EPOCH};
use vfio_plugin_policy::holders::describe;
use vfio_probe::watch::Options;
use vfio_probe::{Event, GroupId, Root, Watch};

/// One event, as a line of `watch --json`.
#[derive(Serialize)]
struct EventReport {
    /// Seconds since 1970, with milliseconds.
    time: f64,
    /// `bound`, `unbound`, `held`, `freed`, `changed`, `rescan` or `ready`.
    event: &'static str,
    /// The device; for an event of a group, its devices separated by commas.
    device: Option<String>,
    /// The group of `held`, `freed` and `changed`.
    group: Option<u32>,
    /// The group's holders that were found.
    holders: Vec<HolderReport>,
}

/// Runs the command until its reader closes the pipe, or a signal ends the process. Returns the exit code 0.
/// Opens no device node. Unless `wide`, a line is as wide as the terminal is when it is printed.
///
/// # Errors
/// The root cannot be opened, the bound devices cannot be listed, or standard output cannot be written.
pub(crate) fn run(config: &Config, json: bool, wide: bool) -> anyhow::Result<u8> {
    let options = Options::default().with_interval(config.interval);
    let mut watch = Watch::open(&Root::open(&config.root)?, options)?;
    loop {
        while let Some(event) = watch.next() {
            let event = event.context("cannot list the bound devices")?;
            let line = match json {
                true => serde_json::to_string(&report(&watch, event))?,
                false => {
                    let columns = if wide { None } else { columns() };
                    shortened(&escaped(&text(&watch, event)), columns).into_owned()
                }
            };
            if stdout::print_part(&(line + "\n"))? == Reader::Gone {
                return Ok(0);
            }
        }
        let (changes, out) = (watch.fd(), std::io::stdout());
        // Without requested events, poll reports only that the reader of a pipe or socket has closed it.
        let mut fds = [PollFd::new(&changes, PollFlags::IN), PollFd::new(&out, PollFlags::empty())];
        match poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(errno) => return Err(errno).context("cannot wait for changes"),
        }
        let [_, out] = fds;
        if out.revents().intersects(PollFlags::ERR | PollFlags::HUP) {
            return Ok(0);
        }
    }
}

/// Returns the ids of a group's devices, separated by commas: people know addresses, not groups.
fn devices_of(watch: &Watch, group: GroupId) -> String {
    let devices = watch.monitor().devices().iter().filter(|tracked| tracked.device.group == Some(group));
    devices.map(|tracked| tracked.device.id.to_string()).collect::<Vec<_>>().join(",")
}

/// Returns an event for `--json`.
fn report(watch: &Watch, event: Event) -> EventReport {
    let group = event.group();
    let device = event.device().map(|id| id.to_string());
    let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    EventReport {
        time: (time.as_secs_f64() * 1000.0).round() / 1000.0,
        event: event.as_str(),
        device: device.or_else(|| group.map(|group| devices_of(watch, group))),
        group: group.map(|group| group.0),
        holders: group.map(|group| watch.holders(group).iter().map(Into::into).collect()).unwrap_or_default(),
    }
}

/// Returns an event as a line of text.
fn text(watch: &Watch, event: Event) -> String {
    let word = event.as_str();
    match (event.device(), event.group()) {
        (Some(device), _) => format!("{word:<8} {device}"),
        (None, Some(group)) => {
            let holders = watch.holders(group);
            let by = match event {
                Event::Held(_) => format!(" by {}", describe(holders)),
                _ => String::new(),
            };
            format!("{word:<8} group {group} ({}){by}", devices_of(watch, group))
        }
        // Distinguishes what was found at the start from what changed since.
        (None, None) if event == Event::Ready => format!("{word:<8} the lines above are the present state"),
        (None, None) => word.to_owned(),
    }
}
