//! Starts the monitor thread, and gives the rest of the plugin a handle of it.

mod inbox;
mod publish;
mod run;
#[cfg(test)]
mod tests;

use crate::config::Config;
use crate::config::pools_watch::PoolsFileWatch;
use crate::metrics::MetricsHandle;
use crate::node::cdi_dir::CdiDir;
use crate::node::cdi_dir::written::WrittenSpecs;
use crate::node::hardware::readers::HardwareReaders;
use crate::node::hardware::{HardwareMonitor, Timing};
use crate::node::naming::ResourceNamer;
use crate::problems::ProblemCode;
use crate::run_dir::RunDir;
use crate::supervise::Supervisor;
use anyhow::Context;
use inbox::Inbox;
use run::{MonitorLoop, Sources, detail_for};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::watch;
use vfio_plugin_policy::assignments::reserved::{AssignedDevices, PinnedOffer};
use vfio_plugin_policy::device::NodeSnapshot;
use vfio_probe::{DeviceId, GroupId, Occupancy, Prober, Root, Watch};

/// A handle of the monitor thread. Clones share it.
///
/// The thread drives the core's watch. It checks the devices once an interval and whenever the kernel reports an event, and sends a
/// [`NodeSnapshot`] after each change. The methods here only leave something in the thread's inbox: none of them blocks, and each
/// can be called from any thread. The thread runs until [`stop`](Self::stop).
#[derive(Clone, Debug)]
pub(crate) struct MonitorHandle {
    /// The root that the thread watches.
    pub(crate) root: Root,
    /// Probes groups on threads of its own. The monitor and Allocate share it, so that no group is opened twice at a time.
    pub(crate) prober: Arc<Prober>,
    /// Whether groups may be opened at all.
    pub(crate) probe: bool,
    /// Whether the kernel reports at once that a function was added to a group.
    pub(crate) hears_uevents: bool,
    /// The readers of the devices' hardware; none if no check needs them.
    pub(crate) readers: Option<Arc<HardwareReaders>>,
    /// The CDI specs on disk, as they were written.
    pub(crate) cdi_files: Arc<WrittenSpecs>,
    /// The latest snapshot; none until the first is complete.
    pub(crate) snapshots: watch::Receiver<Option<Arc<NodeSnapshot>>>,
    /// Stays open when the thread ends: the supervisor reports that, not the readers of snapshots.
    _sender: watch::Sender<Option<Arc<NodeSnapshot>>>,
    inbox: Arc<Inbox>,
}

impl MonitorHandle {
    /// Opens the root and starts the thread. `lost` are the devices with lost hardware when the previous process ended.
    ///
    /// # Errors
    /// The root cannot be opened, or the kernel provides no further descriptor or thread.
    pub(crate) fn start(
        config: &Config,
        run_dir: &RunDir,
        lost: impl Iterator<Item = DeviceId>,
        metrics: MetricsHandle,
        supervisor: &Supervisor,
    ) -> anyhow::Result<Self> {
        let (handle, monitor_loop) = Self::prepare(config, run_dir, lost, metrics)?;
        supervisor
            .thread("monitor", 256 * 1024, move || monitor_loop.run())
            .context("cannot start the monitor thread")?;
        Ok(handle)
    }

    /// Returns the handle of a monitor that never makes a pass.
    #[cfg(test)]
    pub(crate) fn without_passes(config: &Config, run_dir: &RunDir) -> anyhow::Result<Self> {
        Self::prepare(config, run_dir, std::iter::empty(), None).map(|(handle, _)| handle)
    }

