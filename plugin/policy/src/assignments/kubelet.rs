//! Identifies the kubelet's process by its socket, and measures how long it has run.
//!
//! A kubelet that has just started knows its static pods only, so its first lists do not show which pods have ended. The
//! socket's modification time is a wall clock time, and a wall clock is stepped: by NTP after a boot, by an administrator, by a
//! restored VM. The age therefore rests on the time since the boot wherever that is known, and errs towards a young kubelet.

use serde::{Deserialize, Serialize};
use std::time::Duration;

/// The identity of kubelet.sock. Another socket means another kubelet process.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct KubeletSocket {
    inode: u64,
    device: u64,
    /// Seconds and nanoseconds after 1970. A socket's file is never written to, so this is the time of its creation; its change
    /// time would also move with its mode.
    modified: (i64, i64),
}

/// Two clocks, read at the same moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Clocks {
    /// The wall clock: time since 1970. It can be stepped.
    pub wall: Duration,
    /// `CLOCK_BOOTTIME`: time since the boot, with the time asleep. It is never stepped.
    pub boot: Duration,
}

/// The first sight of a socket.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct KubeletSighting {
    /// The socket.
    pub socket: KubeletSocket,
    /// When it was first seen.
    pub at: Clocks,
    /// How old it was then.
    pub age: Duration,
}

/// Follows the kubelet's socket. Its state is kept over a restart of the plugin.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct KubeletAge {
    sighting: Option<KubeletSighting>,
    /// Whether this process has checked for the socket before: another one then appeared since.
    #[serde(skip)]
    checked: bool,
}

impl KubeletSocket {
    /// Returns the identity of the socket of this inode on this device. `modified` is in seconds and nanoseconds after 1970.
    pub fn new(device: u64, inode: u64, modified: (i64, i64)) -> Self {
        Self { inode, device, modified }
    }

    /// Returns when the socket was created, by the wall clock of that moment: the time after 1970.
    fn created(&self) -> Duration {
        let (seconds, nanoseconds) = self.modified;
        Duration::from_secs(u64::try_from(seconds).unwrap_or(0))
            + Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(0))
    }
}

impl KubeletAge {
    /// Returns how long the kubelet has run; none while it has no socket. For a socket that was seen before in this boot, only the
    /// time since the boot counts, and steps of the wall clock do not matter.
    pub fn observe(&mut self, socket: Option<KubeletSocket>, now: Clocks) -> Option<Duration> {
        let checked = std::mem::replace(&mut self.checked, true);
        let socket = socket?;
        let same = self.sighting.filter(|sighting| sighting.socket == socket && now.boot >= sighting.at.boot);
        let sighting = same.unwrap_or_else(|| {
            let age = if checked { Duration::ZERO } else { kubelet_age(socket, now, self.sighting) };
            KubeletSighting { socket, at: now, age }
        });
        self.sighting = Some(sighting);
        Some(sighting.age + (now.boot - sighting.at.boot))
    }
}

