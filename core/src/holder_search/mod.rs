//! Searches /proc for holders within a budget, and continues where it stopped.
//!
//! A local user can make the search of all processes expensive: with many processes, with many
//! descriptors, or with a process that hangs in the kernel. So a [`HolderSearch`] advances in steps
//! of a [`Budget`], takes likely holders first, and takes turns: each process gets a few hundred
//! descriptors before any gets more. What is left counts as `unsearched` in the coverage.
//!
//! | module | purpose |
//! | --- | --- |
//! | `targets` | what identifies the descriptors of a group |
//! | `process` | one turn of one process |
//! | `queue` | the order of the processes |
//! | `whole` | a whole search with a deadline, on threads of its own |

mod process;
mod queue;
mod targets;
#[cfg(test)]
mod tests;
mod whole;

use crate::error::{Error, Result, is_shortage};
use crate::holders::{Holder, ScanCoverage};
use crate::root::{Buffer, Root};
use process::{Place, Reader, Turn};
use queue::{Next, Queue};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub(crate) use queue::list_processes;
pub use targets::Targets;
pub use whole::MAX_SEARCH;
#[cfg(test)]
use whole::search_whole;

/// Largest number of processes in [`HolderSearch::users`]: /dev/vfio/vfio can be opened by every user.
const MAX_USERS: usize = 1024;

/// How much one step of a search may do. The step ends at the first of the three.
///
/// A step always takes at least one turn of one process: a few hundred descriptors.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Budget {
    /// Number of processes that are inspected.
    pub processes: u32,
    /// Number of descriptors that are read.
    pub descriptors: u32,
    /// Duration of the step. The time for one turn, or for listing the processes, can come on top.
    pub time: Duration,
}

/// A holder and when it was seen.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sighting {
    /// The holder.
    pub holder: Holder,
    /// When its descriptor was read.
    pub seen: Instant,
}

/// A search for the holders of some groups.
///
/// It finds the processes that exist when it starts, and those that start while it runs. A process
/// that opens a group after its turn is not found.
#[derive(Debug)]
pub struct HolderSearch {
    targets: Arc<Targets>,
    queue: Queue,
    reader: Reader,
    sightings: Vec<Sighting>,
    users: Vec<u32>,
    coverage: ScanCoverage,
    starved: bool,
}

impl HolderSearch {
    /// Starts a search of all processes. `likely` are processes that are searched first, in this
    /// order. `skipped` are processes that are not searched, because they hang in the kernel; they
    /// count as unsearched.
    ///
    /// Reads the list of processes, and searches none yet. Allocates.
    ///
    /// # Errors
    /// /proc cannot be listed.
    pub fn new(root: &Root, targets: Arc<Targets>, likely: &[u32], skipped: &[u32]) -> Result<Self> {
        let mut search = Self::of(targets, &[]);
        search.coverage.pid_namespace = root.pid_namespace();
        search.queue = Queue::all(root, likely, skipped, &mut Buffer::new())
            .map_err(|errno| Error::system(errno, "proc"))?;
        Ok(search)
    }

    /// Starts a search of these processes only, in this order. Performs no I/O.
    #[must_use]
    pub fn of(targets: Arc<Targets>, processes: &[u32]) -> Self {
        Self {
            targets,
            queue: Queue::only(processes),
            reader: Reader::new(),
            sightings: Vec::new(),
            users: Vec::new(),
            coverage: ScanCoverage::default(),
            starved: false,
        }
    }

    /// Makes one step. Returns true if the search is over.
    ///
    /// `before` is called with the pid before each process is inspected, because that can hang in
    /// the kernel: a file of the process may be on a file system that does not respond. The pid is
    /// 0 before all processes are listed again.
    pub fn advance(&mut self, root: &Root, budget: &Budget, before: &mut dyn FnMut(u32)) -> bool {
        self.starved = false;
        let end = Instant::now() + budget.time;
        let (mut processes, mut descriptors) = (budget.processes, budget.descriptors);
        loop {
            match self.queue.next(root, before) {
                None => return true,
                Some(Next::Nothing) => {}
                Some(Next::Search(place)) => {
                    before(place.pid);
                    let mut turn = Turn::new(place, end);
                    if !self.search(root, place, &mut turn) {
                        return false;
                    }
                    descriptors = descriptors.saturating_sub(turn.descriptors);
                }
            }
            processes = processes.saturating_sub(1);
            if processes == 0 || descriptors == 0 || Instant::now() >= end {
                return self.queue.is_over();
            }
        }
    }

    /// Takes one turn of a process. Returns false if this process has no descriptor left to read
    /// with.
    fn search(&mut self, root: &Root, place: Place, turn: &mut Turn) -> bool {
        match self.reader.take_turn(root, &self.targets, turn) {
            Ok(None) => {}
            Ok(Some(next)) => self.queue.continue_later(next),
            // That says nothing about the process, so it stays unsearched.
            Err(errno) if is_shortage(errno) => {
                self.queue.continue_later(place);
                self.starved = true;
                return false;
            }
            Err(_) => self.coverage.unreadable += 1,
        }
        self.coverage.unattributed += turn.unattributed;
        for sighting in turn.sightings.drain(..) {
            let Holder { group, pid, start_time, .. } = sighting.holder;
            let is_same =
                |known: &Holder| (known.group, known.pid, known.start_time) == (group, pid, start_time);
            if !self.sightings.iter().any(|known| is_same(&known.holder)) {
                self.sightings.push(sighting);
            }
        }
        if turn.uses_vfio && !self.users.contains(&place.pid) && self.users.len() < MAX_USERS {
            self.users.push(place.pid);
        }
        true
    }

    /// Returns the holders that were found so far, once for each process and group.
    #[must_use]
    pub fn sightings(&self) -> &[Sighting] {
        &self.sightings
    }

    /// Returns the processes that were seen with /dev/vfio/vfio or /dev/iommu open, which every
    /// user of VFIO opens. A later search may take them first.
    #[must_use]
    pub fn users(&self) -> &[u32] {
        &self.users
    }

    /// Returns whether the latest step ended because this process, or the host, has no descriptor
    /// or no memory left. A caller waits before it goes on.
    #[must_use]
    pub fn is_starved(&self) -> bool {
        self.starved
    }

    /// Returns how much the search has seen so far.
    #[must_use]
    pub fn coverage(&self) -> ScanCoverage {
        ScanCoverage { processes: self.queue.processes(), unsearched: self.queue.left(), ..self.coverage }
    }
}
