//! Orders the processes of a search: likely holders first, and no process may delay the others for
//! long.

use super::process::Place;
use crate::root::{Buffer, PAGE, Root};
use rustix::io::Errno;
use std::collections::VecDeque;

/// How often a search lists the processes again to find those that started meanwhile. A process
/// that starts after the last listing counts as unsearched.
const MAX_LISTINGS: u32 = 4;

/// The processes that are still to be searched.
#[derive(Debug, Default)]
pub(super) struct Queue {
    /// Processes that are searched before all others.
    first: VecDeque<u32>,
    /// Processes whose cgroup was not read yet, the newest first: a holder that was not found
    /// before has probably started just now.
    unclassified: VecDeque<u32>,
    /// Processes whose cgroup makes them no likely holders.
    unlikely: VecDeque<u32>,
    /// Processes with more descriptors than they have had turns for.
    partial: VecDeque<Place>,
    /// All processes that were listed, sorted.
    listed: Vec<u32>,
    skipped: Vec<u32>,
    /// Number of listings that may still follow.
    listings: u32,
    /// Number of processes in the last listing that were not listed before.
    missed: u32,
}

/// One step through the queue.
pub(super) enum Next {
    /// This process is to be searched.
    Search(Place),
    /// The order of the queue was improved.
    Nothing,
}

impl Queue {
    /// Lists all processes. `likely` come first. `skipped` are not searched.
    pub(super) fn all(
        root: &Root,
        likely: &[u32],
        skipped: &[u32],
        buffer: &mut Buffer,
    ) -> Result<Self, Errno> {
        let mut queue = Self { listings: MAX_LISTINGS, skipped: skipped.to_vec(), ..Self::default() };
        queue.list(root, buffer)?;
        let is_listed = |pid: &&u32| queue.listed.binary_search(pid).is_ok();
        queue.first = likely.iter().filter(is_listed).copied().collect();
        let first = &queue.first;
        queue.unclassified.retain(|pid| !first.contains(pid));
        queue.first.retain(|pid| !skipped.contains(pid));
        Ok(queue)
    }

    pub(super) fn only(processes: &[u32]) -> Self {
        let mut listed = processes.to_vec();
        listed.sort_unstable();
        Self { first: processes.iter().copied().collect(), listed, ..Self::default() }
    }

    /// Lists the processes and queues those that were not listed before, the newest first.
    fn list(&mut self, root: &Root, buffer: &mut Buffer) -> Result<(), Errno> {
        let listed = list_processes(root, buffer)?;
        let new = listed.iter().rev().filter(|pid| self.listed.binary_search(pid).is_err());
        let before = self.unclassified.len();
        self.unclassified.extend(new.filter(|pid| !self.skipped.contains(pid)));
        self.missed = u32::try_from(self.unclassified.len() - before).unwrap_or(u32::MAX);
        self.listed = listed;
        self.listings -= 1;
        Ok(())
    }

    /// Takes one step through the queue. None if the search is over.
    pub(super) fn next(&mut self, root: &Root, before: &mut dyn FnMut(u32)) -> Option<Next> {
        if let Some(pid) = self.first.pop_front() {
            return Some(Next::Search(Place::start(pid)));
        }
        if let Some(pid) = self.unclassified.pop_front() {
            before(pid);
            if is_likely(root, pid) {
                return Some(Next::Search(Place::start(pid)));
            }
            self.unlikely.push_back(pid);
            return Some(Next::Nothing);
        }
        if let Some(pid) = self.unlikely.pop_front() {
            return Some(Next::Search(Place::start(pid)));
        }
        if let Some(place) = self.partial.pop_front() {
            return Some(Next::Search(place));
        }
        if self.listings == 0 {
            return None;
        }
        before(0);
        if self.list(root, &mut Buffer::new()).is_err() || self.missed == 0 {
            self.listings = 0;
        } else if self.listings == 0 {
            // Processes start faster than they can be searched. These stay unsearched.
            self.unclassified.clear();
        }
        Some(Next::Nothing)
    }

    /// Puts a process behind all others.
    pub(super) fn continue_later(&mut self, place: Place) {
        self.partial.push_back(place);
    }

    /// Returns whether nothing is left, not even another listing.
    pub(super) fn is_over(&self) -> bool {
        self.listings == 0 && self.waiting() == 0
    }

    /// Returns the number of processes in the latest listing.
    pub(super) fn processes(&self) -> u32 {
        u32::try_from(self.listed.len()).unwrap_or(u32::MAX)
    }

    /// Returns the number of processes that were not searched, or not to the end.
    pub(super) fn left(&self) -> u32 {
        let missed = if self.listings == 0 && self.waiting() == 0 { self.missed } else { 0 };
        let skipped = self.skipped.iter().filter(|pid| self.listed.binary_search(pid).is_ok()).count();
        u32::try_from(self.waiting() + skipped).unwrap_or(u32::MAX).saturating_add(missed)
    }

    fn waiting(&self) -> usize {
        self.first.len() + self.unclassified.len() + self.unlikely.len() + self.partial.len()
    }
}

/// Returns the pids of all visible processes, sorted.
///
/// # Errors
/// /proc cannot be listed.
pub(crate) fn list_processes(root: &Root, buffer: &mut Buffer) -> Result<Vec<u32>, Errno> {
    let mut listed = Vec::new();
    root.list(format_args!("proc"), buffer, |name| {
        listed.extend(std::str::from_utf8(name).ok().and_then(|name| name.parse::<u32>().ok()));
    })?;
    listed.sort_unstable();
    Ok(listed)
}

/// Returns whether the cgroup of a process belongs to a pod or a VM. Decides the order only: users
/// own cgroups below `user.slice` and may name them as they like.
fn is_likely(root: &Root, pid: u32) -> bool {
    let mut text = [0; PAGE];
    let Ok(text) = root.read(format_args!("proc/{pid}/cgroup"), &mut text) else { return false };
    let contains = |part: &[u8]| memchr::memmem::find(text, part).is_some();
    (contains(b"kubepods") || contains(b"machine.slice") || contains(b"kata")) && !contains(b"user.slice")
}
