//! The thread that searches: when it inspects which processes, and what it reports.

use super::candidates::Candidates;
use super::{Found, Known, Shared, Wanted, check_interval};
use crate::holder_search::{Budget, HolderSearch, Sighting, Targets};
use crate::holders::Holder;
use crate::root::{Root, last_component};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

/// One step of a search for an unknown holder.
const STEP: Budget = Budget { processes: 4096, descriptors: 65_536, time: Duration::from_millis(100) };
/// Pause after such a step, as a multiple of its duration: a search takes at most a tenth of a CPU.
const REST: u32 = 9;
/// One check of processes that may have opened a free group.
const CHECK: Budget = Budget { processes: 256, descriptors: 2048, time: Duration::from_millis(2) };
/// One check of known holders, and of one of them.
const CONFIRM: Budget = Budget { processes: 1024, descriptors: 65_536, time: Duration::from_millis(50) };
/// Shortest time between two slow searches of all processes.
const ROUND: Duration = Duration::from_secs(60);
/// Pause before a holder of a free group is inspected again. It may have been a probe.
const SECOND_CHECK: Duration = Duration::from_millis(50);

/// The state of the thread.
pub(super) struct Worker {
    root: Root,
    shared: Arc<Shared>,
    /// The threads that hang, and the process that each inspects.
    hanging: Vec<(Weak<Shared>, u32)>,
    /// The processes of the threads that hang.
    skipped: Vec<u32>,
    /// Pid of this process in the root's /proc. None if that shows another pid namespace, in which
    /// no pidfd can be opened either.
    own: Option<u32>,
    /// Time between two checks of candidates.
    check_interval: Duration,
    confirm_interval: Duration,
    targets: Option<(u64, Arc<Targets>)>,
    /// The search for unknown holders, and its number.
    search: Option<(u64, HolderSearch)>,
    /// Number of sightings of that search that were reported.
    reported: usize,
    searched: u64,
    next_step: Instant,
    /// The check of candidates, and the slow search of all processes.
    check_of_candidates: Option<HolderSearch>,
    round: Option<HolderSearch>,
    next_check: Instant,
    /// When the next slow search of all processes begins.
    next_round: Instant,
    next_confirm: Instant,
    /// The known holder that was inspected last.
    confirmed: u32,
    candidates: Candidates,
}

/// When each kind of work is due. None if there is none.
struct Due {
    step: Option<Instant>,
    confirm: Option<Instant>,
    check: Option<Instant>,
}

impl Worker {
    /// `hanging` are threads of which the searcher keeps a share, and the process that each inspects.
    pub(super) fn new(
        root: Root,
        shared: Arc<Shared>,
        interval: Duration,
        hanging: Vec<(Weak<Shared>, u32)>,
    ) -> Self {
        let now = Instant::now();
        let check_interval = check_interval(interval);
        Self {
            root,
            shared,
            skipped: hanging.iter().map(|(_, pid)| *pid).collect(),
            hanging,
            own: None,
            check_interval,
            confirm_interval: interval.clamp(Duration::from_millis(100), Duration::from_secs(5)),
            targets: None,
            search: None,
            reported: 0,
            searched: 0,
            next_step: now,
            check_of_candidates: None,
            round: None,
            next_check: now,
            next_round: now,
            next_confirm: now,
            confirmed: 0,
            candidates: Candidates::default(),
        }
    }

    /// Runs until the watch is dropped.
    pub(super) fn run(mut self) {
        self.shared.note(0);
        self.own = own_pid(&self.root);
        self.candidates.begin(&self.root);
        let mut until = Some(Instant::now());
        while let Some(wanted) = self.shared.wait(until) {
            self.shared.note(0);
            until = None;
            if !wanted.groups.is_empty() {
                self.work(&wanted);
                let Due { step, confirm, check } = self.due(&wanted);
                until = step.into_iter().chain(confirm).chain(check).min();
            }
        }
    }

