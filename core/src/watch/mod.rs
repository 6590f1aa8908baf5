//! Puts everything that can make news behind one descriptor to poll: uevents, /dev/vfio, the exits
//! of holders, and time.

mod bells;
mod event;
mod holders;
mod options;
mod queue;
mod search;
mod sources;
mod view;
mod wait;
mod withheld;

use crate::error::{Error, Result};
use crate::holders::{Holder, ScanCoverage};
use crate::id::GroupId;
use crate::monitor::{self, Change, Monitor};
use crate::occupancy::Occupancy;
use crate::prober::Prober;
use crate::root::Root;
use bells::{Bell, Bells};
use holders::KnownHolders;
use queue::Queue;
use sources::{Signal, Sources, Uevents};
use std::fmt;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::time::{Duration, Instant};
use withheld::Withheld;

pub use event::Event;
pub use options::Options;
pub use wait::{Deadline, MAX_QUEUED, Wait};

/// The descriptor of [`Watch::fd`], shared with the watch.
#[doc(hidden)]
#[derive(Clone, Debug)]
pub struct Descriptor(Arc<Bell>);

impl AsFd for Descriptor {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

/// Pause before another pass after a device node was created or removed. The kernel creates the
/// node of a group before the device's entry in sysfs (`__vfio_register_dev`), so a pass between
/// the two finds nothing.
const AFTER_NODE_CHANGE: Duration = Duration::from_millis(10);

/// Drives a [`Monitor`] by the events of the kernel and by a timer.
///
/// One thread drives a watch. Dropping it closes all descriptors.
///
/// ```
/// use vfio_probe::{Event, Root, Watch, watch};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let tree = tempfile::tempdir()?;
/// # std::fs::create_dir_all(tree.path().join("sys/class/vfio-dev"))?;
/// let mut watch = Watch::open(&Root::open(&tree)?, watch::Options::default())?;
/// // Nothing came before: the watch has checked, and there is no device.
/// assert_eq!(watch.wait_for_event(None)?, Some(Event::Ready));
/// assert_eq!(watch.devices().count(), 0);
/// # Ok(())
/// # }
/// ```
pub struct Watch {
    monitor: Monitor,
    options: Options,
    /// Before `holders`, so that it is dropped first.
    sources: Sources,
    holders: KnownHolders,
    events: Queue,
    withheld: Withheld,
    changes: Vec<Change>,
    next_pass: Instant,
    failure: Option<Error>,
    unreported_failure: Option<Error>,
    /// A device node was created or removed just now, perhaps in the middle of a bind or unbind.
    node_changed: bool,
    /// [`Event::Ready`] was queued.
    ready: bool,
    /// The descriptor of [`Watch::fd`].
    bell: Arc<Bell>,
    /// That one and those of all waits.
    bells: Bells,
}

impl Watch {
    /// Starts to watch all devices below a root. The first [`Watch::next`] discovers them: it reports
    /// each device as bound, and each group as held, free or changed. [`Event::Ready`] follows.
    ///
    /// A source that the kernel refuses is left out: uevents in a user namespace, inotify without
    /// /dev/vfio. The timer finds every change nevertheless, only later.
    ///
    /// # Errors
    /// The kernel creates no epoll descriptor, no eventfd or no timer.
    pub fn open(root: &Root, options: Options) -> Result<Self> {
        Self::with_prober(root.clone(), Arc::new(Prober::new(root.clone())), options)
    }

    /// Starts to watch as [`Watch::open`] does, with a prober of the caller. The prober must be of
    /// this root.
    ///
    /// # Errors
    /// As [`Watch::open`].
    #[doc(hidden)]
    pub fn with_prober(root: Root, prober: Arc<Prober>, options: Options) -> Result<Self> {
        let Options { interval, probe, probe_deadline, detail, .. } = options;
        let settings = monitor::Options { interval, probe, probe_deadline, detail };
        let monitor = Monitor::new(root, prober, settings)?;
        let sources = Sources::new(monitor.options().interval, monitor.results_fd(), options.uevents)?;
        let holders = KnownHolders::new(&monitor)?;
        sources.watch_holders(holders.fd())?;
        let mut bells = Bells::default();
        let bell = bells.take(sources.fd()).map_err(|errno| Error::system(errno, "watch"))?;
        let mut watch = Self {
            monitor,
            options,
            sources,
            holders,
            events: Queue::default(),
            withheld: Withheld::default(),
            changes: Vec::new(),
            next_pass: Instant::now(),
            failure: None,
            unreported_failure: None,
            node_changed: false,
            ready: false,
            bell,
            bells,
        };
        watch.watch_nodes();
        Ok(watch)
    }

