//! Polls the kubelet for its pods' devices, and passes what it shows to the ledger.
//!
//! A poll lists pods and then reads the checkpoint. It is caused by a change of which groups are held, by an Allocate, by another
//! kubelet.sock or checkpoint, and by time while anything is held or assigned.

use crate::assignments::AssignmentsHandle;
use crate::assignments::inputs::{
    CheckpointId, Inputs, held_by_unknown_pods, holders_are_known, offered_resources, pods_that_hold,
};
use crate::assignments::schedule::Schedule;
use crate::config::Config;
use crate::kubelet::checkpoint::{self, CheckpointError};
use crate::kubelet::kept::OfferedResources;
use crate::kubelet::pod_resources::{Lister, PodResourcesError};
use crate::kubelet::socket_watch::PluginDirState;
use crate::metrics::MetricsHandle;
use crate::metrics::counters::PollSource;
use crate::problems::ProblemCode;
use crate::reservations::Reservations;
use rustix::time::{ClockId, clock_gettime};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, UNIX_EPOCH};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use vfio_plugin_policy::assignments::index::Assignments;
use vfio_plugin_policy::assignments::kubelet::{Clocks, KubeletSocket};
use vfio_plugin_policy::assignments::observation::{CheckpointEntry, LedgerUpdate, ListedPod, Observation};
use vfio_plugin_policy::device::NodeSnapshot;

/// How long the first poll waits for the list before it takes the assignments from the checkpoint alone. The first probes and
/// the first device list wait for the first poll.
const FIRST_LIST: Duration = Duration::from_millis(300);

impl AssignmentsHandle {
    /// Keeps the assignments up to date until the monitor ends.
    ///
    /// Never polls more often than once an interval, and never during an Allocate: a list makes the kubelet update its list of
    /// allocated devices without the ones that it is allocating (`UpdateAllocatedDevices`).
    pub(crate) async fn follow(
        self,
        config: Config,
        reservations: Reservations,
        mut directory: watch::Receiver<PluginDirState>,
        mut snapshots: watch::Receiver<Option<Arc<NodeSnapshot>>>,
        metrics: MetricsHandle,
    ) {
        let kubelet_dir = config.kubelet_dir.clone();
        let mut lister = Lister::new(config.pod_resources.clone());
        let mut poller = Poller::new(self.clone(), config, metrics);
        loop {
            self.polls_resume().await;
            reservations.idle().await;
            let snapshot = snapshots.borrow_and_update().clone();
            let now = *directory.borrow_and_update();
            let inputs = Inputs::new(snapshot.as_deref(), &now, &kubelet_dir);
            let began = Instant::now();
            let pause = poller.poll(&mut lister, snapshot.as_deref(), now.kubelet).await;
            let is_idle = poller.is_complete && !inputs.any_held() && self.current().is_empty();
            loop {
                let is_due = tokio::select! {
                    () = self.shared.poll_soon.notified() => {
                        poller.schedule.expect_pod();
                        true
                    }
                    () = sleep_until(began + pause), if !is_idle => true,
                    changed = directory.changed() => {
                        let changed =
                            changed.is_err() || inputs.directory_changed(&directory.borrow(), &kubelet_dir);
                        if changed {
                            poller.schedule.expect_pod();
                        }
                        changed
                    }
                    changed = snapshots.changed() => {
                        if changed.is_err() {
                            return; // The monitor has ended.
                        }
                        let snapshot = snapshots.borrow();
                        !poller.holders_adopted || inputs.holding_changed(snapshot.as_deref())
                    }
                };
                if is_due {
                    break;
                }
            }
            sleep_until(began + poller.schedule.shortest()).await;
        }
    }
}

/// What is remembered from one poll to the next.
struct Poller {
    assignments: AssignmentsHandle,
    config: Config,
    schedule: Schedule,
    /// Whether a poll was made.
    has_polled: bool,
    /// Whether the last poll left nothing open that another poll soon would decide.
    is_complete: bool,
    /// Whether holders' pods became assignments, which happens once after the plugin's start.
    holders_adopted: bool,
    /// The checkpoint of the last poll.
    checkpoint: Option<CheckpointId>,
    /// The outage that was logged and has not ended.
    outage: Option<Outage>,
    metrics: MetricsHandle,
}

/// What the kubelet does not show.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Outage {
    PodResources,
    PodResourcesAndCheckpoint,
}

