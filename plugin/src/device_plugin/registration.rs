//! One resource's life with the kubelet: serve, register, follow, and begin again when the kubelet has forgotten us.

use crate::allocate::allocator::Allocator;
use crate::assignments::AssignmentsHandle;
use crate::device_plugin::service::Service;
use crate::kubelet::list_and_watch::{DeviceList, DeviceListBroadcast};
use crate::kubelet::registry::{ResourceStatus, SharedStatus};
use crate::kubelet::socket_watch::PluginDirState;
use crate::node::monitor::MonitorHandle;
use crate::publisher::HealthPublisher;
use crate::reservations::Reservations;
use kubelet_api::v1beta1::device_plugin_server::DevicePluginServer;
use kubelet_api::v1beta1::registration_client::RegistrationClient;
use kubelet_api::v1beta1::{DevicePluginOptions, RegisterRequest};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Endpoint, Server};
use vfio_plugin_policy::assignments::kubelet::KubeletSocket;
use vfio_plugin_policy::pools::terms::BusyAllocate;

/// First and longest pause between two tries.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// The kubelet dials back inside Register and takes up to 10 s for it.
const REGISTER: Duration = Duration::from_secs(15);
/// A kubelet that has registered us and follows no stream for this long has dropped us: it never dials again by itself.
const NO_STREAM: Duration = Duration::from_secs(1);
/// How long an old server may take to end after its streams have.
const LINGER: Duration = Duration::from_millis(300);

/// What a resource's task needs.
pub(crate) struct Resource {
    /// Its name.
    pub(crate) name: Arc<str>,
    /// Its list.
    pub(crate) list: watch::Receiver<DeviceList>,
    /// The kubelet's folder.
    pub(crate) folder: PathBuf,
    /// What is in it.
    pub(crate) contents: watch::Receiver<PluginDirState>,
    /// The monitor.
    pub(crate) monitor: MonitorHandle,
    /// What is told.
    pub(crate) publisher: Arc<HealthPublisher>,
    /// What pods own.
    pub(crate) owners: AssignmentsHandle,
    /// What Allocates are about to give away.
    pub(crate) reservations: Reservations,
    /// What Allocate does with a held device.
    pub(crate) busy_allocate: BusyAllocate,
    /// Where its state is shown.
    pub(crate) status: SharedStatus,
    /// Ends it.
    pub(crate) stop: CancellationToken,
}

/// Removes a socket when dropped.
struct SocketFile(PathBuf);

impl Drop for SocketFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

impl Resource {
    /// Serves and registers until stopped; each round is one registration with a socket of its own.
    pub(crate) async fn run(self) {
        let mut pause = BACKOFF.0;
        while !self.stop.is_cancelled() {
            let why = self.round(&mut pause).await;
            self.set(|state| {
                *state = ResourceStatus {
                    name: self.name.to_string(),
                    unfollowed: state.unfollowed,
                    ..ResourceStatus::default()
                }
            });
            if !self.stop.is_cancelled() {
                tracing::info!(resource = %self.name, why, "registering again");
            }
        }
    }

    fn set(&self, change: impl FnOnce(&mut ResourceStatus)) {
        change(&mut self.status.lock());
    }

