//! The thread that drives the core's watch and publishes what it finds.

use crate::config::Config;
use crate::config::pools_watch::PoolsFileWatch;
use crate::node::cdi_dir::{CdiDir, CdiFiles};
use crate::node::cdi_specs::wanted;
use crate::node::hardware::HardwareMonitor;
use crate::node::hardware::readers::HardwareReaders;
use crate::node::naming::ResourceNamer;
use crate::node::probe_exclusions::ProbeExclusions;
use crate::node::snapshot;
use crate::node::vgpu_types::VgpuTypes;
use crate::supervise::Supervisor;
use anyhow::Context;
use parking_lot::Mutex;
use rustix::event::{EventfdFlags, PollFd, PollFlags, eventfd, poll};
use rustix::time::Timespec;
use std::collections::BTreeSet;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;
use vfio_plugin_policy::assignments::reserved::AssignedDevices;
use vfio_plugin_policy::device::{DeviceState, NodeSnapshot};
use vfio_plugin_policy::pools::Pools;
use vfio_plugin_policy::sriov;
use vfio_probe::device::Detail;
use vfio_probe::monitor::{self, Monitor};
use vfio_probe::{Device, DeviceId, Event, GroupId, Occupancy, Prober, Root, Watch};

/// The first opens wait this long for the owners, and the first snapshot for the first opens, which hang where a device is
/// being reset.
const FIRST_ANSWERS: Duration = Duration::from_secs(1);
/// A pause as long as this without a tick means that the timer is gone; then passes come at least this often.
const LONGEST_SLEEP: Duration = Duration::from_secs(5);

/// The running monitor, as the rest of the plugin sees it. Clones share it.
#[derive(Clone, Debug)]
pub(crate) struct MonitorHandle {
    /// The root that it watches.
    pub(crate) root: Arc<Root>,
    /// Opens groups off-thread; shared so that one group is never opened twice at once.
    pub(crate) prober: Arc<Prober>,
    /// Whether groups may be opened at all.
    pub(crate) probe: bool,
    /// Who looks at devices' hardware; none if no check asks for it.
    pub(crate) looks: Option<Arc<HardwareReaders>>,
    /// The CDI specs on disk.
    pub(crate) cdi_files: Arc<CdiFiles>,
    /// None until the first picture is whole.
    pub(crate) snapshots: watch::Receiver<Option<Arc<NodeSnapshot>>>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    reports: Mutex<Reports>,
    owned: Mutex<ProbeExclusions>,
    /// Stays open when the thread ends, which the supervisor reports and the readers do not.
    snapshots: watch::Sender<Option<Arc<NodeSnapshot>>>,
    wake: OwnedFd,
    stop: AtomicBool,
    began: Instant,
    /// Milliseconds after `began` of the latest loop.
    alive: AtomicU64,
}

/// What others have found out, and how often since the start.
#[derive(Debug, Default)]
struct Reports {
    answers: Vec<(GroupId, Occupancy)>,
    count: u64,
    /// Somebody has seen otherwise than the monitor, without an open that it could be told of.
    check_now: bool,
    /// A record has been seen to be another one.
    reread_records: bool,
}

impl Shared {
    /// What pods own, if that is not what is known. A function, so that the lock ends with it.
    fn owned_unless(&self, known: &ProbeExclusions) -> Option<ProbeExclusions> {
        let owned = self.owned.lock();
        (*owned != *known).then(|| owned.clone())
    }
}