    /// Returns when there is something to do.
    fn due(&self, wanted: &Wanted) -> Due {
        let is_searching = self.search.is_some() || self.searched < wanted.search;
        let confirms = wanted.known.iter().any(|known| known.confirm);
        let checks = wanted.held.len() < wanted.groups.len();
        Due {
            step: is_searching.then_some(self.next_step),
            confirm: confirms.then_some(self.next_confirm),
            check: checks.then_some(self.next_check),
        }
    }

    fn work(&mut self, wanted: &Wanted) {
        let now = Instant::now();
        let is_due = |at: Option<Instant>| at.is_some_and(|at| now >= at);
        let Due { step, confirm, check } = self.due(wanted);
        if !is_due(step) && !is_due(confirm) && !is_due(check) {
            return;
        }
        self.take_returned();
        let targets = self.targets(wanted);
        if is_due(step) {
            self.step(wanted, &targets);
        }
        if is_due(confirm) {
            self.confirm(wanted, &targets);
            self.next_confirm = Instant::now() + self.confirm_interval;
        }
        if is_due(check) {
            self.check(wanted, &targets);
            self.next_check = Instant::now() + self.check_interval;
        }
    }

    /// Stops skipping the processes of threads that have returned: these do not hang any more, or a
    /// different process has the pid. A thread that has returned has dropped its share.
    fn take_returned(&mut self) {
        let before = self.hanging.len();
        self.hanging.retain(|(thread, _)| thread.strong_count() > 1);
        if self.hanging.len() < before {
            self.skipped = self.hanging.iter().map(|(_, pid)| *pid).collect();
        }
    }

    /// Returns the device numbers of the groups. Reads them again after a change.
    fn targets(&mut self, wanted: &Wanted) -> Arc<Targets> {
        match &self.targets {
            Some((epoch, targets)) if *epoch == wanted.epoch => Arc::clone(targets),
            _ => {
                let targets = Arc::new(Targets::of_known(&self.root, &wanted.groups, &wanted.members));
                self.targets = Some((wanted.epoch, Arc::clone(&targets)));
                (self.check_of_candidates, self.round) = (None, None);
                targets
            }
        }
    }

    /// Makes a step of the search for unknown holders.
    fn step(&mut self, wanted: &Wanted, targets: &Arc<Targets>) {
        let began = Instant::now();
        if self.searched < wanted.search {
            let likely = self.candidates.with(wanted.known.iter().map(|known| known.pid));
            let search = HolderSearch::new(&self.root, Arc::clone(targets), &likely, &self.skipped);
            self.search = search.ok().map(|search| (wanted.search, search));
            self.searched = wanted.search;
            self.reported = 0;
        }
        let Some((number, mut search)) = self.search.take() else {
            // Without /proc nothing is known about any process.
            let coverage = crate::ScanCoverage { unsearched: 1, ..Default::default() };
            self.shared.report(|news| news.step = Some((wanted.search, coverage, true)));
            return;
        };
        let shared = Arc::clone(&self.shared);
        let over = search.advance(&self.root, &STEP, &mut |pid| shared.note(pid));
        let sightings = search.sightings().get(self.reported..).unwrap_or_default();
        self.reported += sightings.len();
        let (held, others): (Vec<Sighting>, Vec<Sighting>) =
            sightings.iter().partition(|sighting| wanted.held.contains(&sighting.holder.group));
        self.candidates.add_users(search.users());
        let found = self.new_holders(wanted, &held);
        let coverage = search.coverage();
        shared.report(|news| {
            news.found.extend(found);
            news.step = Some((number, coverage, over));
        });
        if !over {
            self.search = Some((number, search));
        }
        self.next_step = Instant::now() + began.elapsed() * REST;
        self.report_holders_of_free_groups(wanted, targets, others);
    }