    async fn round(&self, pause: &mut Duration) -> &'static str {
        let kubelet = self.contents.borrow().kubelet;
        let Some(kubelet) = kubelet else {
            // Nothing to serve: the kubelet removes every socket of its folder when it starts.
            let mut waiting = self.contents.clone();
            tokio::select! {
                () = self.stop.cancelled() => {}
                _ = waiting.wait_for(|now| now.kubelet.is_some()) => {}
            }
            return "kubelet.sock has appeared";
        };
        let endpoint = socket_name();
        let path = self.folder.join(&endpoint);
        let listener = match UnixListener::bind(&path) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::warn!(socket = %path.display(), %error, "cannot make our socket");
                self.wait(pause).await;
                return "our socket could not be made";
            }
        };
        let file = SocketFile(path);
        let mut from = self.list.clone();
        let (lists, list) = watch::channel(from.borrow_and_update().clone());
        let broadcast = DeviceListBroadcast::new(list);
        let allocator = Allocator {
            resource: Arc::clone(&self.name),
            broadcast: broadcast.clone(),
            monitor: self.monitor.clone(),
            publisher: Arc::clone(&self.publisher),
            assignments: self.owners.clone(),
            reservations: self.reservations.clone(),
            busy_allocate: self.busy_allocate,
            kubelet_dir: self.folder.clone(),
        };
        let service = Service { allocator };
        let end = CancellationToken::new();
        let server = Server::builder()
            .add_service(DevicePluginServer::new(service))
            .serve_with_incoming_shutdown(UnixListenerStream::new(listener), end.clone().cancelled_owned());
        let server = tokio::spawn(server);
        self.set(|state| state.endpoint.clone_from(&endpoint));
        let why = tokio::select! {
            () = self.stop.cancelled() => "stopped",
            why = self.follow(kubelet, &endpoint, &file.0, broadcast.streams(), pause) => why,
            () = forward(from, &lists) => "the list ended",
        };
        // What was said last still goes out: a resource without devices says so with an empty list.
        lists.send_if_modified(|known| {
            let last = self.list.borrow().clone();
            let changed = *known != last;
            *known = last;
            changed
        });
        // The old stream ends and its socket goes before the next Register: a kubelet up to 1.36 that notices the old
        // stream's end late disconnects whoever has the name then (`runClient`).
        drop(lists);
        drop(file);
        end.cancel();
        let abort = server.abort_handle();
        if timeout(LINGER, server).await.is_err() {
            abort.abort();
        }
        why
    }

    /// Registers, then stays until the kubelet has to be told again.
    async fn follow(
        &self,
        kubelet: KubeletSocket,
        endpoint: &str,
        path: &Path,
        mut counts: watch::Receiver<usize>,
        pause: &mut Duration,
    ) -> &'static str {
        let mut contents = self.contents.clone();
        loop {
            let socket = self.folder.join(kubelet_api::KUBELET_SOCKET);
            let outcome = timeout(REGISTER, register(&socket, &self.name, endpoint)).await;
            match outcome {
                Ok(Ok(())) => break,
                Ok(Err(error)) => {
                    tracing::warn!(resource = %self.name, error, "cannot register; trying again");
                }
                Err(_) => tracing::warn!(resource = %self.name, "Register takes too long; trying again"),
            }
            tokio::select! {
                _ = contents.wait_for(|now| now.kubelet != Some(kubelet)) => return "kubelet.sock has changed",
                () = self.wait(pause) => {}
            }
            if !path.exists() {
                return "our socket is gone";
            }
        }
        self.set(|state| state.registered = true);
        tracing::info!(resource = %self.name, endpoint, "registered");
        let mut patience = Instant::now() + NO_STREAM;
        let mut followed = false;
        loop {
            let count = *counts.borrow_and_update();
            self.set(|state| {
                state.streams = count;
                state.first_list_sent |= count > 0;
            });
            if count > 0 {
                *pause = BACKOFF.0;
                followed = true;
                self.set(|state| state.unfollowed = 0);
            }
            tokio::select! {
                Ok(()) = counts.changed() => patience = Instant::now() + NO_STREAM,
                Ok(()) = contents.changed() => {
                    if contents.borrow_and_update().kubelet != Some(kubelet) {
                        return "kubelet.sock has changed";
                    }
                    // A kubelet that starts removes every socket of the folder.
                    if !path.exists() {
                        return "our socket is gone";
                    }
                }
                () = sleep_until(patience), if count == 0 => break,
            }
        }
        if !followed {
            self.set(|state| state.unfollowed += 1);
            tracing::warn!(resource = %self.name,
                "the kubelet has accepted the registration and does not ask for devices: is it older than 1.26?");
        }
        // A kubelet that accepts and never follows is not asked again at once for ever.
        self.wait(pause).await;
        "the kubelet follows no stream of ours"
    }

    /// A pause that doubles, ended early by a stop.
    async fn wait(&self, pause: &mut Duration) {
        tokio::select! {
            () = self.stop.cancelled() => {}
            () = sleep(*pause) => {}
        }
        *pause = (*pause * 2).min(BACKOFF.1);
    }
}

/// Passes lists on to one registration's streams.
async fn forward(mut from: watch::Receiver<DeviceList>, to: &watch::Sender<DeviceList>) {
    while from.changed().await.is_ok() {
        // Also one that is as before: it was sent again on purpose.
        to.send_replace(from.borrow_and_update().clone());
    }
    // The resource's sender went: the stop that comes with it ends the round.
    std::future::pending::<()>().await;
}

async fn register(socket: &Path, resource: &str, endpoint: &str) -> Result<(), String> {
    let channel = Endpoint::from_shared(format!("unix:{}", socket.display()))
        .map_err(|error| format!("{}: {error}", socket.display()))?
        .connect()
        .await
        .map_err(|error| format!("{}: {}", socket.display(), chain(&error)))?;
    let request = RegisterRequest {
        version: kubelet_api::VERSION.to_owned(),
        endpoint: endpoint.to_owned(),
        resource_name: resource.to_owned(),
        options: Some(DevicePluginOptions {
            pre_start_required: false,
            get_preferred_allocation_available: true,
        }),
    };
    let answer = RegistrationClient::new(channel).register(request).await;
    answer.map(drop).map_err(|status| format!("{:?}: {}", status.code(), status.message()))
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text = format!("{text}: {error}");
        source = error.source();
    }
    text
}

/// Marks a socket as ours, so that one left behind by a killed process is known again.
const PREFIX: &str = "vfio-";

/// Short, for the 108 bytes of a socket address, and never used twice: kubelets from 1.37 on refuse a path that is still
/// connected, older ones confuse the old connection with the new.
fn socket_name() -> String {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_micros();
    let unique = u64::try_from(now).unwrap_or_default().wrapping_add(COUNT.fetch_add(1, Ordering::Relaxed));
    format!("{PREFIX}{:x}-{:x}.sock", std::process::id(), unique & 0xffff_ffff)
}

/// Removes sockets that processes of ours have left behind: nobody answers there.
pub(crate) fn sweep(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let ours = name.to_str().is_some_and(|name| name.starts_with(PREFIX) && name.ends_with(".sock"));
        if ours && std::os::unix::net::UnixStream::connect(entry.path()).is_err() {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}