impl Poller {
    fn new(assignments: AssignmentsHandle, config: Config, metrics: MetricsHandle) -> Self {
        Self {
            assignments,
            schedule: Schedule::new(config.interval, config.assignments_interval),
            config,
            has_polled: false,
            is_complete: false,
            holders_adopted: false,
            checkpoint: None,
            outage: None,
            metrics,
        }
    }

    /// Polls the kubelet. Returns the pause until another poll is due without a cause.
    async fn poll(
        &mut self,
        lister: &mut Lister,
        snapshot: Option<&NodeSnapshot>,
        kubelet: Option<KubeletSocket>,
    ) -> Duration {
        let offered = self.can_be_ours(snapshot);
        let pods = match self.has_polled {
            true => lister.list(&offered).await,
            false => self.first_list(lister, &offered, kubelet).await,
        };
        // After the list, so that the checkpoint names all pods that were admitted before it.
        let id = CheckpointId::of(&self.config.kubelet_dir);
        let is_new = id.is_some() && id != self.checkpoint;
        self.checkpoint = id;
        let checkpoint = checkpoint::read(&self.config.kubelet_dir, &offered);
        self.count(PollSource::PodResources, pods.is_ok());
        if !matches!(checkpoint, Err(CheckpointError::Missing)) {
            self.count(PollSource::Checkpoint, checkpoint.is_ok());
        }
        self.note_checkpoint(checkpoint.as_ref().err());
        let checkpoint = checkpoint.ok();
        let update = self.observe(pods.as_deref().ok(), (checkpoint.as_deref(), is_new), snapshot, kubelet);
        if update.checkpoint_is_stale {
            self.assignments.shared.checkpoint_is_stale.notify_one();
        }
        // A missing kubelet is not polled again and again: the appearance of its socket causes a poll.
        self.is_complete = !update.poll_again && (pods.is_ok() || kubelet.is_none());
        let pause = self.schedule.pause(pods.is_ok(), update);
        self.log_outage(pods.err(), update.answered);
        pause
    }

    /// Lists pods for the first time. If that takes long, the checkpoint alone shows the assignments meanwhile.
    async fn first_list(
        &mut self,
        lister: &mut Lister,
        offered: &OfferedResources,
        kubelet: Option<KubeletSocket>,
    ) -> Result<Vec<ListedPod>, PodResourcesError> {
        self.has_polled = true;
        let mut list = pin!(lister.list(offered));
        tokio::select! {
            pods = &mut list => return pods,
            () = sleep(FIRST_LIST) => {}
        }
        if let Ok(checkpoint) = checkpoint::read(&self.config.kubelet_dir, offered) {
            self.observe(None, (Some(&checkpoint), false), None, kubelet);
        }
        list.await
    }

    /// Returns the resources of which an id can be this plugin's: the offered ones and those of assignments.
    fn can_be_ours(&self, snapshot: Option<&NodeSnapshot>) -> OfferedResources {
        let Some(snapshot) = snapshot else { return OfferedResources::default() };
        let mut resources = offered_resources(snapshot);
        let state = self.assignments.shared.state.lock();
        let assigned = state.ledger.assignments().iter();
        resources.extend(assigned.map(|assignment| Arc::from(assignment.resource.as_str())));
        OfferedResources::known(resources)
    }

    /// Passes what the kubelet shows to the ledger, publishes the assignments and writes the state file.
    fn observe(
        &mut self,
        pods: Option<&[ListedPod]>,
        (checkpoint, checkpoint_is_new): (Option<&[CheckpointEntry]>, bool),
        snapshot: Option<&NodeSnapshot>,
        kubelet: Option<KubeletSocket>,
    ) -> LedgerUpdate {
        let shared = &self.assignments.shared;
        let mut state = shared.state.lock();
        // The Allocates since the poll before.
        state.ledger.add_allocates(self.assignments.current().added().iter().map(|added| (**added).clone()));
        let age = state.kubelet.observe(kubelet, clocks());
        let kubelet_is_starting = age.is_some_and(|age| age < self.config.kubelet_start);
        let update = state.ledger.observe(&Observation {
            now: std::time::Instant::now(),
            pods,
            checkpoint,
            checkpoint_is_new,
            kubelet,
            kubelet_is_starting,
            settling: self.config.settling,
            holders: &snapshot.map(pods_that_hold).unwrap_or_default(),
            held_by_unknown_pods: &snapshot.map(held_by_unknown_pods).unwrap_or_default(),
            adopt_holders: !self.holders_adopted,
            offered: snapshot.map(offered_resources).as_ref(),
        });
        // Where a search takes long, a later snapshot has the rest of the holders.
        self.holders_adopted |= snapshot.is_some_and(holders_are_known) && update.answered;
        let is_first = !shared.has_polled.swap(true, Ordering::Relaxed);
        let assignments = state.ledger.assignments();
        tracing::debug!(?pods, ?checkpoint, kubelet_is_starting, ?assignments, "polled the kubelet");
        self.assignments.publish(Assignments::new(update.answered, &state.ledger));
        if is_first {
            // The DRA driver waits for the first poll, whatever it shows.
            shared.published.send_modify(|_| {});
        }
        shared.file.lock().write(&state);
        update
    }