/// Estimates how long the kubelet had run when its new socket was first seen. `before` is the latest sighting of an earlier
/// process. The age is the least of
///
/// * the time since the socket's creation by the wall clock; zero if that lies in the future,
/// * the same by a wall clock that was not stepped since `before`,
/// * the time since `before`, when there was another socket, and
/// * the time since the boot.
fn kubelet_age(socket: KubeletSocket, now: Clocks, before: Option<KubeletSighting>) -> Duration {
    let age = now.boot.min(now.wall.saturating_sub(socket.created()));
    // A sighting of an earlier boot says nothing about this one's clocks.
    let Some((before, since)) =
        before.and_then(|before| Some((before, now.boot.checked_sub(before.at.boot)?)))
    else {
        return age;
    };
    let unstepped = (before.at.wall + since).saturating_sub(socket.created());
    age.min(since).min(unstepped)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: u64 = 3600;

    fn socket(inode: u64, created: u64) -> KubeletSocket {
        KubeletSocket::new(1, inode, (i64::try_from(created).unwrap(), 0))
    }

    fn clocks(wall: u64, boot: u64) -> Clocks {
        Clocks { wall: Duration::from_secs(wall), boot: Duration::from_secs(boot) }
    }

    fn age(socket: KubeletSocket, now: Clocks, before: Option<KubeletSighting>) -> u64 {
        kubelet_age(socket, now, before).as_secs()
    }

    fn sighting(socket: KubeletSocket, at: Clocks, age: u64) -> Option<KubeletSighting> {
        Some(KubeletSighting { socket, at, age: Duration::from_secs(age) })
    }

    /// What a restart of the plugin leaves of it.
    fn restarted(known: &KubeletAge) -> KubeletAge {
        serde_json::from_str(&serde_json::to_string(known).unwrap()).unwrap()
    }

    #[test]
    fn without_clock_steps_the_wall_clock_counts() {
        assert_eq!(age(socket(7, 1_000_000), clocks(1_000_090, 5000), None), 90);
    }

    #[test]
    fn forward_step_makes_no_kubelet_older_than_the_boot() {
        // NTP sets the clock of a node that has booted with the time of 1970.
        assert_eq!(age(socket(7, 20), clocks(1_700_000_000, 45), None), 45);
    }

    #[test]
    fn creation_in_the_future_is_age_zero() {
        assert_eq!(age(socket(7, 1_000_000 + HOUR), clocks(1_000_000, 5000), None), 0);
    }

    #[test]
    fn forward_step_makes_no_young_kubelet_old() {
        // The plugin saw an older kubelet. Then the kubelet was restarted, the clock stepped, and the plugin restarted.
        let before = sighting(socket(7, 900_000), clocks(1_000_000, 50_000), 100_000);
        let created = 1_000_000 + 500;
        let now = clocks(created + 10 + HOUR, 50_000 + 510);
        assert_eq!(age(socket(8, created), now, before), 10);
        assert_eq!(
            age(socket(8, created), now, None),
            HOUR + 10,
            "without memory only the wall clock is left"
        );
    }

    #[test]
    fn new_socket_is_no_older_than_the_sighting_of_another() {
        let before = sighting(socket(7, 900_000), clocks(1_000_000, 50_000), 100_000);
        // The clock was stepped forward, then the kubelet was restarted by a clock that was stepped back in between.
        assert_eq!(age(socket(8, 900_500), clocks(1_000_040, 50_040), before), 40);
    }

    #[test]
    fn steps_do_not_change_the_age_of_a_remembered_kubelet() {
        let kubelet = socket(7, 1_000_000);
        for step_to in [500, 1_000_000 + 50 * HOUR] {
            let mut known = KubeletAge::default();
            let first = known.observe(Some(kubelet), clocks(1_000_100, 5000));
            assert_eq!(first.unwrap().as_secs(), 100);
            let later = known.observe(Some(kubelet), clocks(step_to, 5020));
            assert_eq!(later.unwrap().as_secs(), 120, "in the same process");
            let later = restarted(&known).observe(Some(kubelet), clocks(step_to, 5030));
            assert_eq!(later.unwrap().as_secs(), 130, "after a restart of the plugin");
        }
    }

    #[test]
    fn kubelet_that_appears_while_the_plugin_runs_is_new() {
        let mut known = KubeletAge::default();
        assert_eq!(known.observe(None, clocks(1_000_000, 5000)), None);
        // Its creation seems long ago: the clock was stepped.
        let first = known.observe(Some(socket(7, 900_000)), clocks(1_000_001, 5001));
        assert_eq!(first, Some(Duration::ZERO));
        assert_eq!(known.observe(None, clocks(1_000_002, 5002)), None);
        let next = known.observe(Some(socket(8, 900_000)), clocks(1_000_003, 5003));
        assert_eq!(next, Some(Duration::ZERO));
        let later = known.observe(Some(socket(8, 900_000)), clocks(1_000_007, 5007));
        assert_eq!(later.unwrap().as_secs(), 4);
    }

    #[test]
    fn sighting_of_an_earlier_boot_is_ignored() {
        let kubelet = socket(7, 1_000_000);
        let before = sighting(kubelet, clocks(1_000_000, 90_000), 80_000);
        assert_eq!(age(kubelet, clocks(1_000_020, 60), before), 20);
        let mut known = KubeletAge { sighting: before, checked: false };
        assert_eq!(known.observe(Some(kubelet), clocks(1_000_020, 60)).unwrap().as_secs(), 20);
    }
}
