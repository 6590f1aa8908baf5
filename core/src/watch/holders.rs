//! Keeps the holders of the held groups: takes what the search finds, and follows their exits.

use super::search::{Known, News, Searcher, Wanted};
use super::sources::{Polled, Sources};
use crate::error::Result;
use crate::holder_search::Sighting;
use crate::holders::{Holder, ScanCoverage};
use crate::id::GroupId;
use crate::monitor::{Change, Monitor, pidfd_limit};
use crate::occupancy::Evidence;
use std::fmt;
use std::os::fd::{BorrowedFd, OwnedFd};
use std::time::{Duration, Instant};

/// Pause before the second search for holders that were not found. It doubles up to [`MAX_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
/// Longest pause between two searches.
const MAX_PAUSE: Duration = Duration::from_secs(30);
/// First pause after the exit of a holder before its group is probed again. It doubles up to
/// [`LAST_FOLLOW_UP`].
const FIRST_FOLLOW_UP: Duration = Duration::from_millis(10);
/// Longest pause after an exit. Usually the group can be opened as soon as its holder has exited,
/// unless another process shares the descriptor.
const LAST_FOLLOW_UP: Duration = Duration::from_millis(160);
/// Largest number of holders of free groups that are kept, so that they are not reported again.
const MAX_IGNORED: usize = 256;

/// The known holders of one held group.
pub(super) struct Held {
    group: GroupId,
    /// Sorted by pid.
    pub(super) holders: Vec<Holder>,
    /// How much was searched. None before the first step of the search.
    pub(super) coverage: Option<ScanCoverage>,
    /// Number of the search that the group waits for.
    search: u64,
    /// The pause before the next search. It doubles with each search that finds no holder.
    pause: Duration,
    /// When to search again. None while a search is under way, and if holders are known.
    again: Option<Instant>,
    /// The pidfd of each holder whose exit is followed, with the holder's pid.
    exits: Vec<(u32, Polled)>,
}

/// The known holders of all held groups.
pub(super) struct KnownHolders {
    searcher: Searcher,
    /// Sorted by group.
    held: Vec<Held>,
    /// Holders of groups that are not held by them, as an open device that is not bound.
    ignored: Vec<Known>,
    /// Groups that were still held after the exit of a holder, with the next pause.
    exited: Vec<(GroupId, Duration)>,
    /// Number of changes after which device numbers must be read again.
    epoch: u64,
    /// Number of the latest search.
    search: u64,
    /// When the next search is due. None if none is.
    next_search: Option<Instant>,
    /// The interests of the watch have changed.
    changed: bool,
    /// Groups whose latest change is about their holders only.
    renamed: Vec<GroupId>,
}

impl KnownHolders {
    /// # Errors
    /// The kernel creates no eventfd.
    pub(super) fn new(monitor: &Monitor) -> Result<Self> {
        Ok(Self {
            searcher: Searcher::new(monitor.root(), monitor.options().interval)?,
            held: Vec::new(),
            ignored: Vec::new(),
            exited: Vec::new(),
            epoch: 0,
            search: 0,
            next_search: None,
            changed: false,
            renamed: Vec::new(),
        })
    }

