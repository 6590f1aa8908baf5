//! One resource's life with the kubelet: wait for it, serve, register, follow the streams, and begin again when the kubelet has
//! forgotten the resource.

use crate::allocate::allocator::Allocator;
use crate::assignments::AssignmentsHandle;
use crate::backoff::Backoff;
use crate::device_plugin::register::register;
use crate::device_plugin::server::{PluginServer, Socket};
use crate::kubelet::list_and_watch::{DeviceList, DeviceListBroadcast, Streams};
use crate::kubelet::registry::{ResourceStatus, SharedStatus};
use crate::kubelet::socket_watch::PluginDirState;
use crate::metrics::{MetricsHandle, ResourceMetrics};
use crate::node::monitor::MonitorHandle;
use crate::problems::{ProblemCode, Problems};
use crate::publisher::HealthPublisher;
use crate::reservations::Reservations;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use vfio_plugin_policy::assignments::kubelet::KubeletSocket;
use vfio_plugin_policy::pools::terms::BusyAllocate;

/// The first and the longest pause between two attempts.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// A kubelet that has accepted a registration and follows no stream for this time has dropped the resource: it never dials
/// again by itself.
const NO_STREAM: Duration = Duration::from_secs(1);

/// What the resources share.
#[derive(Clone)]
pub(crate) struct Services {
    /// The kubelet's directory for device plugins.
    pub(crate) kubelet_dir: PathBuf,
    /// The state of that directory.
    pub(crate) plugin_dir: watch::Receiver<PluginDirState>,
    /// The monitor.
    pub(crate) monitor: MonitorHandle,
    /// The health that was reported.
    pub(crate) publisher: Arc<HealthPublisher>,
    /// Which pod each device is assigned to.
    pub(crate) assignments: AssignmentsHandle,
    /// The groups that Allocate calls are about to allocate.
    pub(crate) reservations: Reservations,
    /// Has the resources that cannot be registered.
    pub(crate) problems: Problems,
    /// What Allocate does with a held device, where its pool does not say.
    pub(crate) busy_allocate: BusyAllocate,
    /// Counts Allocates and registrations.
    pub(crate) metrics: MetricsHandle,
}

impl Services {
    fn allocator(&self, resource: &Arc<str>, broadcast: DeviceListBroadcast) -> Allocator {
        Allocator {
            resource: Arc::clone(resource),
            broadcast,
            monitor: self.monitor.clone(),
            publisher: Arc::clone(&self.publisher),
            assignments: self.assignments.clone(),
            reservations: self.reservations.clone(),
            busy_allocate: self.busy_allocate,
            kubelet_dir: self.kubelet_dir.clone(),
            metrics: ResourceMetrics::of(&self.metrics, resource),
        }
    }
}

/// One resource, as its task serves it.
pub(super) struct Resource {
    pub(super) name: Arc<str>,
    pub(super) list: watch::Receiver<DeviceList>,
    pub(super) services: Services,
    pub(super) status: SharedStatus,
    pub(super) stop: CancellationToken,
}

impl Resource {
    /// Serves and registers until stopped. Ends within 600 ms after the stop; then no stream and no socket is left.
    pub(super) async fn run(self) {
        let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
        while let Some(kubelet) = self.kubelet().await {
            let reason = self.serve(kubelet, &mut backoff).await;
            self.update(|status| {
                let (name, unfollowed) = (std::mem::take(&mut status.name), status.unfollowed);
                *status = ResourceStatus { name, unfollowed, ..ResourceStatus::default() };
            });
            if self.stop.is_cancelled() {
                self.services.problems.end(ProblemCode::NotRegistered, &self.name);
            } else {
                tracing::info!(resource = %self.name, reason, "registering again");
            }
        }
    }

    /// Waits for the kubelet's socket. None once stopped.
    ///
    /// Without the kubelet there is nothing to serve: it removes every socket of its directory when it starts.
    async fn kubelet(&self) -> Option<KubeletSocket> {
        let mut plugin_dir = self.services.plugin_dir.clone();
        let found = async {
            let found = plugin_dir.wait_for(|state| state.kubelet.is_some()).await.map(|state| state.kubelet);
            match found {
                Ok(kubelet) => kubelet,
                // The watch has ended, which the supervisor reports.
                Err(_) => std::future::pending().await,
            }
        };
        self.stop.run_until_cancelled(found).await?
    }

