//! `serve`: the monitor's snapshots become lists, and each resource with a device is registered with the kubelet.

use crate::assignments::AssignmentsHandle;
use crate::config::Config;
use crate::device_plugin::registration;
use crate::device_plugin::registration::Resource;
use crate::kubelet::list_and_watch::DeviceList;
use crate::kubelet::registry::{Registry, ResourceStatus, SharedStatus};
use crate::kubelet::socket_watch;
use crate::kubelet::socket_watch::PluginDirState;
use crate::node::monitor::MonitorHandle;
use crate::publisher::{HealthPublisher, Published};
use crate::reservations::Reservations;
use crate::state_file::StateFile;
use crate::status;
use anyhow::Context;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use vfio_plugin_policy::health::LOST;

/// All streams and sockets are gone this long after a SIGTERM, or left to the process' end.
const SHUTDOWN: Duration = Duration::from_millis(800);

/// A resource that has devices.
struct Running {
    list: watch::Sender<DeviceList>,
    stop: CancellationToken,
    status: SharedStatus,
    task: JoinHandle<()>,
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// The root cannot be opened, or the process gets no threads or descriptors. A kubelet that is not there is waited for.
pub(crate) fn run(config: &Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("runtime")?;
    runtime.block_on(serve(config))?;
    // A task that still hangs in the kernel must not hang the exit.
    runtime.shutdown_background();
    Ok(())
}

async fn serve(config: &Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    let state_file = StateFile::new(&config.run_dir, "unhealthy.json");
    let unhealthy: BTreeMap<String, String> = state_file.read();
    let lost = unhealthy.iter().filter(|(_, reason)| *reason == LOST);
    let monitor = MonitorHandle::start(config, lost.filter_map(|(id, _)| id.parse().ok()))?;
    let publisher = Arc::new(HealthPublisher::new(config, Arc::clone(&monitor.root), state_file, unhealthy));
    let owners = AssignmentsHandle::new(config, monitor.clone());
    let registry = Arc::new(Registry::default());
    let folder = config.kubelet_dir.clone();
    registration::sweep(&folder);
    let now = PluginDirState { kubelet: socket_watch::kubelet_socket(&folder), changes: 0 };
    let (sender, contents) = watch::channel(now);
    tokio::spawn(socket_watch::follow(folder.clone(), sender));
    let reservations = Reservations::default();
    let asking = owners.clone().follow(
        config.clone(),
        reservations.clone(),
        contents.clone(),
        monitor.snapshots.clone(),
    );
    tokio::spawn(asking);
    let status = status::Server {
        monitor: monitor.clone(),
        publisher: Arc::clone(&publisher),
        owners: owners.clone(),
        registry: Arc::clone(&registry),
    };
    let (_socket, answering) = status.start(&config.run_dir);
    tokio::spawn(answering);
    tracing::info!(root = %config.root.display(), kubelet_dir = %folder.display(), busy = %config.busy,
        interval = ?config.interval, "serving");
    let mut running = BTreeMap::new();
    let shared = Common {
        monitor: &monitor,
        publisher: &publisher,
        owners: &owners,
        reservations,
        config,
        contents: &contents,
    };
    let advertise = advertise(&shared, &registry, &mut running);
    let asked = tokio::select! {
        () = advertise => false,
        _ = terminate.recv() => true,
        _ = interrupt.recv() => true,
    };
    tracing::info!("stopping");
    monitor.stop();
    let tasks: Vec<JoinHandle<()>> = running
        .into_values()
        .map(|running| {
            running.stop.cancel();
            running.task
        })
        .collect();
    let _ = timeout(SHUTDOWN, async {
        for task in tasks {
            let _ = task.await;
        }
    })
    .await;
    anyhow::ensure!(asked, "the monitor has ended");
    Ok(())
}

/// What every resource's task shares.
struct Common<'a> {
    monitor: &'a MonitorHandle,
    publisher: &'a Arc<HealthPublisher>,
    owners: &'a AssignmentsHandle,
    reservations: Reservations,
    config: &'a Config,
    contents: &'a watch::Receiver<PluginDirState>,
}

/// Turns snapshots and owners into lists, until the monitor ends.
async fn advertise(common: &Common<'_>, registry: &Registry, running: &mut BTreeMap<Arc<str>, Running>) {
    let mut snapshots = common.monitor.snapshots.clone();
    let mut owners = common.owners.subscribe();
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        let ownership = owners.borrow_and_update().clone();
        let mut again = None;
        if let Some(snapshot) = snapshot {
            let Published { lists, again: when } =
                common.publisher.lists(&snapshot, &ownership, Instant::now());
            again = when;
            common.monitor.set_contested(common.publisher.contested());
            publish(lists, common, registry, running);
        }
        let again = again.map(tokio::time::Instant::from_std);
        tokio::select! {
            changed = snapshots.changed() => {
                if changed.is_err() {
                    return;
                }
            }
            Ok(()) = owners.changed() => {}
            () = common.publisher.changed.notified() => {}
            () = common.owners.checkpoint_is_stale() => {
                running.values().for_each(|resource| resource.list.send_modify(|_| {}));
            }
            () = async { sleep_until(again.unwrap_or_else(tokio::time::Instant::now)).await }, if again.is_some() => {}
        }
    }
}

/// Gives each resource its list; a new one begins, one without devices ends.
fn publish(
    lists: BTreeMap<Arc<str>, DeviceList>,
    common: &Common<'_>,
    registry: &Registry,
    running: &mut BTreeMap<Arc<str>, Running>,
) {
    running.retain(|name, resource| {
        let kept = lists.contains_key(name);
        if !kept {
            tracing::info!(resource = %name, "has no devices any more");
            // An empty list first: the kubelet then counts 0 at once, not after its grace period of 5 minutes.
            resource.list.send_replace(DeviceList::default());
            resource.stop.cancel();
        }
        kept
    });
    for (name, list) in lists {
        if let Some(resource) = running.get(&name) {
            resource.list.send_if_modified(|known| {
                let changed = known != &list;
                *known = list;
                changed
            });
        } else {
            running.insert(Arc::clone(&name), begin(name, list, common));
        }
    }
    let statuses = running.iter().map(|(name, resource)| (Arc::clone(name), Arc::clone(&resource.status)));
    registry.set(statuses.collect());
}

fn begin(name: Arc<str>, list: DeviceList, common: &Common<'_>) -> Running {
    let (sender, list) = watch::channel(list);
    let stop = CancellationToken::new();
    let status = ResourceStatus { name: name.to_string(), ..ResourceStatus::default() };
    let status: SharedStatus = Arc::new(Mutex::new(status));
    let resource = Resource {
        name,
        list,
        folder: common.config.kubelet_dir.clone(),
        contents: common.contents.clone(),
        monitor: common.monitor.clone(),
        publisher: Arc::clone(common.publisher),
        owners: common.owners.clone(),
        reservations: common.reservations.clone(),
        busy_allocate: common.config.busy_allocate,
        status: Arc::clone(&status),
        stop: stop.clone(),
    };
    Running { list: sender, stop, status, task: tokio::spawn(resource.run()) }
}