    /// Returns a descriptor that is readable when the search has found out something.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.searcher.fd()
    }

    pub(super) fn of(&self, group: GroupId) -> Option<&Held> {
        let place = self.held.binary_search_by_key(&group, |held| held.group).ok()?;
        self.held.get(place)
    }

    fn of_mut(&mut self, group: GroupId) -> Option<&mut Held> {
        let place = self.held.binary_search_by_key(&group, |held| held.group).ok()?;
        self.held.get_mut(place)
    }

    /// Takes the exit of a holder. It is forgotten, because a readable pidfd stays readable.
    pub(super) fn take_exit(
        &mut self,
        monitor: &mut Monitor,
        (group, pid): (GroupId, u32),
        now: Instant,
        changes: &mut Vec<Change>,
    ) {
        if self.forget(group, pid) {
            monitor.forget_holder(group, now, changes);
        }
        self.exited.retain(|(exited, _)| *exited != group);
        self.exited.push((group, FIRST_FOLLOW_UP));
    }

    /// Forgets a holder. Returns true if it was the last known one of its group.
    fn forget(&mut self, group: GroupId, pid: u32) -> bool {
        self.changed = true;
        self.ignored.retain(|known| (known.group, known.pid) != (group, pid));
        let Some(held) = self.of_mut(group) else { return false };
        held.holders.retain(|holder| holder.pid != pid);
        held.exits.retain(|(exited, _)| *exited != pid);
        let is_last = held.holders.is_empty();
        if is_last {
            self.held.retain(|held| held.group != group);
        }
        is_last
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

    /// Takes what the search has found out. A holder that was seen before a newer change of its
    /// group is dropped.
    pub(super) fn take_news(
        &mut self,
        monitor: &mut Monitor,
        sources: &Sources,
        now: Instant,
        changes: &mut Vec<Change>,
    ) {
        let News { found, lost, step } = self.searcher.take();
        for known in lost {
            let is_same = |holder: &Holder| (holder.pid, holder.start_time) == (known.pid, known.start_time);
            if self.of(known.group).is_some_and(|held| held.holders.iter().any(is_same)) {
                if self.forget(known.group, known.pid) {
                    monitor.forget_holder(known.group, now, changes);
                }
                self.report_change(known.group, changes);
            }
        }
        for found in found {
            self.take_holder(monitor, sources, found.sighting, found.exit, (now, &mut *changes));
        }
        if let Some((search, coverage, over)) = step {
            self.take_step(search, coverage, over, now, changes);
        }
    }

    fn take_holder(
        &mut self,
        monitor: &mut Monitor,
        sources: &Sources,
        Sighting { holder, seen }: Sighting,
        exit: Option<OwnedFd>,
        (now, changes): (Instant, &mut Vec<Change>),
    ) {
        monitor.record_holder(&holder, seen, now, changes);
        let Some(group) = monitor.group(holder.group) else { return };
        self.changed = true;
        if !group.state.occupancy.is_held() {
            if seen >= group.state.since && self.ignored.len() < MAX_IGNORED {
                self.ignored.push(known(&holder, false));
            }
            return;
        }
        let (search, pause) = (self.search, FIRST_PAUSE);
        let place = self.held.partition_point(|held| held.group < holder.group);
        if self.of(holder.group).is_none() {
            let held = Held {
                group: holder.group,
                holders: Vec::new(),
                coverage: None,
                search,
                pause,
                again: None,
                exits: Vec::new(),
            };
            self.held.insert(place, held);
        }
        let followed: usize = self.held.iter().map(|held| held.exits.len()).sum();
        let Some(held) = self.held.get_mut(place) else { return };
        let place = match held.holders.binary_search_by_key(&holder.pid, |known| known.pid) {
            Ok(place) if held.holders.get(place) == Some(&holder) => return,
            Ok(place) => {
                held.exits.retain(|(pid, _)| *pid != holder.pid);
                held.holders.remove(place);
                place
            }
            Err(place) => place,
        };
        held.holders.insert(place, holder);
        held.again = None;
        let followed = exit
            .filter(|_| followed < pidfd_limit())
            .and_then(|exit| sources.watch_exit(exit, holder.group, holder.pid));
        held.exits.extend(followed.map(|exit| (holder.pid, exit)));
        self.report_change(holder.group, changes);
    }

    /// Reports that the holders of a group have changed, unless its occupancy has too.
    fn report_change(&mut self, group: GroupId, changes: &mut Vec<Change>) {
        if !matches!(changes.last(), Some(Change::Held(other) | Change::Freed(other)) if *other == group) {
            changes.push(Change::Changed(group));
            self.renamed.push(group);
        }
    }

    fn take_step(
        &mut self,
        search: u64,
        coverage: ScanCoverage,
        over: bool,
        now: Instant,
        changes: &mut Vec<Change>,
    ) {
        let mut searched = Vec::new();
        for held in self.held.iter_mut().filter(|held| held.search <= search) {
            let missed = |coverage: ScanCoverage| ScanCoverage { processes: 0, ..coverage };
            let is_news =
                held.coverage.is_none() || (over && held.coverage.map(missed) != Some(missed(coverage)));
            held.coverage = Some(coverage);
            if held.holders.is_empty() {
                if is_news {
                    searched.push(held.group);
                }
                if over && held.again.is_none() {
                    held.again = Some(now + held.pause);
                    held.pause = (held.pause * 2).min(MAX_PAUSE);
                }
            }
        }
        searched.into_iter().for_each(|group| self.report_change(group, changes));
        self.plan();
    }

    fn plan(&mut self) {
        self.next_search = self.held.iter().filter_map(|held| held.again).min();
    }

    /// Begins to search for the holders of the groups that became held, and of those whose search
    /// is due again. `changes` are those since the latest call.
    pub(super) fn update(&mut self, monitor: &Monitor, changes: &[Change], now: Instant) {
        if self.searcher.supervise(now) {
            // Nothing is searched, so nothing is known.
            let nothing = ScanCoverage { unsearched: 1, ..ScanCoverage::default() };
            self.held.iter_mut().for_each(|held| held.coverage = held.coverage.or(Some(nothing)));
        }
        let is_due = self.next_search.is_some_and(|at| now >= at);
        if changes.is_empty() && !is_due && !self.changed {
            return;
        }
        let changes_numbers = |change: &Change| match change {
            Change::Bound(_) | Change::Unbound(_) => true,
            Change::Changed(group) => !self.renamed.contains(group),
            // A group that was not held may have been absent until now, with another number.
            Change::Freed(group) => self.of(*group).is_none(),
            Change::Held(_) => false,
        };
        if changes.iter().any(changes_numbers) {
            self.epoch += 1;
            self.ignored.retain(|known| monitor.group(known.group).is_some());
        }
        self.renamed.clear();
        self.held.retain(|held| is_held(monitor, held.group));
        let mut searched = false;
        for group in monitor.groups().iter().filter(|group| group.state.occupancy.is_held()) {
            self.ignored.retain(|known| known.group != group.id);
            let place = match self.held.binary_search_by_key(&group.id, |held| held.group) {
                Ok(place) => place,
                Err(place) => {
                    let held = Held {
                        group: group.id,
                        holders: Vec::new(),
                        coverage: None,
                        search: 0,
                        pause: FIRST_PAUSE,
                        again: Some(now),
                        exits: Vec::new(),
                    };
                    self.held.insert(place, held);
                    place
                }
            };
            if let Some(held) = self.held.get_mut(place)
                && held.again.is_some_and(|at| now >= at)
            {
                held.again = None;
                held.search = self.search + 1;
                searched = true;
            }
        }
        self.search += u64::from(searched);
        self.plan();
        self.changed = false;
        self.searcher.send(self.wanted(monitor), now);
    }

    /// Returns when a pass must start the thread of the search. None if it runs.
    pub(super) fn next_start(&self) -> Option<Instant> {
        self.searcher.starts_at()
    }

    fn wanted(&self, monitor: &Monitor) -> Wanted {
        let mut wanted = Wanted {
            groups: monitor.watched_groups().collect(),
            members: monitor.watched_members(),
            epoch: self.epoch,
            search: self.search,
            held: self.held.iter().map(|held| held.group).collect(),
            known: self.ignored.clone(),
        };
        for held in &self.held {
            let by_holder =
                monitor.group(held.group).is_some_and(|group| group.state.evidence == Evidence::Holder);
            let is_followed = |holder: &Holder| held.exits.iter().any(|(pid, _)| *pid == holder.pid);
            let holders = held.holders.iter();
            wanted.known.extend(holders.map(|holder| known(holder, by_holder || !is_followed(holder))));
        }
        wanted
    }

    /// Returns whether the search for the holders of a held group has not made its first step.
    pub(super) fn is_unknown(&self, group: GroupId) -> bool {
        self.of(group).is_none_or(|held| held.holders.is_empty() && held.coverage.is_none())
    }
}

fn known(holder: &Holder, confirm: bool) -> Known {
    Known { group: holder.group, pid: holder.pid, start_time: holder.start_time, confirm }
}

impl fmt::Debug for Held {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Held({}, {} holders, {} exits)", self.group, self.holders.len(), self.exits.len())
    }
}

fn is_held(monitor: &Monitor, group: GroupId) -> bool {
    monitor.group(group).is_some_and(|group| group.state.occupancy.is_held())
}