    /// Returns a descriptor that is readable when [`Watch::next`] may have an event. Poll it; do
    /// not read it.
    ///
    /// News that a wait of another thread has taken in makes it readable too. It stays so until
    /// [`Watch::next`] has returned none. So one thread polls it, and each other thread that shares the
    /// watch has a [`Wait`], whose descriptor is its own.
    #[must_use]
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.bell.as_fd()
    }

    /// Returns a copy of [`Watch::fd`] that needs no lock and outlives the watch.
    #[doc(hidden)]
    #[must_use]
    pub fn descriptor(&self) -> Descriptor {
        Descriptor(Arc::clone(&self.bell))
    }

    /// Makes the descriptors of the watch and of all waits readable for as long as `end` is. So one
    /// write ends all waits.
    ///
    /// # Errors
    /// The kernel refuses it.
    #[doc(hidden)]
    pub fn poll_end(&self, end: BorrowedFd<'_>) -> Result<()> {
        self.sources.watch_end(end)
    }

    /// Returns whether the kernel's uevents are heard: the socket is open, and this process is in the
    /// initial user namespace. Without them the timer finds every change, only later.
    #[must_use]
    pub fn hears_uevents(&self) -> bool {
        self.sources.hears_uevents()
    }

    /// Returns the next event, or none for now. A pass that could not list the bound devices is an
    /// error, once; the watch keeps its state and tries again at the next pass.
    ///
    /// Never waits for an event. It may make a pass, which needs about 14 system calls with 8
    /// devices. A search for holders runs on a thread of the watch. [`Event::Held`] waits for its
    /// first step, at most 150 ms; holders that are found later raise [`Event::Changed`].
    #[expect(
        clippy::should_implement_trait,
        reason = "None means no event for now, an iterator's None means its end"
    )]
    pub fn next(&mut self) -> Option<Result<Event>> {
        let own = Arc::clone(&self.bell);
        self.next_for(&own)
    }

    fn next_for(&mut self, own: &Arc<Bell>) -> Option<Result<Event>> {
        if let Some(news) = self.pop() {
            return Some(news);
        }
        self.advance(own);
        self.pop()
    }

    /// Returns whether the watch has read everything once, so that it shows all
    /// devices and groups. [`Event::Ready`] is or was among the events then.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.ready
    }

    fn pop(&mut self) -> Option<Result<Event>> {
        let event = self.events.pop().map(Ok);
        event.or_else(|| self.unreported_failure.take().map(Err))
    }

    /// Takes in what the sources signal, makes a pass if one is due, and queues the events. `own` is
    /// the bell of the poller that makes this step.
    fn advance(&mut self, own: &Arc<Bell>) {
        own.clear();
        let events = self.events.total();
        self.take_signals();
        let now = Instant::now();
        let passes = now >= self.next_pass;
        let mut pause = None;
        if passes {
            self.next_pass = now + self.monitor.options().interval;
            if self.monitor.refresh_is_due(now) {
                // Another file system may have been mounted over /dev/vfio.
                self.sources.drop_nodes();
            } else if self.sources.watches_nodes() && !self.node_changed {
                self.monitor.expect_nodes_unchanged();
            }
            if self.sources.hears_uevents() {
                // One would have made this pass a refresh.
                self.monitor.expect_members_unchanged();
            }
            self.failure = self.monitor.pass(now, &mut self.changes).err();
            // One that the caller has not taken yet is older, and says the same.
            self.unreported_failure = self.failure.clone().or_else(|| self.unreported_failure.take());
            self.watch_nodes();
            pause = self.follow_up(now);
        }
        if self.options.holders {
            self.holders.update(&self.monitor, &self.changes, now);
            let start = self.holders.next_start().filter(|at| passes && *at < self.next_pass);
            let until_start = start.map(|at| at.saturating_duration_since(now));
            pause = pause.into_iter().chain(until_start).min();
        }
        if let Some(pause) = pause {
            self.tick_after(pause);
        }
        self.take_changes(now);
        if !self.ready && self.withheld.is_empty() && self.monitor.is_discovered() {
            self.ready = true;
            self.events.push(Event::Ready);
        }
        if self.events.total() > events {
            // Other threads poll for what this one has just taken from the sources.
            self.bells.ring_others(own);
        }
    }

    /// Turns changes into events. Withholds those that a group is held, until its holders can be
    /// named.
    fn take_changes(&mut self, now: Instant) {
        let Self { holders, withheld, events, changes, .. } = self;
        let is_unknown = |group| holders.is_unknown(group);
        for change in changes.drain(..) {
            match change {
                Change::Held(group) if self.options.holders && is_unknown(group) => {
                    withheld.add(group, now, events);
                }
                change => withheld.pass(change, events),
            }
        }
        withheld.release(now, is_unknown, events);
        if let Some(pause) = withheld.pause_for_new(now) {
            self.tick_after(pause);
        }
    }

    /// Lets the timer expire after this pause, if the regular interval is not shorter.
    fn tick_after(&self, pause: Duration) {
        let interval = self.monitor.options().interval;
        // If this fails, the regular tick comes nevertheless.
        let _ = self.sources.set_tick(pause.min(interval), interval);
    }

    /// Returns the monitor, with what the passes found.
    #[doc(hidden)]
    #[must_use]
    pub fn monitor(&self) -> &Monitor {
        &self.monitor
    }

    /// Returns the monitor for its settings, as [`Monitor::set_assigned`]. [`Watch::next`] makes
    /// the passes.
    #[doc(hidden)]
    pub fn monitor_mut(&mut self) -> &mut Monitor {
        &mut self.monitor
    }

    /// Records the result of a probe that the caller has made. The events follow from
    /// [`Watch::next`].
    #[doc(hidden)]
    pub fn record_probe(&mut self, group: GroupId, result: Occupancy) {
        self.monitor.record_probe(group, result, Instant::now(), &mut self.changes);
    }

    /// Returns the known holders of a held group. An empty list means nothing without
    /// [`Watch::coverage`].
    #[must_use]
    pub fn holders(&self, group: GroupId) -> &[Holder] {
        self.holders.of(group).map_or(&[], |held| &held.holders)
    }

    /// Returns how much the latest search for the group's holders could see. None if the group is
    /// not held, or if the search has not made its first step. While the search goes on,
    /// [`ScanCoverage::unsearched`] is above 0.
    #[must_use]
    pub fn coverage(&self, group: GroupId) -> Option<ScanCoverage> {
        self.holders.of(group).and_then(|held| held.coverage)
    }

    /// Returns whether the search for holders has made its first step for every held group. Until
    /// then, a held group without holders means nothing.
    #[must_use]
    pub fn holders_searched(&self) -> bool {
        let groups = self.monitor.groups().iter();
        let mut held = groups.filter(|group| group.state.occupancy.is_held());
        !self.options.holders || !held.any(|group| self.holders.is_unknown(group.id))
    }

    /// Returns why the latest pass could not list the bound devices. None if it could.
    #[must_use]
    pub fn failure(&self) -> Option<Error> {
        self.failure.clone()
    }

    /// Lets the next [`Watch::next`] make a pass.
    #[doc(hidden)]
    pub fn pass_now(&mut self) {
        self.next_pass = Instant::now();
    }

    fn take_signals(&mut self) {
        let mut space = [MaybeUninit::uninit(); 32];
        let ready = self.sources.ready(&mut space);
        let now = Instant::now();
        for signal in ready {
            match signal {
                Signal::Uevents => self.take_uevents(now),
                Signal::Nodes => {
                    self.sources.clear_nodes();
                    self.node_changed = true;
                    self.next_pass = now;
                }
                Signal::Tick => {
                    self.sources.clear_tick();
                    self.next_pass = now;
                }
                Signal::Results => self.monitor.collect(now, &mut self.changes),
                Signal::Holders => {
                    let Self { monitor, sources, holders, changes, .. } = self;
                    holders.take_news(monitor, sources, now, changes);
                }
                Signal::Exit(group, pid) => {
                    let Self { monitor, holders, changes, .. } = self;
                    holders.take_exit(monitor, (group, pid), now, changes);
                    self.monitor.probe_now(group, now);
                    self.next_pass = now;
                }
            }
        }
    }

    fn take_uevents(&mut self, now: Instant) {
        let Self { monitor, events, next_pass, .. } = self;
        self.sources.read_uevents(|received| {
            let device = match received {
                Uevents::Event(event) => event.device,
                Uevents::Lost => {
                    events.push(Event::Rescan);
                    None
                }
            };
            monitor.invalidate(device, now);
            *next_pass = now;
        });
    }

    /// Returns the pause before the next pass, if a group is still held after the exit of its holder,
    /// or if a device node has changed.
    fn follow_up(&mut self, now: Instant) -> Option<Duration> {
        let after_exit = self.holders.follow_up(&mut self.monitor, now);
        let after_node = std::mem::take(&mut self.node_changed).then_some(AFTER_NODE_CHANGE);
        after_exit.into_iter().chain(after_node).min()
    }

    fn watch_nodes(&mut self) {
        if self.sources.listen_to_uevents() {
            self.monitor.invalidate(None, Instant::now());
        }
        if !self.monitor.vfio_visible() && !self.monitor.groups().is_empty() {
            self.sources.drop_nodes();
        } else {
            self.sources.watch_nodes(self.monitor.root());
        }
    }
}

/// The descriptor of [`Watch::fd`].
impl AsFd for Watch {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd()
    }
}

impl fmt::Debug for Watch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch")
            .field("monitor", &self.monitor)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}
