//! The monitor thread's loop: takes in what the node and other threads report.

use crate::config::pools_watch::PoolsFileWatch;
use crate::log_once::LogOnce;
use crate::metrics::MetricsHandle;
use crate::node::cdi_dir::CdiDir;
use crate::node::hardware::HardwareMonitor;
use crate::node::monitor::inbox::Inbox;
use crate::node::naming::ResourceNamer;
use crate::node::probe_exclusions::ProbeExclusions;
use crate::problems::{ProblemCode, Problems};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use vfio_plugin_policy::cdi::request::SpecDevice;
use vfio_plugin_policy::device::NodeSnapshot;
use vfio_plugin_policy::pools::Pools;
use vfio_probe::device::Detail;
use vfio_probe::{Device, Event, GroupId, PciAddress, Watch};

/// Limit for two waits at the start: the first probes wait this long for the assignments, and the first snapshot for the results
/// of the first probes. A probe of a device that is being reset hangs.
const START: Duration = Duration::from_secs(1);
/// The longest sleep until the first snapshot.
const START_SLEEP: Duration = Duration::from_millis(50);
/// The longest sleep after that. The watch's timer ends a sleep sooner; without the timer, passes come at least this often.
const MAX_SLEEP: Duration = Duration::from_secs(5);

/// What the monitor thread drives.
pub(super) struct Sources {
    /// The core's watch of devices, groups and holders.
    pub(super) watch: Watch,
    /// The names of resources.
    pub(super) namer: ResourceNamer,
    /// The pools file, if there is one.
    pub(super) pools: Option<PoolsFileWatch>,
    /// The directory of CDI specs.
    pub(super) cdi: CdiDir,
    /// The state of the devices' hardware; none if no check needs it.
    pub(super) hardware: Option<HardwareMonitor>,
    /// Has what cannot be read.
    pub(super) problems: Problems,
}

/// The loop and its state.
pub(super) struct MonitorLoop {
    pub(super) sources: Sources,
    pub(super) inbox: Arc<Inbox>,
    pub(super) snapshots: watch::Sender<Option<Arc<NodeSnapshot>>>,
    pub(super) exclusions: ProbeExclusions,
    /// The groups that the watch follows, sorted.
    pub(super) watched_groups: Vec<GroupId>,
    /// The number of reports that were taken from the inbox.
    pub(super) reports_seen: u64,
    /// The number of devices with a stale `enable` count.
    pub(super) stale_enables: usize,
    /// Why the bound devices could not be listed in the latest pass.
    pub(super) failure: Option<vfio_probe::Error>,
    /// The devices of the CDI specs on disk.
    pub(super) cdi_devices: Vec<SpecDevice>,
    /// Errors of single devices, as text.
    pub(super) logged_errors: LogOnce<String>,
    pub(super) logged_functions: LogOnce<PciAddress>,
    pub(super) metrics: MetricsHandle,
}

impl MonitorLoop {
    /// Returns a loop that has made no pass yet.
    pub(super) fn new(
        sources: Sources,
        inbox: Arc<Inbox>,
        snapshots: watch::Sender<Option<Arc<NodeSnapshot>>>,
        metrics: MetricsHandle,
    ) -> Self {
        Self {
            sources,
            inbox,
            snapshots,
            exclusions: ProbeExclusions::default(),
            watched_groups: Vec::new(),
            reports_seen: 0,
            stale_enables: 0,
            failure: None,
            cdi_devices: Vec::new(),
            logged_errors: LogOnce::default(),
            logged_functions: LogOnce::default(),
            metrics,
        }
    }

    /// Runs until the inbox is stopped.
    pub(super) fn run(mut self) {
        self.sources.watch.monitor_mut().pause_probes(true);
        loop {
            // Before the check: a stop after this wakes the thread.
            self.inbox.begin_pass();
            if self.inbox.is_stopped() {
                return;
            }
            let began = self.metrics.as_ref().map(|_| Instant::now());
            let sleep = self.pass();
            if let (Some(metrics), Some(began)) = (&self.metrics, began) {
                metrics.counters.passes.record(began.elapsed());
            }
            self.inbox.wait(self.sources.watch.fd(), sleep);
        }
    }