    /// Opens the root. Returns a handle and the loop that the thread runs.
    ///
    /// # Errors
    /// The root cannot be opened, or the kernel provides no further descriptor.
    fn prepare(
        config: &Config,
        run_dir: &RunDir,
        lost: impl Iterator<Item = DeviceId>,
        metrics: MetricsHandle,
    ) -> anyhow::Result<(Self, MonitorLoop)> {
        let root = Root::open(&config.root)?;
        let mut prober = Prober::new(root.clone());
        if let Some(metrics) = &metrics {
            prober = prober.with_observer(metrics.probe_observer());
        }
        let prober = Arc::new(prober);
        let options = vfio_probe::watch::Options::default()
            .with_interval(config.interval)
            .with_probe(!config.no_probe)
            .with_detail(detail_for(&config.offered));
        let mut watch = Watch::with_prober(root.clone(), Arc::clone(&prober), options)?;
        // The first pass shows what is bound, and so which groups have offered devices.
        watch.monitor_mut().set_watched(Some(Vec::new()));
        let timing = Timing { interval: config.checks_interval, settling: config.settling };
        let sources = Sources {
            watch,
            namer: ResourceNamer::new(config.offered.clone(), config.pci_ids.clone(), run_dir),
            pools: config
                .pools
                .clone()
                .map(|path| PoolsFileWatch::new(path, config.default_offer(), config.offers_by_dra())),
            cdi: CdiDir::new(config.cdi_dir.clone(), run_dir),
            hardware: HardwareMonitor::new(
                (root.clone(), &config.root),
                config.checks(),
                timing,
                lost,
                Instant::now(),
            ),
            problems: run_dir.problems.clone(),
        };
        let hears_uevents = sources.watch.hears_uevents();
        if !hears_uevents {
            let text = "the kernel's events are not available; changes are found once an interval";
            sources.problems.begin(ProblemCode::UeventsUnavailable, "uevents", text);
            tracing::info!("uevents are not available; changes of devices are found once an interval");
        }
        let readers = sources.hardware.as_ref().map(HardwareMonitor::readers);
        if let Some(readers) = &readers {
            readers.set_problems(&run_dir.problems);
        }
        let cdi_files = sources.cdi.written();
        let inbox = Arc::new(Inbox::new().context("cannot create the eventfd that wakes the monitor")?);
        let (sender, snapshots) = watch::channel(None);
        let monitor_loop = MonitorLoop::new(sources, Arc::clone(&inbox), sender.clone(), metrics);
        let handle = Self {
            root,
            prober,
            probe: options.probe,
            hears_uevents,
            readers,
            cdi_files,
            snapshots,
            _sender: sender,
            inbox,
        };
        Ok((handle, monitor_loop))
    }

    /// Reports the result of a probe that another component made.
    pub(crate) fn record_probe(&self, group: GroupId, result: Occupancy) {
        self.inbox.report(|reports| reports.probes.push((group, result)));
    }

    /// Requests a check of all devices now. The `reports_seen` of a snapshot shows whether it was made after that check.
    pub(crate) fn check_now(&self) {
        self.inbox.report(|reports| reports.check_now = true);
    }

    /// Requests that all device records are read again, in a check now.
    pub(crate) fn reread_records(&self) {
        self.inbox.report(|reports| (reports.check_now, reports.reread_records) = (true, true));
    }

    /// Requests that the CDI specs are written again, because an Allocate found other device nodes than they have.
    pub(crate) fn refresh_cdi_specs(&self) {
        self.inbox.report(|_| {});
    }

    /// Returns the number of reports and requests since the start. A snapshot's `reports_seen` counts those that it includes.
    pub(crate) fn reports_sent(&self) -> u64 {
        self.inbox.reports_sent()
    }

    /// Sets the devices that are assigned to pods. The thread probes nothing before the first call, or before a second has passed.
    pub(crate) fn set_assigned(&self, assigned: AssignedDevices) {
        self.inbox.set_exclusion(|exclusions| &mut exclusions.assigned, Some(assigned));
    }

    /// Adds devices to the assigned ones, for an Allocate that was granted. Does not wake the thread, which takes them in before its
    /// next pass probes anything. Returns false if the assigned devices are not set yet.
    pub(crate) fn add_assigned(&self, offers: Vec<(DeviceId, PinnedOffer)>) -> bool {
        self.inbox.add_assigned(offers)
    }

    /// Sets the devices that were assigned to pods when the previous process ended.
    pub(crate) fn set_restored(&self, restored: AssignedDevices) {
        self.inbox.set_exclusion(|exclusions| &mut exclusions.restored, Some(restored));
    }

    /// Sets the groups that Allocate refuses although a pod is assigned them. Only a probe shows when they are free.
    pub(crate) fn set_contested(&self, contested: BTreeSet<GroupId>) {
        self.inbox.set_exclusion(|exclusions| &mut exclusions.contested, contested);
    }

    /// Wakes the monitor thread.
    pub(crate) fn wake(&self) {
        self.inbox.wake();
    }

    /// Returns the time since the thread's latest pass.
    pub(crate) fn silent_for(&self) -> Duration {
        self.inbox.silent_for()
    }

    /// Returns the time since the start.
    pub(crate) fn age(&self) -> Duration {
        self.inbox.age()
    }

    /// Ends the thread, and does not wait for it.
    pub(crate) fn stop(&self) {
        self.inbox.stop();
        // At once, and not at the end of the thread: a read that has begun may hang, and the process' end waits for it.
        if let Some(readers) = &self.readers {
            readers.end();
        }
        self.wake();
    }
}
