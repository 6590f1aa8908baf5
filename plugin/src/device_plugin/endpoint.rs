//! One socket of a resource with its server and its streams, from the bind to the end.

use crate::allocate::allocator::Allocator;
use crate::device_plugin::server::{PluginServer, Purpose, Socket};
use crate::kubelet::list_and_watch::{DeviceList, DeviceListBroadcast, Streams};
use crate::problems::Problems;
use std::convert::Infallible;
use std::path::Path;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, timeout};

/// How long the streams may take to end after their list has. The gRPC server ends them at its next poll.
const END: Duration = Duration::from_millis(500);
/// The end of a stream reaches the kubelet's device manager within this time.
const REACHES_KUBELET: Duration = Duration::from_millis(100);
/// Kubelets from 1.37 on close their connection within milliseconds after the end of its stream, and older ones never do.
const CLOSED: Duration = Duration::from_secs(1);
/// The pause between two checks of that.
const CHECK: Duration = Duration::from_millis(5);
/// How long a server answers calls after it was replaced: an Allocate may have begun before. It takes two seconds at most.
const LAST_CALLS: Duration = Duration::from_secs(3);

/// A served socket.
pub(super) struct Endpoint {
    pub(super) server: PluginServer,
    pub(super) streams: watch::Receiver<Streams>,
    /// The resource's lists.
    pub(super) lists: watch::Receiver<DeviceList>,
    /// Passes them on to the streams. None once the streams were ended.
    pub(super) sender: Option<watch::Sender<DeviceList>>,
}

impl Endpoint {
    /// Serves on a new socket. `allocator` makes what answers the calls.
    ///
    /// # Errors
    /// The directory is missing or cannot be written.
    pub(super) fn serve(
        directory: &Path,
        mut lists: watch::Receiver<DeviceList>,
        purpose: Purpose,
        allocator: impl FnOnce(DeviceListBroadcast) -> Allocator,
        problems: Problems,
    ) -> std::io::Result<Self> {
        let socket = Socket::bind(directory)?;
        let (sender, receiver) = watch::channel(lists.borrow_and_update().clone());
        let broadcast = DeviceListBroadcast::new(receiver);
        let streams = broadcast.streams();
        let server = socket.serve(allocator(broadcast), purpose, problems);
        Ok(Self { server, streams, lists, sender: Some(sender) })
    }

    /// Returns whether a stream is open.
    pub(super) fn is_followed(&self) -> bool {
        self.streams.borrow().open > 0
    }

    /// Waits until a stream is open and has its first list, and the kubelet has had the time to take it. Returns false if that is not
    /// so within `limit`.
    pub(super) async fn followed(&self, limit: Duration) -> bool {
        let mut streams = self.streams.clone();
        let followed = streams.wait_for(|streams| streams.open > 0 && streams.first_list_sent);
        let is_followed = matches!(timeout(limit, followed).await, Ok(Ok(_)));
        if is_followed {
            sleep(REACHES_KUBELET).await;
        }
        is_followed
    }

    /// Ends the streams, and waits until the kubelet has noticed. The server goes on.
    pub(super) async fn end_streams(&mut self) {
        if self.sender.take().is_some() {
            let _ = timeout(END, self.streams.wait_for(|streams| streams.open == 0)).await;
            sleep(REACHES_KUBELET).await;
        }
    }

    /// Waits for up to a second until the kubelet closes the connection of its ended stream. Returns whether it has not.
    pub(super) async fn is_kept(&self) -> bool {
        let deadline = Instant::now() + CLOSED;
        while self.server.has_follower() {
            if Instant::now() >= deadline {
                return true;
            }
            sleep(CHECK).await;
        }
        false
    }

    /// Sends the last list, ends the streams and then the server, and removes the socket.
    pub(super) async fn end(mut self) {
        // A resource without devices reports that by an empty list.
        if let Some(sender) = self.sender.take() {
            sender.send_if_modified(|sent| {
                let last = self.lists.borrow().clone();
                let changed = *sent != last;
                *sent = last;
                changed
            });
        }
        self.server.end().await;
    }

    /// Ends the server like [`end`](Self::end), once the calls that have begun can have ended. Does not wait for it.
    pub(super) fn end_later(self) {
        tokio::spawn(async move {
            sleep(LAST_CALLS).await;
            self.end().await;
        });
    }
}

/// Passes a resource's lists on to the streams of an endpoint.
pub(super) async fn forward(
    from: &mut watch::Receiver<DeviceList>,
    to: Option<&watch::Sender<DeviceList>>,
) -> Infallible {
    if let Some(to) = to {
        while from.changed().await.is_ok() {
            // An equal list too: it was sent again on purpose.
            to.send_replace(from.borrow_and_update().clone());
        }
    }
    // The streams were ended, or the resource has gone. The stop that comes with that ends the registration.
    std::future::pending().await
}
