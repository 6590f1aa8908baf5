//! Remembers the processes that are likely to open a group next: the new ones, and those that use
//! VFIO.

use crate::holder_search::list_processes;
use crate::root::{Buffer, Root};
use std::time::{Duration, Instant};

/// A process opens its groups within this time after its start, or it is found by the slow search
/// of all processes.
const YOUNG: Duration = Duration::from_secs(30);
/// Largest number of processes in each list. Any user can fill them.
const MAX: usize = 4096;

/// The processes that are likely to open a group.
#[derive(Debug, Default)]
pub(super) struct Candidates {
    /// The processes of the latest list, sorted.
    listed: Vec<u32>,
    /// Processes that were new in a list, and when.
    young: Vec<(u32, Instant)>,
    /// Processes that use VFIO.
    users: Vec<u32>,
}

impl Candidates {
    /// Lists the processes that run now, so that later ones are new.
    pub(super) fn begin(&mut self, root: &Root) {
        self.listed = list_processes(root, &mut Buffer::new()).unwrap_or_default();
    }

    /// Returns the processes that use VFIO and the new ones, the newest first. None if /proc cannot be
    /// listed.
    pub(super) fn update(&mut self, root: &Root) -> Option<Vec<u32>> {
        let now = Instant::now();
        let listed = list_processes(root, &mut Buffer::new()).ok()?;
        let is_new = |pid: &&u32| self.listed.binary_search(pid).is_err();
        let new = listed.iter().filter(is_new).map(|pid| (*pid, now));
        let is_listed = |pid: u32| listed.binary_search(&pid).is_ok();
        self.young.retain(|(pid, since)| now.duration_since(*since) < YOUNG && is_listed(*pid));
        self.young.extend(new);
        // The newest are checked first, so they stay.
        self.young.drain(..self.young.len().saturating_sub(MAX));
        self.users.retain(|pid| is_listed(*pid));
        let mut candidates = self.users.clone();
        candidates.extend(self.newest_first());
        self.listed = listed;
        Some(candidates)
    }

    /// Returns all of them with these processes, sorted.
    pub(super) fn with(&self, pids: impl Iterator<Item = u32>) -> Vec<u32> {
        let mut all: Vec<u32> = pids.chain(self.newest_first()).chain(self.users.iter().copied()).collect();
        all.sort_unstable();
        all.dedup();
        all
    }

    /// Remembers processes that use VFIO.
    pub(super) fn add_users(&mut self, users: &[u32]) {
        for user in users {
            if self.users.len() < MAX && !self.users.contains(user) {
                self.users.push(*user);
            }
        }
    }

    fn newest_first(&self) -> impl Iterator<Item = u32> {
        self.young.iter().rev().map(|(pid, _)| *pid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn newest_of_too_many_processes_are_candidates() {
        let directory = tempfile::tempdir().unwrap();
        let newest = u32::try_from(MAX).unwrap() + 10;
        for pid in 1..=newest {
            std::fs::create_dir_all(directory.path().join(format!("proc/{pid}"))).unwrap();
        }
        let root = Root::open(directory.path()).unwrap();
        let mut candidates = Candidates::default();
        for _ in 0..2 {
            let found = candidates.update(&root).unwrap();
            assert_eq!((found.len(), found.first()), (MAX, Some(&newest)));
        }
    }

    #[test]
    fn process_that_ran_at_the_start_is_one_only_if_it_uses_vfio() {
        let directory = tempfile::tempdir().unwrap();
        for pid in [7, 8] {
            std::fs::create_dir_all(directory.path().join(format!("proc/{pid}"))).unwrap();
        }
        let root = Root::open(directory.path()).unwrap();
        let mut candidates = Candidates::default();
        candidates.begin(&root);
        assert_eq!(candidates.update(&root).unwrap(), [0; 0]);
        candidates.add_users(&[8, 8]);
        assert_eq!(candidates.update(&root).unwrap(), [8]);
        assert_eq!(candidates.with([9, 8].into_iter()), [8, 9]);
        std::fs::remove_dir(directory.path().join("proc/8")).unwrap();
        assert_eq!(candidates.update(&root).unwrap(), [0; 0]);
    }
}