    /// Makes one pass. Returns how long the thread may sleep after it.
    pub(super) fn pass(&mut self) -> Duration {
        let mut changed = self.take_exclusions();
        changed |= self.reload_pools();
        changed |= self.take_reports();
        changed |= self.take_events();
        let mut is_due = changed;
        // A device may be bound during the pass that follows for another one. Its group must not stay unwatched until the next change.
        while (is_due && self.watch_offered_groups()) | self.resume_probes() {
            is_due = self.take_events();
            changed |= is_due;
        }
        changed |= self.take_hardware();
        changed |= self.take_stale_enables();
        changed |= self.take_unbound();
        self.inbox.record_pass();
        changed |= self.take_failure();
        changed |= self.learn_names(changed);
        let is_complete = self.is_complete();
        if is_complete {
            self.publish(changed);
        }
        self.read_hardware();
        if is_complete { MAX_SLEEP } else { START_SLEEP }
    }

    /// Takes in changed assignments. Returns whether they change what is offered.
    fn take_exclusions(&mut self) -> bool {
        let Some(exclusions) = self.inbox.exclusions_unless(&self.exclusions) else { return false };
        let Sources { watch, namer, .. } = &mut self.sources;
        let matters = namer.keeps_any()
            || namer.contradicts(exclusions.pinned_offers())
            || exclusions.any_unbound(watch);
        let changed = exclusions.assigned != self.exclusions.assigned && matters;
        self.exclusions = exclusions;
        let assigned = self.exclusions.not_to_probe(watch);
        watch.monitor_mut().set_assigned(assigned);
        changed
    }

    /// Reads the pools file if it has changed. Returns whether there are other pools.
    fn reload_pools(&mut self) -> bool {
        let Sources { watch, namer, pools: Some(file), problems, .. } = &mut self.sources else {
            return false;
        };
        let result = file.changed();
        if let Some(Ok(_)) = result {
            problems.end(ProblemCode::PoolsRejected, file.path());
        }
        match result {
            None => false,
            // As in the first pass, which reads the file that the start of the program has read.
            Some(Ok(pools)) if pools == *namer.pools() => false,
            Some(Ok(pools)) => {
                tracing::info!(file = %file.path(), "pools file was read again after a change");
                watch.monitor_mut().set_detail(detail_for(&pools), Instant::now());
                // Before the next snapshot, for which a selector may need the devices' parents.
                watch.pass_now();
                namer.set_pools(pools);
                true
            }
            Some(Err(error)) => {
                let text = format!("the file is rejected, and the former pools stay in use: {error}");
                problems.begin(ProblemCode::PoolsRejected, file.path(), text);
                tracing::warn!(file = %file.path(), %error, "pools file rejected; the former pools stay in use");
                false
            }
        }
    }

    /// Lets the watch follow the groups with an offered device, and no others: each costs descriptors and system calls, and a
    /// probe. Returns whether they have changed and a pass follows for them.
    fn watch_offered_groups(&mut self) -> bool {
        let Sources { watch, namer, .. } = &mut self.sources;
        let exclusions = &self.exclusions;
        let is_offered = |device: &&Device| namer.may_offer(device) || exclusions.is_assigned(device);
        let mut groups: Vec<GroupId> =
            bound(watch).filter(is_offered).filter_map(|device| device.group).collect();
        groups.sort_unstable();
        groups.dedup();
        if groups == self.watched_groups {
            return false;
        }
        self.watched_groups.clone_from(&groups);
        watch.monitor_mut().set_watched(Some(groups));
        // Otherwise the pass comes with the end of the pause.
        let passes = !watch.monitor().probes_paused();
        if passes {
            watch.pass_now();
        }
        passes
    }

    /// Ends the pause of probes once the assignments are known, because a group of a pod must never be opened. Returns whether it
    /// has ended just now, and a pass follows.
    fn resume_probes(&mut self) -> bool {
        let may_probe = self.exclusions.assigned.is_some() || self.inbox.age() > START;
        let watch = &mut self.sources.watch;
        let ends = may_probe && watch.monitor().probes_paused();
        if ends {
            watch.monitor_mut().pause_probes(false);
            watch.pass_now();
        }
        ends
    }

    /// Takes in reports and requests. Returns whether there were any.
    fn take_reports(&mut self) -> bool {
        let (reports, count) = self.inbox.take_reports();
        let changed = count > self.reports_seen;
        self.reports_seen = count;
        let watch = &mut self.sources.watch;
        if reports.reread_records {
            watch.monitor_mut().invalidate(None, Instant::now());
        }
        if reports.check_now {
            watch.pass_now();
        }
        for (group, result) in reports.probes {
            watch.record_probe(group, result);
        }
        changed
    }

