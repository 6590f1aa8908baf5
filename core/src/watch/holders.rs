//! Keeps the holders of the held groups: searches for them, searches again, and follows their
//! exits.

use super::sources::Sources;
use crate::holders::{Holder, ScanCoverage};
use crate::id::GroupId;
use crate::monitor::{Change, Monitor};
use crate::root::{Root, last_component};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::fmt;
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Pause before the second search for holders that were not found. It doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause between two searches.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// Interval of the searches for a holder whose exit cannot be followed, as in another pid
/// namespace.
const CONFIRM_INTERVAL: Duration = Duration::from_secs(30);
/// First pause after the exit of a holder before its group is probed again. It doubles up to
/// [`LAST_FOLLOW_UP`].
const FIRST_FOLLOW_UP: Duration = Duration::from_millis(10);
/// Longest pause after an exit. Usually the group can be opened as soon as its holder has exited,
/// unless another process shares the descriptor.
const LAST_FOLLOW_UP: Duration = Duration::from_millis(160);

/// The known holders of one held group.
pub(super) struct Held {
    group: GroupId,
    pub(super) holders: Vec<Holder>,
    pub(super) coverage: ScanCoverage,
    /// When to search again, and the pause before that search. None if the exits are followed.
    again: Option<(Instant, Duration)>,
    /// One pidfd for each holder whose exit is followed.
    exits: Vec<OwnedFd>,
}

/// The known holders of all held groups.
pub(super) struct KnownHolders {
    held: Vec<Held>,
    /// Groups that were still held after the exit of a holder, with the next pause.
    exited: Vec<(GroupId, Duration)>,
    /// The root's /proc shows the pid namespace of this process, so a pidfd can be opened.
    own_namespace: bool,
}

impl KnownHolders {
    pub(super) fn new(root: &Root) -> Self {
        Self { held: Vec::new(), exited: Vec::new(), own_namespace: shows_this_process(root) }
    }

    pub(super) fn of(&self, group: GroupId) -> Option<&Held> {
        self.held.iter().find(|held| held.group == group)
    }

    /// Takes the exit of a holder. The group's holders are forgotten, because a readable pidfd
    /// stays readable.
    pub(super) fn take_exit(&mut self, group: GroupId) {
        self.held.retain(|held| held.group != group);
        self.exited.retain(|(exited, _)| *exited != group);
        self.exited.push((group, FIRST_FOLLOW_UP));
    }

    /// Lets the next pass probe the groups that are still held after the exit of a holder. Returns
    /// the pause before that pass, or none if there is no such group.
    pub(super) fn follow_up(&mut self, monitor: &mut Monitor, now: Instant) -> Option<Duration> {
        self.exited.retain_mut(|(group, pause)| {
            *pause *= 2;
            let held = is_held(monitor, *group);
            if held {
                monitor.probe_now(*group, now);
            }
            held && *pause <= LAST_FOLLOW_UP
        });
        self.exited.iter().map(|(_, pause)| *pause / 2).min()
    }

    /// Searches for the holders of the groups that became held, and of those whose search is due
    /// again.
    pub(super) fn search(
        &mut self,
        monitor: &Monitor,
        sources: &Sources,
        now: Instant,
        changes: &mut Vec<Change>,
    ) {
        self.held.retain(|held| is_held(monitor, held.group));
        let is_due =
            |id: &GroupId| self.of(*id).is_none_or(|held| held.again.is_some_and(|(when, _)| now >= when));
        let held = monitor.groups().iter().filter(|group| group.state.occupancy.is_held());
        let due: Vec<GroupId> = held.map(|group| group.id).filter(is_due).collect();
        if due.is_empty() {
            return;
        }
        let mut found = Vec::new();
        let coverage = monitor.root().holders(&due, &mut |holder| found.push(holder)).unwrap_or_default();
        for group in due {
            let holders: Vec<Holder> = found.iter().filter(|holder| holder.group == group).copied().collect();
            let place = self.held.iter().position(|held| held.group == group);
            let before = place.map(|place| self.held.swap_remove(place));
            let pause =
                before.as_ref().and_then(|held| held.again).map_or(FIRST_PAUSE, |(_, pause)| pause * 2);
            if before.is_some_and(|held| held.holders != holders) {
                changes.push(Change::Changed(group));
            }
            let follow = |holder: &Holder| self.follow_exit(holder, monitor.root(), sources);
            let exits: Vec<OwnedFd> = holders.iter().filter_map(follow).collect();
            let pause = match (holders.is_empty(), exits.is_empty()) {
                (true, _) => Some(pause.min(MAX_PAUSE)),
                (false, true) => Some(CONFIRM_INTERVAL),
                (false, false) => None,
            };
            let again = pause.map(|pause| (now + pause, pause));
            self.held.push(Held { group, holders, coverage, again, exits });
        }
    }

    /// Opens a pidfd, which becomes readable when the holder exits. The kernel closes the files of
    /// a process before it signals the exit, so the group can be opened then. Returns none in
    /// another pid namespace, and if the pid belongs to a different process by now.
    fn follow_exit(&self, holder: &Holder, root: &Root, sources: &Sources) -> Option<OwnedFd> {
        if !self.own_namespace {
            return None;
        }
        let pid = Pid::from_raw(i32::try_from(holder.pid).ok()?)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        let (_, start_time) = root.process(holder.pid).ok()?;
        let watched = sources.watch_exit(&pidfd, holder.group);
        (start_time == holder.start_time && watched).then_some(pidfd)
    }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Held({}, {} holders, {} exits)", self.group, self.holders.len(), self.exits.len())
    }
}

fn is_held(monitor: &Monitor, group: GroupId) -> bool {
    monitor.group(group).is_some_and(|group| group.state.occupancy.is_held())
}

/// Returns whether the root's /proc shows the pid namespace of this process.
fn shows_this_process(root: &Root) -> bool {
    let mut text = [0; 64];
    let pid = std::process::id().to_string();
    let name = root.link(format_args!("proc/self"), &mut text).ok().map(last_component);
    // In a test's tree `self` can be a link to /proc/self instead of the pid.
    name == Some(pid.as_bytes()) || name == Some(b"self")
}