    /// Serves on a new socket and registers it. Returns why the resource has to be registered again.
    async fn serve(&self, kubelet: KubeletSocket, backoff: &mut Backoff) -> &'static str {
        let socket = match Socket::bind(&self.services.kubelet_dir) {
            Ok(socket) => socket,
            Err(error) => {
                let directory = self.services.kubelet_dir.display();
                self.note(format_args!("no socket can be created in {directory}: {error}"));
                tracing::warn!(resource = %self.name, %directory, %error, "cannot create a socket; trying again");
                self.pause(backoff).await;
                return "no socket could be created";
            }
        };
        let mut lists = self.list.clone();
        let (sender, receiver) = watch::channel(lists.borrow_and_update().clone());
        let broadcast = DeviceListBroadcast::new(receiver);
        let streams = broadcast.streams();
        let server =
            socket.serve(self.services.allocator(&self.name, broadcast), self.services.problems.clone());
        self.update(|status| server.endpoint().clone_into(&mut status.endpoint));
        let reason = tokio::select! {
            () = self.stop.cancelled() => "the resource was stopped",
            () = server.ended() => {
                // Whatever ended it may last. The pause keeps the plugin from registering in a loop.
                self.update(|status| status.registered = false);
                self.pause(backoff).await;
                "its server ended"
            }
            reason = self.register_and_follow(kubelet, &server, streams, backoff) => reason,
            never = forward(lists, &sender) => match never {},
        };
        // The last list still goes out: a resource without devices reports that by an empty list.
        sender.send_if_modified(|sent| {
            let last = self.list.borrow().clone();
            let changed = *sent != last;
            *sent = last;
            changed
        });
        // The streams end and the socket goes before the next Register: a kubelet up to 1.36 that notices the end of the old
        // stream late disconnects the socket that has the name by then (`runClient`).
        drop(sender);
        server.end().await;
        reason
    }

    /// Registers the server and follows its streams. Returns why the resource has to be registered again.
    async fn register_and_follow(
        &self,
        kubelet: KubeletSocket,
        server: &PluginServer,
        streams: watch::Receiver<Streams>,
        backoff: &mut Backoff,
    ) -> &'static str {
        match self.register(kubelet, server, backoff).await {
            Ok(()) => self.follow(kubelet, server, streams, backoff).await,
            Err(reason) => reason,
        }
    }

    /// Calls Register until the kubelet accepts.
    ///
    /// # Errors
    /// The kubelet or the plugin's socket is no longer the same.
    async fn register(
        &self,
        kubelet: KubeletSocket,
        server: &PluginServer,
        backoff: &mut Backoff,
    ) -> Result<(), &'static str> {
        let mut plugin_dir = self.services.plugin_dir.clone();
        while let Err(error) = register(&self.services.kubelet_dir, &self.name, server.endpoint()).await {
            self.count(false);
            self.note(format_args!("the kubelet does not register it: {error}"));
            tracing::warn!(resource = %self.name, error, "cannot register with the kubelet; trying again");
            tokio::select! {
                Ok(_) = plugin_dir.wait_for(|state| state.kubelet != Some(kubelet)) => {}
                () = self.pause(backoff) => {}
            }
            self.check_sockets(kubelet, server)?;
        }
        self.count(true);
        self.update(|status| status.registered = true);
        self.services.problems.end(ProblemCode::NotRegistered, &self.name);
        tracing::info!(resource = %self.name, endpoint = server.endpoint(), "registered with the kubelet");
        Ok(())
    }

    /// Counts the kubelet's streams. Returns why the resource has to be registered again: the kubelet follows no stream, or a
    /// socket has changed.
    async fn follow(
        &self,
        kubelet: KubeletSocket,
        server: &PluginServer,
        mut streams: watch::Receiver<Streams>,
        backoff: &mut Backoff,
    ) -> &'static str {
        let mut plugin_dir = self.services.plugin_dir.clone();
        let mut patience = Instant::now() + NO_STREAM;
        let mut followed = false;
        loop {
            let Streams { open, first_list_sent } = *streams.borrow_and_update();
            self.update(|status| (status.streams, status.first_list_sent) = (open, first_list_sent));
            if open > 0 || first_list_sent {
                backoff.reset();
                followed = true;
                self.update(|status| status.unfollowed = 0);
            }
            tokio::select! {
                Ok(()) = streams.changed() => patience = Instant::now() + NO_STREAM,
                Ok(()) = plugin_dir.changed() => {
                    if let Err(reason) = self.check_sockets(kubelet, server) {
                        return reason;
                    }
                }
                () = sleep_until(patience), if open == 0 => break,
            }
        }
        if !followed {
            self.update(|status| status.unfollowed += 1);
            tracing::warn!(resource = %self.name,
                "the kubelet accepted the registration and opened no stream; is it older than 1.26?");
        }
        // The kubelet may accept and never follow; the pause keeps the plugin from registering in a loop.
        self.pause(backoff).await;
        "the kubelet follows no stream"
    }

    /// Checks that the kubelet's socket and the plugin's own are those of the registration.
    fn check_sockets(&self, kubelet: KubeletSocket, server: &PluginServer) -> Result<(), &'static str> {
        if self.services.plugin_dir.borrow().kubelet != Some(kubelet) {
            return Err("kubelet.sock has changed");
        }
        if !server.socket_exists() {
            return Err("the plugin's socket has gone");
        }
        Ok(())
    }

    /// Waits before the next attempt. A stop ends the pause.
    async fn pause(&self, backoff: &mut Backoff) {
        self.stop.run_until_cancelled(sleep(backoff.pause())).await;
    }

    fn note(&self, text: std::fmt::Arguments<'_>) {
        self.services.problems.begin(ProblemCode::NotRegistered, &self.name, text);
    }

    /// Counts a call of Register.
    fn count(&self, is_ok: bool) {
        if let Some(metrics) = &self.services.metrics {
            metrics.counters.of(&self.name).registered(is_ok);
        }
    }

    fn update(&self, change: impl FnOnce(&mut ResourceStatus)) {
        change(&mut self.status.lock());
    }
}

/// Passes a resource's lists on to the streams of one registration.
async fn forward(mut from: watch::Receiver<DeviceList>, to: &watch::Sender<DeviceList>) -> Infallible {
    while from.changed().await.is_ok() {
        // An equal list too: it was sent again on purpose.
        to.send_replace(from.borrow_and_update().clone());
    }
    // The resource has gone. The stop that comes with it ends the registration.
    std::future::pending().await
}
