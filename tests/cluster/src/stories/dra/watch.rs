//! Records each change of a kind of objects, with the time at which it arrives, so that a state between two steps is not missed.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use serde_json::Value;

use super::view::{DRIVER, Published, devices_of};
use crate::{Cluster, Result};

/// The pause before the watch is opened again, when the API server is away.
const AGAIN: Duration = Duration::from_millis(200);

/// The changes of one kind. The recording ends when this is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Shared {
    changes: Mutex<Vec<Change>>,
    running: Mutex<Option<Child>>,
    stop: AtomicBool,
}

/// An event of the API server. None: the watch began again, and all objects follow.
#[derive(Clone, Debug)]
struct Change {
    time: Instant,
    event: Option<Value>,
}

/// The devices in slices from a moment on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Moment {
    pub(super) time: Instant,
    pub(super) devices: Published,
}

impl Watch {
    /// Starts the recording of a kind, with the objects that exist.
    pub(super) fn start(cluster: &Cluster, kind: &'static str) -> Self {
        let shared = Arc::new(Shared::default());
        let mut command = cluster.kubectl_command();
        command.args(["get", kind, "--all-namespaces", "--watch", "--output-watch-events", "-o", "json"]);
        command.arg("--request-timeout=0").stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
        let recorded = Arc::clone(&shared);
        let thread = thread::spawn(move || {
            while !recorded.stop.load(Ordering::SeqCst) {
                record(&mut command, &recorded);
                thread::sleep(AGAIN);
            }
        });
        Self { shared, thread: Some(thread) }
    }

    fn changes(&self) -> Vec<Change> {
        self.shared.changes.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Returns when an object of this name first fulfilled a condition.
    pub(super) fn first(&self, name: &str, mut is: impl FnMut(&Value) -> bool) -> Option<Instant> {
        let is_it = |event: &Value| event["object"]["metadata"]["name"] == name && is(&event["object"]);
        let mut is_it = is_it;
        let found =
            self.changes().into_iter().find(|change| change.event.as_ref().is_some_and(&mut is_it))?;
        Some(found.time)
    }

    /// Returns the devices in slices after each change since a moment, and at that moment.
    pub(super) fn moments(&self, since: Instant) -> Vec<Moment> {
        moments(&self.changes(), since)
    }

    /// Fails if a device was in a slice without a taint since a moment.
    ///
    /// # Errors
    ///
    /// Fails with the time of it.
    pub(super) fn expect_withheld(&self, device: &str, since: Instant) -> Result {
        let offered =
            self.moments(since).into_iter().find(|moment| moment.devices.get(device) == Some(&None));
        match offered {
            Some(moment) => {
                let time = moment.time.saturating_duration_since(since);
                Err(format!("{device} was in a slice without a taint after {time:.1?}").into())
            }
            None => Ok(()),
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::SeqCst);
        if let Some(child) = self.shared.running.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            let _ = child.kill();
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Runs the watch until it ends.
fn record(command: &mut Command, shared: &Shared) {
    let Ok(mut child) = command.spawn() else { return };
    let output = child.stdout.take();
    *shared.running.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
    let push = |event: Option<Value>| {
        let change = Change { time: Instant::now(), event };
        shared.changes.lock().unwrap_or_else(PoisonError::into_inner).push(change);
    };
    let is_stopped = || shared.stop.load(Ordering::SeqCst);
    if let Some(output) = output.filter(|_| !is_stopped()) {
        let mut is_first = true;
        for event in serde_json::Deserializer::from_reader(output).into_iter::<Value>().map_while(Result::ok)
        {
            if std::mem::take(&mut is_first) {
                push(None);
            }
            push(Some(event));
        }
    }
    if let Some(mut child) = shared.running.lock().unwrap_or_else(PoisonError::into_inner).take() {
        let _ = child.kill();
        let _ = child.wait();
    }
}

fn moments(changes: &[Change], since: Instant) -> Vec<Moment> {
    let mut slices: BTreeMap<String, Published> = BTreeMap::new();
    let mut found: Vec<Moment> = Vec::new();
    for (index, Change { time, event }) in changes.iter().enumerate() {
        let Some(event) = event else {
            slices.clear();
            continue;
        };
        let object = &event["object"];
        let name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
        if object["spec"]["driver"] != DRIVER {
            continue;
        }
        if event["type"] == "DELETED" {
            slices.remove(&name);
        } else {
            slices.insert(name, devices_of(object));
        }
        // Of the changes before the moment, only the last one counts.
        if changes.get(index + 1).is_some_and(|next| next.time <= since) {
            continue;
        }
        found.push(Moment {
            time: *time,
            devices: slices.values().flatten().map(|(a, b)| (a.clone(), b.clone())).collect(),
        });
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn slices_follow_the_events_and_a_new_watch_starts_empty() {
        let start = Instant::now();
        let at =
            |seconds: u64, event: Option<Value>| Change { time: start + Duration::from_secs(seconds), event };
        let event = |kind: &str, name: &str, device: &str| {
            json!({"type": kind, "object": {
                "metadata": {"name": name}, "spec": {"driver": DRIVER, "devices": [{"name": device}]}}})
        };
        let changes = [
            at(0, None),
            at(0, Some(event("ADDED", "a", "one"))),
            at(1, Some(event("ADDED", "b", "two"))),
            at(3, Some(event("DELETED", "a", "one"))),
            at(4, None),
            at(5, Some(event("ADDED", "c", "three"))),
        ];
        let counts = |since: u64| -> Vec<usize> {
            moments(&changes, start + Duration::from_secs(since))
                .iter()
                .map(|moment| moment.devices.len())
                .collect()
        };
        assert_eq!(counts(2), [2, 1, 1]);
        assert_eq!(counts(6), [1]);
        assert_eq!(counts(0), [1, 2, 1, 1]);
    }
}