    /// Inspects known holders and reports those that have closed their group. Each process is
    /// inspected by itself: one that cannot be read, or has too many descriptors, hides no other.
    fn confirm(&mut self, wanted: &Wanted, targets: &Arc<Targets>) {
        let can_be_read = |known: &&Known| known.confirm && !self.skipped.contains(&known.pid);
        let known: Vec<Known> = wanted.known.iter().filter(can_be_read).copied().collect();
        let mut pids: Vec<u32> = known.iter().map(|known| known.pid).collect();
        pids.sort_unstable();
        pids.dedup();
        // The processes for which there was no time are the first ones now.
        let first = pids.partition_point(|pid| *pid <= self.confirmed);
        pids.rotate_left(first);
        let end = Instant::now() + CONFIRM.time;
        let mut lost: Vec<Known> = Vec::new();
        for pid in pids {
            self.confirmed = pid;
            let mut search = HolderSearch::of(Arc::clone(targets), &[pid]);
            let over = search.advance(&self.root, &CONFIRM, &mut |pid| self.shared.note(pid));
            if over && search.coverage().unreadable == 0 {
                let is_held = |known: &Known| {
                    let same = |holder: &Holder| {
                        (holder.group, holder.start_time) == (known.group, known.start_time)
                    };
                    search.sightings().iter().any(|sighting| same(&sighting.holder))
                };
                lost.extend(known.iter().filter(|known| known.pid == pid && !is_held(known)));
            }
            if Instant::now() >= end {
                break;
            }
        }
        if !lost.is_empty() {
            self.shared.report(|news| news.lost.extend(lost));
        }
    }

    /// Inspects the processes that are likely to have opened a free group: those that use VFIO, and
    /// those that have started just now. Then goes on with the slow search of all processes.
    fn check(&mut self, wanted: &Wanted, targets: &Arc<Targets>) {
        let shared = Arc::clone(&self.shared);
        let mut before = |pid| shared.note(pid);
        let mut candidates = match self.check_of_candidates.take() {
            Some(candidates) => candidates,
            None => {
                let Some(mut candidates) = self.candidates.update(&self.root) else { return };
                candidates.retain(|pid| !self.skipped.contains(pid));
                HolderSearch::of(Arc::clone(targets), &candidates)
            }
        };
        let over = candidates.advance(&self.root, &CHECK, &mut before);
        let mut sightings = candidates.sightings().to_vec();
        self.candidates.add_users(candidates.users());
        if !over {
            self.check_of_candidates = Some(candidates);
        } else if self.search.is_none() && (self.round.is_some() || Instant::now() >= self.next_round) {
            self.next_round = Instant::now() + ROUND;
            let round = self
                .round
                .take()
                .map_or_else(|| HolderSearch::new(&self.root, Arc::clone(targets), &[], &self.skipped), Ok);
            if let Ok(mut round) = round {
                let over = round.advance(&self.root, &CHECK, &mut before);
                sightings.extend(round.sightings());
                self.candidates.add_users(round.users());
                self.round = (!over).then_some(round);
            }
        }
        self.report_holders_of_free_groups(wanted, targets, sightings);
    }

    /// Reports holders of groups that are not known to be held, if a second check finds them again:
    /// the first may have seen a probe of another program. Probes of this process are ignored.
    fn report_holders_of_free_groups(
        &mut self,
        wanted: &Wanted,
        targets: &Arc<Targets>,
        mut sightings: Vec<Sighting>,
    ) {
        sightings
            .retain(|sighting| Some(sighting.holder.pid) != self.own && !is_known(wanted, &sighting.holder));
        if sightings.is_empty() {
            return;
        }
        std::thread::sleep(SECOND_CHECK);
        let mut pids: Vec<u32> = sightings.iter().map(|sighting| sighting.holder.pid).collect();
        pids.dedup();
        let mut again = HolderSearch::of(Arc::clone(targets), &pids);
        again.advance(&self.root, &CONFIRM, &mut |pid| self.shared.note(pid));
        let seen_before = |sighting: &Sighting| {
            let same = |before: &Sighting| before.holder == sighting.holder;
            sightings.iter().any(same)
        };
        let confirmed: Vec<Sighting> =
            again.sightings().iter().filter(|sighting| seen_before(sighting)).copied().collect();
        self.candidates.add_users(&pids);
        let found = self.new_holders(wanted, &confirmed);
        if !found.is_empty() {
            self.shared.report(|news| news.found.extend(found));
        }
    }

