//! Searches all processes at once, with a deadline, on a thread that may hang.

use super::{Budget, HolderSearch, Targets};
use crate::error::Result;
use crate::holders::{Holder, ScanCoverage};
use crate::id::{GroupId, unique};
use crate::root::Root;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

/// Part of the search after which its results so far are kept.
const STEP: Budget = Budget { processes: 1024, descriptors: 16 * 1024, time: Duration::from_millis(50) };
/// A process that is inspected for this long hangs in the kernel. It is skipped.
const HANG: Duration = Duration::from_secs(1);
/// Pause before the search goes on after this process had no descriptor left.
const SHORTAGE: Duration = Duration::from_millis(20);
/// Largest number of processes that are skipped, each with a thread that hangs.
const MAX_HANGS: usize = 4;

/// What a search has found so far.
#[derive(Clone, Default)]
struct Progress {
    holders: Vec<Holder>,
    coverage: ScanCoverage,
    /// The process that is inspected, 0 for the list of processes, and since when.
    current: Option<(u32, Instant)>,
    outcome: Option<Result<()>>,
    cancelled: bool,
}

#[derive(Default)]
struct Shared {
    progress: Mutex<Progress>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until the search is over, hangs, or is late. Returns its progress.
    fn wait(&self, end: Instant) -> Progress {
        let mut progress = self.lock();
        loop {
            let hangs_at = progress.current.map_or(end, |(_, since)| since + HANG);
            let left = end.min(hangs_at).saturating_duration_since(Instant::now());
            if progress.outcome.is_some() || left.is_zero() {
                progress.cancelled = true;
                return progress.clone();
            }
            progress = self.changed.wait_timeout(progress, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// Longest duration of [`Root::holders`]. A host without an attacker is searched in a fraction of
/// a second.
pub const MAX_SEARCH: Duration = Duration::from_secs(10);

impl Root {
    /// Calls `visit` with each visible holder of `groups`, once for each process and group, ordered
    /// by group and pid.
    ///
    /// Descriptors are matched by device number (`st_rdev`), because a container can have its own
    /// device node under any name. Reads /proc of all processes, which takes milliseconds on a busy
    /// host, so search only after a change. Opens no device node. Allocates.
    ///
    /// Blocks for at most [`MAX_SEARCH`], also if a process hangs in the kernel: the search runs on
    /// a helper thread. [`ScanCoverage::unsearched`] says what was left out.
    /// [`HolderSearch`] searches in steps.
    ///
    /// # Errors
    /// /proc cannot be listed.
    pub fn holders(&self, groups: &[GroupId], visit: &mut dyn FnMut(Holder)) -> Result<ScanCoverage> {
        let (holders, coverage) = search_whole(self, groups, MAX_SEARCH)?;
        holders.into_iter().for_each(visit);
        Ok(coverage)
    }
}

/// Searches for the holders of groups in all processes, for at most `limit`.
///
/// The search runs on a thread of its own, because the inspection of a process can hang in the kernel.
/// Such a process is skipped after a second. What was not searched is in the coverage.
///
/// # Errors
/// /proc cannot be listed.
pub(super) fn search_whole(
    root: &Root,
    groups: &[GroupId],
    limit: Duration,
) -> Result<(Vec<Holder>, ScanCoverage)> {
    let end = Instant::now() + limit;
    let groups = &unique(groups);
    let mut skipped = Vec::new();
    let mut known: Vec<Holder> = Vec::new();
    loop {
        let shared = Arc::new(Shared::default());
        shared.lock().current = Some((0, Instant::now()));
        let search = {
            let (root, groups, skipped, shared) =
                (root.clone(), groups.clone(), skipped.clone(), Arc::clone(&shared));
            move || run(&root, &groups, &skipped, &shared)
        };
        let builder = thread::Builder::new().name("vfio-holders".to_owned()).stack_size(128 * 1024);
        if builder.spawn(search).is_err() {
            // Without a thread the search can hang, but it still finds everything.
            run(root, groups, &skipped, &shared);
        }
        let mut progress = shared.wait(end);
        known.extend(progress.holders);
        let over = progress.outcome.transpose()?.is_some();
        let hung = match progress.current {
            Some((pid, since)) if !over && pid != 0 && since.elapsed() >= HANG => Some(pid),
            _ => None,
        };
        match hung {
            Some(pid) if skipped.len() < MAX_HANGS && Instant::now() < end => skipped.push(pid),
            _ => {
                known.sort_unstable_by_key(|holder| (holder.group, holder.pid, holder.via as u8));
                known.dedup_by_key(|holder| (holder.group, holder.pid));
                if !over {
                    // Also if not even the list of processes could be read in time.
                    progress.coverage.unsearched = progress.coverage.unsearched.max(1);
                }
                return Ok((known, progress.coverage));
            }
        }
    }
}

/// Searches and keeps the progress up to date.
fn run(root: &Root, groups: &[GroupId], skipped: &[u32], shared: &Shared) {
    let started = Targets::of(root, groups)
        .and_then(|targets| HolderSearch::new(root, Arc::new(targets), &[], skipped));
    let mut search = match started {
        Ok(search) => search,
        Err(error) => {
            shared.lock().outcome = Some(Err(error));
            shared.changed.notify_all();
            return;
        }
    };
    loop {
        let mut before = |pid| shared.lock().current = Some((pid, Instant::now()));
        before(0);
        let over = search.advance(root, &STEP, &mut before);
        let mut progress = shared.lock();
        progress.holders = search.sightings().iter().map(|sighting| sighting.holder).collect();
        progress.coverage = search.coverage();
        progress.current = Some((0, Instant::now()));
        if over {
            progress.outcome = Some(Ok(()));
            shared.changed.notify_all();
        }
        if over || progress.cancelled {
            return;
        }
        drop(progress);
        if search.is_starved() {
            thread::sleep(SHORTAGE);
        }
    }
}
