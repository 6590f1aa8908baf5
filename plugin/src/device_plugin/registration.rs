//! One resource's life with the kubelet: wait for it, serve, register, follow the streams, and begin again when the kubelet has
//! forgotten the resource. Carries out the orders of a hand-over.

use crate::allocate::allocator::Allocator;
use crate::allocate::gate::AllocateGate;
use crate::assignments::AssignmentsHandle;
use crate::backoff::Backoff;
use crate::device_plugin::endpoint::{Endpoint, forward};
use crate::device_plugin::orders::{Order, Orders, Registrations};
use crate::device_plugin::register::register;
use crate::device_plugin::server::{PluginServer, Purpose};
use crate::kubelet::list_and_watch::{DeviceList, DeviceListBroadcast, Streams};
use crate::kubelet::registry::{ResourceStatus, SharedStatus};
use crate::kubelet::socket_watch::PluginDirState;
use crate::metrics::{MetricsHandle, ResourceMetrics};
use crate::node::monitor::MonitorHandle;
use crate::problems::{ProblemCode, Problems};
use crate::publisher::HealthPublisher;
use crate::reservations::Reservations;
use std::path::PathBuf;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;
use vfio_plugin_policy::assignments::kubelet::KubeletSocket;
use vfio_plugin_policy::pools::terms::BusyAllocate;