    /// Returns the sightings that the watch does not know, each with a pidfd if possible.
    fn new_holders(&self, wanted: &Wanted, sightings: &[Sighting]) -> Vec<Found> {
        let new = sightings.iter().filter(|sighting| !is_known(wanted, &sighting.holder));
        new.map(|&sighting| Found { sighting, exit: self.follow_exit(&sighting.holder) }).collect()
    }

    /// Opens a pidfd, which becomes readable when the holder exits. The kernel closes the files of
    /// a process before it signals the exit, so the group can be opened then. Returns none in
    /// another pid namespace, and if the pid belongs to a different process by now.
    fn follow_exit(&self, holder: &Holder) -> Option<OwnedFd> {
        self.own?;
        let pid = Pid::from_raw(i32::try_from(holder.pid).ok()?)?;
        let pidfd = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        let (_, start_time) = self.root.process(holder.pid).ok()?;
        (start_time == holder.start_time).then_some(pidfd)
    }
}

fn is_known(wanted: &Wanted, holder: &Holder) -> bool {
    let identity = (holder.group, holder.pid, holder.start_time);
    wanted.known.iter().any(|known| (known.group, known.pid, known.start_time) == identity)
}

/// Returns this process's pid, if the root's /proc shows its pid namespace.
fn own_pid(root: &Root) -> Option<u32> {
    let mut text = [0; 64];
    let own = std::process::id();
    let name = root.link(format_args!("proc/self"), &mut text).ok().map(last_component)?;
    // In a test's tree `self` can be a link to /proc/self instead of the pid.
    (name == own.to_string().as_bytes() || name == b"self").then_some(own)
}

#[cfg(test)]
mod tests {
    use super::super::Inbox;
    use super::*;
    use crate::GroupId;
    use std::sync::atomic::{AtomicU32, AtomicU64};
    use std::sync::{Condvar, Mutex};

    fn shared() -> Arc<Shared> {
        let signal = rustix::event::eventfd(0, rustix::event::EventfdFlags::NONBLOCK).unwrap();
        Arc::new(Shared {
            inbox: Mutex::new(Inbox::default()),
            wake: Condvar::new(),
            outbox: Mutex::default(),
            signal: Arc::new(signal),
            pid: AtomicU32::new(0),
            since: AtomicU64::new(0),
            epoch: Instant::now(),
        })
    }

    #[test]
    fn unreadable_holder_hides_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let process = |pid: u32| directory.path().join(format!("proc/{pid}"));
        // The descriptors of the first cannot be listed. The second has none any more.
        std::fs::create_dir_all(process(7)).unwrap();
        std::fs::write(process(7).join("fd"), "").unwrap();
        std::fs::create_dir_all(process(8).join("fd")).unwrap();
        let root = Root::open(directory.path()).unwrap();
        let targets = Arc::new(Targets::of(&root, &[GroupId(51)]).unwrap());
        let known = |pid| Known { group: GroupId(51), pid, start_time: 1, confirm: true };
        let wanted = Wanted { known: vec![known(7), known(8)], ..Wanted::default() };
        let mut worker = Worker::new(root, shared(), Duration::from_secs(1), Vec::new());
        worker.confirm(&wanted, &targets);
        assert_eq!(worker.shared.outbox().lost, [known(8)]);
    }

    #[test]
    fn process_is_skipped_only_while_its_thread_hangs() {
        let directory = tempfile::tempdir().unwrap();
        let root = Root::open(directory.path()).unwrap();
        // The searcher's share of each thread, and that of the thread itself.
        let (one, other) = (shared(), shared());
        let (first, second) = (Arc::clone(&one), Arc::clone(&other));
        let hanging = vec![(Arc::downgrade(&one), 7), (Arc::downgrade(&other), 8)];
        let mut worker = Worker::new(root, shared(), Duration::from_secs(1), hanging);
        worker.take_returned();
        assert_eq!(worker.skipped, [7, 8]);
        drop(first);
        worker.take_returned();
        assert_eq!(worker.skipped, [8]);
        drop(second);
        // The searcher may have forgotten it too by then.
        drop(other);
        worker.take_returned();
        assert_eq!(worker.skipped, [0; 0]);
    }
}