    fn count(&self, source: PollSource, is_ok: bool) {
        if let Some(metrics) = &self.metrics {
            metrics.counters.polled(source, is_ok);
        }
    }

    /// Records a checkpoint that exists and is not used. It may name pods, so it is not the same as a missing one.
    fn note_checkpoint(&self, error: Option<&CheckpointError>) {
        use ProblemCode::{CheckpointMalformed, CheckpointTooLarge, CheckpointUnreadable};
        let current = match error {
            None | Some(CheckpointError::Missing) => None,
            Some(CheckpointError::Unreadable(_) | CheckpointError::NotRegular) => Some(CheckpointUnreadable),
            Some(CheckpointError::TooLarge | CheckpointError::OverLimit(_)) => Some(CheckpointTooLarge),
            Some(CheckpointError::Empty | CheckpointError::Malformed) => Some(CheckpointMalformed),
        };
        let problems = &self.assignments.shared.problems;
        for code in [CheckpointUnreadable, CheckpointTooLarge, CheckpointMalformed] {
            problems.keep(code, |_| current == Some(code));
        }
        if let (Some(code), Some(error)) = (current, error) {
            let path = self.config.kubelet_dir.join(kubelet_api::CHECKPOINT);
            let (file, text) = (path.display(), format!("the checkpoint is not used: {error}"));
            if problems.begin(code, &file, text) {
                tracing::warn!(%file, %error, "the kubelet's checkpoint is not used; assignments come from pod resources alone");
            }
        }
    }

    /// Records what the kubelet does not show.
    fn note_outage(&self, outage: Option<Outage>, error: Option<&PodResourcesError>) {
        use ProblemCode::{AssignmentsUnknown, PodResourcesUnavailable};
        let current = outage.map(|outage| match outage {
            Outage::PodResources => PodResourcesUnavailable,
            Outage::PodResourcesAndCheckpoint => AssignmentsUnknown,
        });
        let problems = &self.assignments.shared.problems;
        for code in [PodResourcesUnavailable, AssignmentsUnknown] {
            problems.keep(code, |_| current == Some(code));
        }
        if let (Some(code), Some(error)) = (current, error) {
            let unknown = match code {
                AssignmentsUnknown => "no assignments known: no checkpoint can be used, and ",
                _ => "",
            };
            let text = format!("{unknown}pods cannot be listed: {}", error.cause);
            problems.begin(code, self.config.pod_resources.display(), text);
        }
    }

    /// Logs the beginning of an outage, its change and its end.
    fn log_outage(&mut self, error: Option<PodResourcesError>, answered: bool) {
        let outage = error.as_ref().map(|_| match answered {
            true => Outage::PodResources,
            false => Outage::PodResourcesAndCheckpoint,
        });
        self.note_outage(outage, error.as_ref());
        if outage == self.outage {
            return;
        }
        self.outage = outage;
        match (outage, error) {
            (Some(Outage::PodResources), Some(error)) => tracing::warn!(
                %error,
                "pod resources could not be listed; assignments come from the kubelet's checkpoint alone"
            ),
            (Some(Outage::PodResourcesAndCheckpoint), Some(error)) => tracing::warn!(
                %error,
                "assignments are unknown: pod resources and the kubelet's checkpoint could not be read; held devices keep their \
                 health, and Allocate refuses them"
            ),
            _ => tracing::info!("pod resources are listed again"),
        }
    }
}

/// Reads the wall clock and the time since the boot.
fn clocks() -> Clocks {
    let boot = clock_gettime(ClockId::Boottime);
    let seconds = u64::try_from(boot.tv_sec).unwrap_or(0);
    let nanoseconds = u32::try_from(boot.tv_nsec).unwrap_or(0);
    Clocks { wall: UNIX_EPOCH.elapsed().unwrap_or_default(), boot: Duration::new(seconds, nanoseconds) }
}