/// The first and the longest pause between two attempts.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// The kubelet has taken the end of a stream within this time, also on a loaded node. A tenth of it was too short on a host with a
/// load of forty.
const END_IS_TAKEN: Duration = Duration::from_secs(1);
/// A kubelet that has accepted a registration and follows no stream for this time has dropped the resource: it never dials
/// again by itself.
const NO_STREAM: Duration = Duration::from_secs(1);
/// How long the kubelet may take to follow the stream of a socket that replaces another one.
const FOLLOWED: Duration = Duration::from_secs(5);

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
    /// Lets Allocates wait during a hand-over.
    pub(crate) gate: AllocateGate,
    /// The orders of a hand-over.
    pub(crate) registrations: Registrations,
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
            gate: self.gate.clone(),
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
    pub(super) async fn run(self, mut orders: Orders) {
        let mut backoff = Backoff::new(PAUSES.0, PAUSES.1);
        while let Some(kubelet) = self.kubelet(&mut orders).await {
            let reason = self.serve(kubelet, &mut backoff, &mut orders).await;
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

    /// Waits for the kubelet's socket, and until resources may register. None once stopped.
    ///
    /// Without the kubelet there is nothing to serve: it removes every socket of its directory when it starts. An order has nothing to do
    /// then.
    async fn kubelet(&self, orders: &mut Orders) -> Option<KubeletSocket> {
        let mut plugin_dir = self.services.plugin_dir.clone();
        let found = async {
            self.services.registrations.may_register().await;
            let found = plugin_dir.wait_for(|state| state.kubelet.is_some()).await.map(|state| state.kubelet);
            match found {
                Ok(kubelet) => kubelet,
                // The watch has ended, which the supervisor reports.
                Err(_) => std::future::pending().await,
            }
        };
        let mut found = pin!(self.stop.run_until_cancelled(found));
        loop {
            tokio::select! {
                found = &mut found => return found?,
                Some(command) = orders.recv() => drop(command),
            }
        }
    }

    /// Serves on a new socket and registers it. Returns why the resource has to be registered again.
    async fn serve(
        &self,
        kubelet: KubeletSocket,
        backoff: &mut Backoff,
        orders: &mut Orders,
    ) -> &'static str {
        let mut endpoint = match self.endpoint(Purpose::Serve) {
            Ok(endpoint) => endpoint,
            Err(error) => {
                let directory = self.services.kubelet_dir.display();
                self.note(format_args!("no socket can be created in {directory}: {error}"));
                tracing::warn!(resource = %self.name, %directory, %error, "cannot create a socket; trying again");
                self.pause(backoff).await;
                return "no socket could be created";
            }
        };
        let mut is_registered = false;
        let reason = loop {
            self.update(|status| endpoint.server.endpoint().clone_into(&mut status.endpoint));
            let (server, streams) = (&endpoint.server, endpoint.streams.clone());
            let command = tokio::select! {
                () = self.stop.cancelled() => break "the resource was stopped",
                () = server.ended() => {
                    // Whatever ended it may last. The pause keeps the plugin from registering in a loop.
                    self.update(|status| status.registered = false);
                    self.pause(backoff).await;
                    break "its server ended"
                }
                reason = self.register_and_follow(kubelet, server, streams, is_registered, backoff) => break reason,
                never = forward(&mut endpoint.lists, endpoint.sender.as_ref()) => match never {},
                Some(command) = orders.recv() => command,
            };
            let carried_out = self.carry_out(command.order, &mut endpoint);
            match self.stop.run_until_cancelled(carried_out).await {
                Some(Ok(answer)) => {
                    // After the end of its streams, an endpoint is not registered any more.
                    is_registered = command.order == Order::EndStreams || self.status.lock().registered;
                    // Without a receiver the hand-over has given up.
                    let _ = command.done.send(answer);
                }
                Some(Err(reason)) => break reason,
                None => break "the resource was stopped",
            }
        };
        // The streams end and the socket goes before the next Register: a kubelet up to 1.36 that notices the end of the old
        // stream late disconnects the socket that has the name by then (`runClient`).
        endpoint.end().await;
        reason
    }

    /// Serves on a new socket.
    fn endpoint(&self, purpose: Purpose) -> std::io::Result<Endpoint> {
        let services = &self.services;
        let allocator = |broadcast| services.allocator(&self.name, broadcast);
        Endpoint::serve(
            &services.kubelet_dir,
            self.list.clone(),
            purpose,
            allocator,
            services.problems.clone(),
        )
    }

    /// Carries out an order of a hand-over. Returns its answer.
    ///
    /// # Errors
    /// The resource has to be registered again, as if there had been no order.
    async fn carry_out(&self, order: Order, endpoint: &mut Endpoint) -> Result<bool, &'static str> {
        match order {
            Order::Void => self.void().await,
            Order::EndStreams => {
                endpoint.end_streams().await;
                return Ok(endpoint.is_kept().await);
            }
            Order::Renew => self.renew(endpoint).await?,
            Order::RenewAll if !endpoint.is_followed() => {
                let next = self.registered_endpoint().await?;
                std::mem::replace(endpoint, next).end_later();
            }
            Order::RenewAll => {
                let next = self.registered_endpoint().await?;
                if !next.followed(FOLLOWED).await {
                    next.end().await;
                    return Err("the kubelet follows no stream");
                }
                self.void().await;
                endpoint.end_streams().await;
                let is_kept = endpoint.is_kept().await;
                std::mem::replace(endpoint, next).end_later();
                if is_kept {
                    self.renew(endpoint).await?;
                }
            }
        }
        Ok(true)
    }

    /// Lets a registration fail. A kubelet that cannot be called knows no client either, or will know none when it starts.
    async fn void(&self) {
        let Ok(endpoint) = self.endpoint(Purpose::Refuse) else { return };
        match register(&self.services.kubelet_dir, &self.name, endpoint.server.endpoint()).await {
            Err(error) => {
                tracing::debug!(resource = %self.name, error, "let a registration fail on purpose");
            }
            Ok(()) => {
                tracing::warn!(resource = %self.name, "the kubelet accepted a registration that was meant to fail");
            }
        }
        endpoint.end().await;
    }

    /// Ends the stream, and then registers on a new socket. A kubelet up to 1.36 that takes the registration before the end of the
    /// stream disconnects the new client for it, and nothing shows when it has taken the end. Nothing waits for this pause: the
    /// kubelet keeps the devices, and the old server answers.
    async fn renew(&self, endpoint: &mut Endpoint) -> Result<(), &'static str> {
        endpoint.end_streams().await;
        sleep(END_IS_TAKEN).await;
        let next = self.registered_endpoint().await?;
        std::mem::replace(endpoint, next).end_later();
        Ok(())
    }

    /// Serves on a new socket and registers it, at the first attempt.
    async fn registered_endpoint(&self) -> Result<Endpoint, &'static str> {
        let endpoint = self.endpoint(Purpose::Serve).map_err(|_| "no socket could be created")?;
        let registered = register(&self.services.kubelet_dir, &self.name, endpoint.server.endpoint()).await;
        self.count(registered.is_ok());
        match registered {
            Ok(()) => {
                self.registered(&endpoint.server);
                Ok(endpoint)
            }
            Err(error) => {
                tracing::warn!(resource = %self.name, error, "cannot register with the kubelet; trying again");
                endpoint.end().await;
                Err("it could not be registered on a new socket")
            }
        }
    }

    /// Registers the server, unless that was done, and follows its streams. Returns why the resource has to be registered again.
    async fn register_and_follow(
        &self,
        kubelet: KubeletSocket,
        server: &PluginServer,
        streams: watch::Receiver<Streams>,
        is_registered: bool,
        backoff: &mut Backoff,
    ) -> &'static str {
        let registered = match is_registered {
            true => Ok(()),
            false => self.register(kubelet, server, backoff).await,
        };
        let reason = match registered {
            Ok(()) => self.follow(kubelet, server, streams, backoff).await,
            Err(reason) => reason,
        };
        // A hand-over keeps what is registered as it is.
        self.services.registrations.may_register().await;
        reason
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
                // Not a pause that a stop ends: `serve` drops this call then, and without pauses this loop would not let it.
                () = sleep(backoff.pause()) => {}
            }
            self.check_sockets(kubelet, server)?;
        }
        self.count(true);
        self.registered(server);
        Ok(())
    }

    /// Notes that the kubelet has accepted a registration.
    fn registered(&self, server: &PluginServer) {
        self.update(|status| status.registered = true);
        self.services.problems.end(ProblemCode::NotRegistered, &self.name);
        tracing::info!(resource = %self.name, endpoint = server.endpoint(), "registered with the kubelet");
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