impl MonitorHandle {
    /// Opens the root and starts the thread. `lost` were, when an earlier process of ours ended.
    ///
    /// # Errors
    /// The root cannot be opened, or the kernel gives us no descriptors or thread.
    pub(crate) fn start(
        config: &Config,
        lost: impl Iterator<Item = DeviceId>,
        supervisor: &Supervisor,
    ) -> anyhow::Result<Self> {
        let root = Arc::new(Root::open(&config.root)?);
        let prober = Arc::new(Prober::new(Arc::clone(&root)));
        let options = monitor::Options {
            interval: config.interval,
            probe: !config.no_probe,
            detail: detail_for(&config.offered),
            ..Default::default()
        };
        let watch =
            Watch::new(Monitor::new(Arc::clone(&root), Arc::clone(&prober), options)?, Default::default())?;
        let types = VgpuTypes::new(&config.run_dir);
        let namer = ResourceNamer::new(config.offered.clone(), config.pci_ids.clone(), types);
        let pools = config.pools.clone().map(PoolsFileWatch::new);
        let times = (config.checks_interval, config.settling);
        let hardware = HardwareMonitor::new(Arc::clone(&root), config.checks(), times, lost, Instant::now());
        let looks = hardware.as_ref().map(HardwareMonitor::looks);
        let wake = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK).context("eventfd")?;
        let (sender, snapshots) = watch::channel(None);
        let shared = Arc::new(Shared {
            reports: Mutex::default(),
            owned: Mutex::default(),
            snapshots: sender,
            wake,
            stop: AtomicBool::new(false),
            began: Instant::now(),
            alive: AtomicU64::new(0),
        });
        let specs = CdiDir::new(config.cdi_dir.clone(), &config.run_dir);
        let cdi_files = specs.files();
        let theirs = Arc::clone(&shared);
        supervisor
            .thread("monitor", 256 * 1024, move || {
                run(watch, (namer, pools, specs, hardware), &theirs, &theirs.snapshots);
            })
            .context("cannot start the monitor's thread")?;
        Ok(Self { root, prober, probe: options.probe, looks, cdi_files, snapshots, shared })
    }

    /// Tells the monitor what an open made elsewhere has answered.
    pub(crate) fn told(&self, group: GroupId, occupancy: Occupancy) {
        self.tell(|reports| reports.answers.push((group, occupancy)));
    }

    /// Has the monitor look now; the snapshot that has reports_seen of it is made after that look.
    pub(crate) fn check_now(&self) {
        self.tell(|reports| reports.check_now = true);
    }

    /// Has the monitor read all records anew, in a look that is made now.
    pub(crate) fn reread_records(&self) {
        self.tell(|reports| (reports.check_now, reports.reread_records) = (true, true));
    }

    /// Has the CDI specs made anew, with the next snapshot: an Allocate has found other device nodes than they say.
    pub(crate) fn refresh_cdi_specs(&self) {
        self.tell(|_| {});
    }

    fn tell(&self, what: impl FnOnce(&mut Reports)) {
        let mut told = self.shared.reports.lock();
        what(&mut told);
        told.count += 1;
        drop(told);
        self.wake();
    }

    /// How often the monitor was told anything; a snapshot says how many of these it has reports_seen.
    pub(crate) fn reports_sent(&self) -> u64 {
        self.shared.reports.lock().count
    }

    /// Tells the monitor what pods own. Nothing is opened before it was told for the first time, or [`FIRST_ANSWERS`].
    pub(crate) fn set_assigned(&self, owned: AssignedDevices) {
        self.set_part(|groups| &mut groups.owned, Some(owned));
    }

    /// Tells the monitor what pods owned when an earlier process of ours ended.
    pub(crate) fn set_restored(&self, owned: AssignedDevices) {
        self.set_part(|groups| &mut groups.remembered, Some(owned));
    }

    /// Tells the monitor which groups are refused though a pod owns them: whether they are free only an open tells.
    pub(crate) fn set_contested(&self, contested: BTreeSet<GroupId>) {
        self.set_part(|groups| &mut groups.contested, contested);
    }

    fn set_part<T: PartialEq>(&self, part: impl FnOnce(&mut ProbeExclusions) -> &mut T, value: T) {
        let mut groups = self.shared.owned.lock();
        let known = part(&mut groups);
        if *known != value {
            *known = value;
            drop(groups);
            self.wake();
        }
    }

    /// Has it go round: there is something for it to take in.
    pub(crate) fn wake(&self) {
        let _ = rustix::io::write(&self.shared.wake, &1_u64.to_ne_bytes());
    }

    /// How long ago the monitor was last seen alive.
    pub(crate) fn silent_for(&self) -> Duration {
        let alive = Duration::from_millis(self.shared.alive.load(Ordering::Relaxed));
        self.shared.began.elapsed().saturating_sub(alive)
    }

    /// How long it has run.
    pub(crate) fn age(&self) -> Duration {
        self.shared.began.elapsed()
    }

    /// Asks the thread to end; does not wait for it.
    pub(crate) fn stop(&self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // Not only when the thread ends: a look that has begun may hang, and the process' end waits for it.
        if let Some(looks) = &self.looks {
            looks.end();
        }
        self.wake();
    }
}

