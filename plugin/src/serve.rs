//! `serve`: the monitor's snapshots become lists, and each resource with a device is registered with the kubelet.

use crate::advertise::{Board, Lists};
use crate::claims::Claims;
use crate::feed::List;
use crate::health::LOST;
use crate::kubelet_dir::{self, Folder};
use crate::memory::Memory;
use crate::monitoring::Monitoring;
use crate::owners::Owners;
use crate::registration::{self, Resource, State};
use crate::settings::Settings;
use crate::status::{self, ResourceStatus};
use anyhow::Context;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep_until, timeout};
use tokio_util::sync::CancellationToken;

/// All streams and sockets are gone this long after a SIGTERM, or left to the process' end.
const SHUTDOWN: Duration = Duration::from_millis(800);

/// A resource that has devices.
struct Running {
    list: watch::Sender<List>,
    stop: CancellationToken,
    state: Arc<Mutex<State>>,
    task: JoinHandle<()>,
}

/// The resources that are served now; shared with the status socket.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    states: Mutex<BTreeMap<Arc<str>, Arc<Mutex<State>>>>,
}

impl Registry {
    /// Each resource's registration.
    pub(crate) fn resources(&self) -> Vec<ResourceStatus> {
        let states = self.states.lock().unwrap_or_else(PoisonError::into_inner);
        states
            .iter()
            .map(|(name, state)| {
                let state = state.lock().unwrap_or_else(PoisonError::into_inner);
                ResourceStatus {
                    name: name.to_string(),
                    registered: state.registered,
                    streams: state.streams,
                    endpoint: state.endpoint.clone(),
                    unfollowed: state.unfollowed,
                }
            })
            .collect()
    }
}

/// Runs until SIGTERM or SIGINT.
///
/// # Errors
/// The root cannot be opened, or the process gets no threads or descriptors. A kubelet that is not there is waited for.
pub(crate) fn run(settings: &Settings) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().context("runtime")?;
    runtime.block_on(serve(settings))?;
    // A task that still hangs in the kernel must not hang the exit.
    runtime.shutdown_background();
    Ok(())
}

async fn serve(settings: &Settings) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate()).context("SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("SIGINT")?;
    let memory = Memory::new(&settings.run_dir, "unhealthy.json");
    let unhealthy: BTreeMap<String, String> = memory.read();
    let lost = unhealthy.iter().filter(|(_, reason)| *reason == LOST);
    let monitoring = Monitoring::start(settings, lost.filter_map(|(id, _)| id.parse().ok()))?;
    let board = Arc::new(Board::new(settings, Arc::clone(&monitoring.root), memory, unhealthy));
    let owners = Owners::new(settings, monitoring.clone());
    let registry = Arc::new(Registry::default());
    let folder = settings.kubelet_dir.clone();
    registration::sweep(&folder);
    let now = Folder { kubelet: kubelet_dir::kubelet_socket(&folder), changes: 0 };
    let (sender, contents) = watch::channel(now);
    tokio::spawn(kubelet_dir::follow(folder.clone(), sender));
    let claims = Claims::default();
    let asking = owners.clone().follow(
        settings.clone(),
        claims.clone(),
        contents.clone(),
        monitoring.snapshots.clone(),
    );
    tokio::spawn(asking);
    let status = status::Server {
        monitoring: monitoring.clone(),
        board: Arc::clone(&board),
        owners: owners.clone(),
        registry: Arc::clone(&registry),
    };
    let _socket = status.start(&settings.run_dir);
    tracing::info!(root = %settings.root.display(), kubelet_dir = %folder.display(), busy = %settings.busy,
        interval = ?settings.interval, "serving");
    let mut running = BTreeMap::new();
    let shared = Common {
        monitoring: &monitoring,
        board: &board,
        owners: &owners,
        claims,
        settings,
        contents: &contents,
    };
    let advertise = advertise(&shared, &registry, &mut running);
    let asked = tokio::select! {
        () = advertise => false,
        _ = terminate.recv() => true,
        _ = interrupt.recv() => true,
    };
    tracing::info!("stopping");
    monitoring.stop();
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
    monitoring: &'a Monitoring,
    board: &'a Arc<Board>,
    owners: &'a Owners,
    claims: Claims,
    settings: &'a Settings,
    contents: &'a watch::Receiver<Folder>,
}

/// Turns snapshots and owners into lists, until the monitor ends.
async fn advertise(common: &Common<'_>, registry: &Registry, running: &mut BTreeMap<Arc<str>, Running>) {
    let mut snapshots = common.monitoring.snapshots.clone();
    let mut owners = common.owners.subscribe();
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        let ownership = owners.borrow_and_update().clone();
        let mut again = None;
        if let Some(snapshot) = snapshot {
            let Lists { lists, again: when } = common.board.lists(&snapshot, &ownership, Instant::now());
            again = when;
            common.monitoring.set_contested(common.board.contested());
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
            () = common.board.news.notified() => {}
            () = common.owners.checkpoint_is_stale() => {
                running.values().for_each(|resource| resource.list.send_modify(|_| {}));
            }
            () = async { sleep_until(again.unwrap_or_else(tokio::time::Instant::now)).await }, if again.is_some() => {}
        }
    }
}

/// Gives each resource its list; a new one begins, one without devices ends.
fn publish(
    lists: BTreeMap<Arc<str>, List>,
    common: &Common<'_>,
    registry: &Registry,
    running: &mut BTreeMap<Arc<str>, Running>,
) {
    running.retain(|name, resource| {
        let kept = lists.contains_key(name);
        if !kept {
            tracing::info!(resource = %name, "has no devices any more");
            // An empty list first: the kubelet then counts 0 at once, not after its grace period of 5 minutes.
            resource.list.send_replace(List::default());
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
    let states = running.iter().map(|(name, resource)| (Arc::clone(name), Arc::clone(&resource.state)));
    *registry.states.lock().unwrap_or_else(PoisonError::into_inner) = states.collect();
}

fn begin(name: Arc<str>, list: List, common: &Common<'_>) -> Running {
    let (sender, list) = watch::channel(list);
    let (stop, state) = (CancellationToken::new(), Arc::<Mutex<State>>::default());
    let resource = Resource {
        name,
        list,
        folder: common.settings.kubelet_dir.clone(),
        contents: common.contents.clone(),
        monitoring: common.monitoring.clone(),
        board: Arc::clone(common.board),
        owners: common.owners.clone(),
        claims: common.claims.clone(),
        busy_allocate: common.settings.busy_allocate,
        state: Arc::clone(&state),
        stop: stop.clone(),
    };
    Running { list: sender, stop, state, task: tokio::spawn(resource.run()) }
}
