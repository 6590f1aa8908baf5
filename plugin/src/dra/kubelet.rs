//! Knows whether the kubelet is connected to the driver.
//!
//! The kubelet connects to the service socket when it registers the driver, and keeps the connection as long as both run
//! (`DRAPluginManager`). It connects again after an idle time without another registration. While it is not connected, new slices
//! are not created: a pod that the scheduler places then cannot start before the kubelet is back, and waits for a minute or more.

use crate::driver_status::SharedDriverStatus;
use std::io::{IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::time::{Duration, Sleep, sleep};
use tokio_stream::wrappers::WatchStream;
use tokio_stream::{Stream, StreamExt};
use tonic::transport::server::Connected;

/// The pause after a failed accept. Without descriptors the next one fails at once.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// The link to the kubelet. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct KubeletLink {
    /// The number of open connections to the service socket.
    connections: watch::Sender<usize>,
    /// What `ready` and `doctor` show.
    status: SharedDriverStatus,
}

impl KubeletLink {
    /// Returns a link without a kubelet, whose state is kept in `status`.
    pub(super) fn new(status: SharedDriverStatus) -> Self {
        Self { connections: watch::Sender::new(0), status }
    }

    /// Returns whether the kubelet is connected.
    pub(super) fn is_connected(&self) -> bool {
        *self.connections.borrow() > 0
    }

    /// Returns a stream that has an item whenever the link may have changed.
    pub(super) fn changes(&self) -> impl Stream<Item = ()> + use<> {
        WatchStream::new(self.connections.subscribe()).map(|_| ())
    }

    /// Records that the kubelet refused the registration, and why.
    pub(super) fn refused(&self, error: String) {
        self.status.lock().refused = Some(error);
    }

    fn connected(&self) -> Place {
        self.count(|connections| connections + 1);
        Place(self.clone())
    }

    fn count(&self, change: impl FnOnce(usize) -> usize) {
        self.connections.send_modify(|connections| {
            *connections = change(*connections);
            let mut status = self.status.lock();
            status.registered = *connections > 0;
            if status.registered {
                status.refused = None;
            }
        });
    }
}

/// An open connection to the service socket.
struct Place(KubeletLink);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.count(|connections| connections.saturating_sub(1));
    }
}

/// The accepted connections of a socket. Never ends.
pub(super) struct Connections {
    listener: UnixListener,
    counted: Option<KubeletLink>,
    pause: Option<Pin<Box<Sleep>>>,
}

impl Connections {
    /// Accepts connections, and counts them in `counted`.
    pub(super) fn new(listener: UnixListener, counted: Option<KubeletLink>) -> Self {
        Self { listener, counted, pause: None }
    }
}

impl Stream for Connections {
    type Item = Result<Connection>;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(pause) = &mut self.pause {
            ready!(pause.as_mut().poll(context));
            self.pause = None;
        }
        match ready!(self.listener.poll_accept(context)) {
            Ok((stream, _)) => {
                let place = self.counted.as_ref().map(KubeletLink::connected);
                Poll::Ready(Some(Ok(Connection { stream, _place: place })))
            }
            Err(error) => {
                self.pause = Some(Box::pin(sleep(ACCEPT_AGAIN)));
                Poll::Ready(Some(Err(error)))
            }
        }
    }
}

/// A connection of the kubelet.
pub(super) struct Connection {
    stream: UnixStream,
    _place: Option<Place>,
}

impl Connected for Connection {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, buffer: &[u8]) -> Poll<Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, buffer)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, buffers)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