fn run(
    mut watch: Watch,
    (mut namer, mut pools, mut specs, mut hardware): (
        ResourceNamer,
        Option<PoolsFileWatch>,
        CdiDir,
        Option<HardwareMonitor>,
    ),
    shared: &Shared,
    sender: &watch::Sender<Option<Arc<NodeSnapshot>>>,
) {
    let mut reported = Vec::new();
    let mut failing = None;
    let mut groups = ProbeExclusions::default();
    let mut reports_seen = 0;
    let mut stale_enable = 0;
    let mut shared_functions = BTreeSet::new();
    let mut on_disk = Vec::new();
    watch.monitor_mut().pause_probes(true);
    while !shared.stop.load(Ordering::Relaxed) {
        let mut news = false;
        if let Some(told) = shared.owned_unless(&groups) {
            let matters = namer.keeps_any()
                || namer.contradicts(told.pinned_offers())
                || told.unbound(&watch).next().is_some();
            news = told.owned != groups.owned && matters;
            groups = told;
            let owned = groups.not_to_open(&watch);
            watch.monitor_mut().set_assigned(owned);
        }
        if let Some(pools) = &mut pools {
            news |= reload(pools, &mut namer, &mut watch);
        }
        if groups.owned.is_some() || shared.began.elapsed() > FIRST_ANSWERS {
            release_opens(&mut watch);
        }
        let mut reports = shared.reports.lock();
        let answers = std::mem::take(&mut reports.answers);
        news |= reports.count > reports_seen;
        reports_seen = reports.count;
        let check_now = std::mem::take(&mut reports.check_now);
        let reread_records = std::mem::take(&mut reports.reread_records);
        drop(reports);
        if reread_records {
            watch.monitor_mut().invalidate(None, Instant::now());
        }
        if check_now {
            watch.pass_now();
        }
        for (group, occupancy) in answers {
            watch.record_probe(group, occupancy);
        }
        while let Some(event) = watch.next() {
            tracing::debug!(?event, "event");
            news = true;
            match (&mut hardware, event) {
                (Some(hardware), Event::Bound(_)) => hardware.bound(Instant::now()),
                (Some(hardware), Event::Unbound(device)) => hardware.unbound(device),
                _ => {}
            }
        }
        news |= hardware.as_mut().is_some_and(HardwareMonitor::take_in);
        // No event tells that a count has turned out to be left over.
        let counts = watch.monitor().devices().iter().filter(|tracked| tracked.enable_is_stale()).count();
        news |= counts != stale_enable;
        stale_enable = counts;
        let alive = u64::try_from(shared.began.elapsed().as_millis()).unwrap_or(u64::MAX);
        shared.alive.store(alive, Ordering::Relaxed);
        if watch.failure() != failing {
            failing = watch.failure();
            if let Some(error) = failing {
                tracing::warn!(%error, "cannot list bound devices; what is known stays");
            }
        }
        if news {
            // Even while the first opens are under way.
            let devices = || watch.monitor().devices().iter().map(|tracked| &tracked.device);
            namer.learn(watch.monitor().root(), &devices());
            namer.tell_overlaps(devices());
        }
        // What was given must be known first: specs that nobody has devices by are removed.
        let whole = groups.remembered.is_some()
            && (watch.monitor().initial_probes_done() || shared.began.elapsed() > FIRST_ANSWERS);
        let first = sender.borrow().is_none();
        if whole && (news || first || specs.is_due()) {
            let unbound: Vec<Device> = groups.unbound(&watch).collect();
            namer.learn(watch.monitor().root(), &unbound.iter());
            namer.keep();
            namer.tell_useless();
            let bound = watch.monitor().devices().iter().map(|tracked| &tracked.device);
            // One that is being unbound has no driver any more by which a pool might select it.
            let stays = |device: &Device| device.driver.is_none() || groups.owns(device);
            let offers = namer.offers(bound.chain(&unbound), groups.pinned_offers(), stays);
            let mut snapshot = snapshot::take(&watch, |device| offers.get(&device.id).cloned());
            if let Some(hardware) = &hardware {
                for view in &mut snapshot.devices {
                    view.hardware = hardware.hardware(view.device.id);
                }
            }
            let unbound = unbound
                .into_iter()
                .filter_map(|device| Some(DeviceState::unbound(device, offers.get(&device.id)?.clone())));
            let bound = watch.monitor().devices().iter().map(|tracked| &tracked.device);
            for function in sriov::shared(bound) {
                if shared_functions.insert(function) {
                    tracing::warn!(device = %function, "is offered with virtual functions on: machines must give a VF token");
                }
            }
            // Before anybody is told of the devices. What could not be listed says nothing about what is bound.
            if failing.is_none() {
                on_disk = specs.bring_to(&wanted(watch.monitor().root(), &snapshot));
            }
            let cdi = on_disk.clone();
            let snapshot = NodeSnapshot { reports_seen, unbound: unbound.collect(), cdi, ..snapshot };
            for error in &snapshot.errors {
                if !reported.contains(error) {
                    tracing::warn!(%error, "left out");
                }
            }
            reported.clone_from(&snapshot.errors);
            // A spec that still cannot be written is no news.
            if news || first || sender.borrow().as_deref() != Some(&snapshot) {
                sender.send_replace(Some(Arc::new(snapshot)));
            }
        }
        if let (Some(hardware), Some(snapshot)) = (&mut hardware, &*sender.borrow()) {
            hardware.ask(snapshot, Instant::now());
        }
        let sleep = if whole { LONGEST_SLEEP } else { Duration::from_millis(50) };
        wait(&watch, shared, sleep);
    }
}

