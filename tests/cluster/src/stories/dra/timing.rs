//! What the stories measure: how long after an event the API server has stored something, or the kubelet has registered the driver.

use std::time::{Duration, Instant};

use super::watch::{Moment, Watch};
use crate::{Cluster, Result};

/// The time for a change to be stored, or a part to start again.
pub(super) const LIMIT: Duration = Duration::from_secs(600);
/// The logs of the driver's containers on the node.
const LOGS: &str = "/var/log/pods/kube-system_vfio-device-plugin-*/vfio-device-plugin/*.log";

/// A moment on the clocks of this host and of the node. What is measured from it is too long by a command over ssh at most.
#[derive(Clone, Copy, Debug)]
pub(super) struct Event {
    host: Instant,
    node: f64,
}

impl Event {
    /// Returns the present moment.
    ///
    /// # Errors
    ///
    /// Fails if the node does not answer.
    pub(super) fn now(cluster: &Cluster) -> Result<Self> {
        let host = Instant::now();
        let node = cluster.node().run("date +%s.%N")?.trim().parse()?;
        Ok(Self { host, node })
    }

    /// Returns how long after the event the kubelet first registered the driver, by the driver's log.
    ///
    /// # Errors
    ///
    /// Fails if the node does not answer, or there is no log.
    pub(super) fn registered(&self, cluster: &Cluster) -> Result<Option<Duration>> {
        self.said(cluster, "registered the DRA driver")
    }

    /// Returns how long after the event the driver first logged a message, in JSON.
    fn said(&self, cluster: &Cluster, message: &str) -> Result<Option<Duration>> {
        let find = format!(r#"sed -n 's/.*"timestamp":"\([^"]*\)".*"message":"{message}".*/\1/p' {LOGS}"#);
        let times = cluster.node().run(&format!("{find} | sort | xargs -r -I TIME date -d TIME +%s.%N"))?;
        first_after(self.node, &times)
    }

    /// Prints when the driver started and the kubelet registered it again, and how long the slices were gone.
    ///
    /// # Errors
    ///
    /// As `registered`.
    pub(super) fn report(&self, cluster: &Cluster, slices: &Watch) -> Result {
        let Some(registered) = self.registered(cluster)? else {
            return Err("the kubelet did not register the driver again".into());
        };
        let started = self.said(cluster, "serving")?;
        let started =
            started.map_or_else(String::new, |time| format!("the driver started after {time:.1?}, "));
        cluster.step(&format!("    {started}the kubelet registered it after {registered:.1?}"));
        for (gone, back) in absences(&slices.moments(self.host), self.host) {
            let relation = match back.checked_sub(registered) {
                Some(time) => format!("{time:.1?} after the registration"),
                None => format!("{:.1?} before the registration", registered.saturating_sub(back)),
            };
            cluster.step(&format!(
                "    the slices were gone after {gone:.1?} and back after {back:.1?}, {relation}"
            ));
        }
        Ok(())
    }
}

/// Returns the first of the times, one a line, that is after an event.
fn first_after(event: f64, lines: &str) -> Result<Option<Duration>> {
    for line in lines.lines() {
        let time: f64 = line.trim().parse().map_err(|_| format!("{line:?} is no time"))?;
        if time > event {
            return Ok(Some(Duration::from_secs_f64(time - event)));
        }
    }
    Ok(None)
}

/// Returns each absence of all devices since an event that has ended: the times after the event at which it began and ended.
fn absences(moments: &[Moment], event: Instant) -> Vec<(Duration, Duration)> {
    let mut found = Vec::new();
    let mut gone = None;
    for moment in moments.iter().filter(|moment| moment.time >= event) {
        let time = moment.time.duration_since(event);
        if moment.devices.is_empty() {
            gone.get_or_insert(time);
        } else if let Some(gone) = gone.take() {
            found.push((gone, time));
        }
    }
    found
}

/// Returns when a device first had a taint, or none, after a moment.
pub(super) fn tainted(slices: &Watch, device: &str, since: Instant, has_taint: bool) -> Option<Instant> {
    let moments = slices.moments(since);
    let is = |taint: &Option<String>| taint.is_some() == has_taint;
    let found =
        moments.iter().find(|moment| moment.time >= since && moment.devices.get(device).is_some_and(is))?;
    Some(found.time)
}

/// Waits until a device has a taint, or none, and returns when that was stored. This reads the watch only: a check on the
/// emulated node would delay the driver.
///
/// # Errors
///
/// Fails at the deadline.
pub(super) fn wait_tainted(
    cluster: &Cluster,
    slices: &Watch,
    device: &str,
    since: Instant,
    has_taint: bool,
) -> Result<Instant> {
    let what = format!("{device} {} a taint", if has_taint { "has" } else { "is without" });
    cluster.wait(&what, LIMIT, |_| Ok(tainted(slices, device, since, has_taint)))
}

/// Returns how long a command over ssh takes that does nothing. A time that is measured from a command on includes this.
///
/// # Errors
///
/// Fails if the node does not answer.
pub(super) fn ssh(cluster: &Cluster) -> Result<Duration> {
    let start = Instant::now();
    cluster.node().run("true")?;
    Ok(start.elapsed())
}

/// Describes how long after a moment something was.
pub(super) fn after(start: Instant, time: impl Into<Option<Instant>>) -> String {
    time.into().map_or_else(
        || "at an unknown time".into(),
        |time| format!("after {:.1?}", time.saturating_duration_since(start)),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_time_after_the_event_counts() {
        let times = "100.250000000\n104.750000000\n110.0\n";
        assert_eq!(first_after(100.25, times).unwrap(), Some(Duration::from_millis(4_500)));
        assert_eq!(first_after(110.0, times).unwrap(), None);
        assert!(first_after(0.0, "date: invalid date").is_err());
    }

    #[test]
    fn absence_lasts_from_no_device_to_the_first_one() {
        let start = Instant::now();
        let at = |seconds: u64, devices: &[&str]| Moment {
            time: start + Duration::from_secs(seconds),
            devices: devices.iter().map(|name| ((*name).to_owned(), None)).collect(),
        };
        let moments = [at(0, &[]), at(2, &["a"]), at(3, &[]), at(4, &[]), at(9, &["a"]), at(10, &[])];
        let seconds = Duration::from_secs;
        let event = start + seconds(1);
        assert_eq!(absences(&moments, event), [(seconds(2), seconds(8))]);
    }
}