    /// Takes in the watch's events. Returns whether there were any.
    fn take_events(&mut self) -> bool {
        let Sources { watch, hardware, .. } = &mut self.sources;
        let mut changed = false;
        // `take_failure` takes in what a pass could not read.
        while let Some(Ok(event)) = watch.next() {
            tracing::debug!(?event, "watch reported an event");
            changed = true;
            match (hardware.as_mut(), event) {
                (Some(hardware), Event::Bound(_)) => hardware.bound(Instant::now()),
                (Some(hardware), Event::Unbound(device)) => hardware.unbound(device),
                _ => {}
            }
        }
        changed
    }

    /// Takes in readings of the devices' hardware. Returns whether the state of any has changed.
    fn take_hardware(&mut self) -> bool {
        let Some(hardware) = &mut self.sources.hardware else { return false };
        hardware.take_readings() | hardware.read_framebuffers(Instant::now())
    }

    /// Reads the assigned devices again that were not bound in the latest snapshot. Returns whether one has another driver, or has
    /// come or gone: the watch has no event for devices on other drivers. Costs nothing while all assigned devices are bound.
    fn take_unbound(&self) -> bool {
        let Some(latest) = self.snapshots.borrow().clone().filter(|latest| !latest.unbound.is_empty()) else {
            return false;
        };
        let unbound = self.exclusions.unbound(&self.sources.watch);
        let differs = |device: &Device| {
            let mut known = latest.unbound.iter().map(|state| &state.device);
            known.any(|known| known.id == device.id && known != device)
        };
        !unbound.missing.iter().all(|id| latest.missing.contains(id)) || unbound.existing.iter().any(differs)
    }

    /// Counts the stale `enable` counts, for which the watch has no event. Returns whether their number has changed.
    fn take_stale_enables(&mut self) -> bool {
        let devices = self.sources.watch.monitor().devices();
        let count = devices.iter().filter(|tracked| tracked.enable_is_stale()).count();
        std::mem::replace(&mut self.stale_enables, count) != count
    }

    /// Takes in whether the bound devices could be listed, and logs a new failure. Returns whether a failure began or ended.
    fn take_failure(&mut self) -> bool {
        let failure = self.sources.watch.failure();
        if failure == self.failure {
            return false;
        }
        let (problems, code) = (&self.sources.problems, ProblemCode::DevicesNotListed);
        problems.keep(code, |_| failure.is_some());
        if let Some(error) = &failure {
            problems.begin(
                code,
                "bound devices",
                format!("they cannot be listed, and the latest list stays: {error}"),
            );
            tracing::warn!(%error, "bound devices could not be listed; the devices of the latest list stay");
        }
        let changed = failure.is_some() != self.failure.is_some();
        self.failure = failure;
        changed
    }

    /// Learns names after a change, and when a failed read of a name is to be repeated. Runs while the first probes are under way
    /// too. Returns whether any name is new.
    fn learn_names(&mut self, changed: bool) -> bool {
        let Sources { watch, namer, .. } = &mut self.sources;
        if !changed && !namer.is_due(Instant::now()) {
            return false;
        }
        let unbound = self.exclusions.unbound(watch).existing;
        let is_new = namer.learn(watch.monitor().root(), &bound(watch).chain(&unbound));
        namer.warn_of_overlaps(bound(watch));
        is_new
    }

    /// Returns whether snapshots can be published: the former assignments are known, without which CDI specs of running pods would
    /// be removed, and the first probes and the first step of the search for holders have results or took too long.
    fn is_complete(&self) -> bool {
        let watch = &self.sources.watch;
        let is_known = watch.monitor().initial_probes_done() && watch.holders_searched();
        self.exclusions.restored.is_some() && (is_known || self.inbox.age() > START)
    }

    /// Lets the readers read the hardware of the devices of the latest snapshot, if it is time for that.
    fn read_hardware(&mut self) {
        if let (Some(hardware), Some(snapshot)) = (&mut self.sources.hardware, &*self.snapshots.borrow()) {
            hardware.read(snapshot, Instant::now());
        }
    }
}

/// Returns the records of the bound devices.
pub(super) fn bound(watch: &Watch) -> impl Iterator<Item = &Device> + Clone {
    watch.monitor().devices().iter().map(|tracked| &tracked.device)
}

/// Returns how much of each device record these pools need. A virtual function's parent costs four system calls a device, so it
/// is read only for pools that select by it.
pub(super) fn detail_for(pools: &Pools) -> Detail {
    if pools.need_parents() { Detail::Full } else { Detail::Identity }
}