/// A virtual function's parent costs four system calls a device, so it is read only where a pool asks for it.
fn detail_for(pools: &Pools) -> Detail {
    if pools.need_parents() { Detail::Full } else { Detail::Identity }
}

/// Takes in another content of the pools' file; whether there was any that is understood.
fn reload(file: &mut PoolsFileWatch, namer: &mut ResourceNamer, watch: &mut Watch) -> bool {
    match file.changed() {
        None => false,
        // As at the first look, which sees what was read when the program started.
        Some(Ok(pools)) if pools == *namer.pools() => false,
        Some(Ok(pools)) => {
            tracing::info!(file = %file.path(), "the pools have changed");
            watch.monitor_mut().set_detail(detail_for(&pools), Instant::now());
            // Before the next snapshot, in which a parent may be asked for.
            watch.pass_now();
            namer.set_pools(pools);
            true
        }
        Some(Err(mistake)) => {
            tracing::warn!(file = %file.path(), %mistake, "the pools are not understood; those from before stay");
            false
        }
    }
}

/// Opens were withheld until owners are known: a group that a pod owns is never opened.
fn release_opens(watch: &mut Watch) {
    if watch.monitor().probes_paused() {
        watch.monitor_mut().pause_probes(false);
        watch.pass_now();
    }
}

fn wait(watch: &Watch, shared: &Shared, longest: Duration) {
    let fd = watch.fd();
    let mut fds = [PollFd::new(&fd, PollFlags::IN), PollFd::new(&shared.wake, PollFlags::IN)];
    let timeout = Timespec::try_from(longest).ok();
    if poll(&mut fds, timeout.as_ref()).is_err() {
        // EINTR comes round again; anything else must not become a busy loop.
        std::thread::sleep(Duration::from_millis(10));
    }
    if fds.get(1).is_some_and(|wake| !wake.revents().is_empty()) {
        let _ = rustix::io::read(&shared.wake, &mut [0_u8; 8]);
    }
}
