//! Knows whether the kubelet is connected to the driver.
//!
//! While it is not, new slices are not created: a pod that the scheduler places then cannot start before the kubelet is back, and
//! waits for a minute or more.

use std::io::{IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::watch;
use tokio::time::{Duration, Sleep, sleep};
use tokio_stream::Stream;
use tonic::transport::server::Connected;

/// The pause after a failed accept. Without descriptors the next one fails at once.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// The link to the kubelet. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct KubeletLink(watch::Sender<Link>);

#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Link {
    is_registered: bool,
    /// Open connections to the service socket.
    connections: usize,
}

impl KubeletLink {
    /// Returns a link without a kubelet.
    pub(super) fn new() -> Self {
        Self(watch::Sender::new(Link::default()))
    }

    /// Records whether the kubelet has registered the driver.
    pub(super) fn set_registered(&self, is_registered: bool) {
        self.0.send_if_modified(|link| {
            std::mem::replace(&mut link.is_registered, is_registered) != is_registered
        });
    }

    /// Returns whether the kubelet has registered the driver and is connected to it.
    pub(super) fn is_connected(&self) -> bool {
        let link = self.0.borrow();
        link.is_registered && link.connections > 0
    }

    /// Waits until the link may have changed since the receiver's latest call.
    pub(super) fn changes(&self) -> impl Stream<Item = ()> + use<> {
        tokio_stream::StreamExt::map(tokio_stream::wrappers::WatchStream::new(self.0.subscribe()), |_| ())
    }

    fn connected(&self) -> Place {
        self.0.send_modify(|link| link.connections += 1);
        Place(self.clone())
    }
}

/// An open connection to the service socket.
struct Place(KubeletLink);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.0.send_modify(|link| {
            link.connections -= 1;
            // The next kubelet registers the driver again.
            link.is_registered &= link.connections > 0;
        });
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
