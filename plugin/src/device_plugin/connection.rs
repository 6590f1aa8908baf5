//! A connection of the kubelet that the plugin can close.

use crate::device_plugin::clients::{Activity, Place};
use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::time::{Sleep, sleep};
use tokio_util::sync::WaitForCancellationFutureOwned;
use tonic::transport::server::Connected;

/// What a client sends first (RFC 9113, 3.4): 24 bytes. Until then the server cannot ping it.
const PREFACE: usize = 24;

/// An accepted connection. After the token of its place is cancelled, reads and writes fail, and the server drops it with all its streams. So it
/// does if the client does not begin HTTP/2 in time.
///
/// The server's graceful shutdown is not enough: it waits for the client, and a kubelet that does not read never answers.
pub(super) struct Connection {
    stream: UnixStream,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    /// The time of the first bytes, and how many are missing; none once they are there.
    preface: Option<(Pin<Box<Sleep>>, usize)>,
    /// Counts the connection as long as it is open.
    place: Place,
}

impl Connection {
    /// Wraps an accepted connection until its place is needed. The client has the time `preface` to begin HTTP/2.
    pub(super) fn new(stream: UnixStream, preface: Duration, place: Place) -> Self {
        let preface = Some((Box::pin(sleep(preface)), PREFACE));
        Self { stream, closed: Box::pin(place.close.clone().cancelled_owned()), preface, place }
    }

    /// Returns the stream, or an error once the connection is closed. The task of `context` is woken when that happens.
    fn open(&mut self, context: &mut Context<'_>) -> Result<Pin<&mut UnixStream>> {
        match self.closed.as_mut().poll(context) {
            Poll::Ready(()) => Err(Error::from(ErrorKind::ConnectionAborted)),
            Poll::Pending => Ok(Pin::new(&mut self.stream)),
        }
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<Result<()>> {
        let before = buffer.filled().len();
        let read = self.open(context)?.poll_read(context, buffer);
        if let Some((deadline, missing)) = &mut self.preface {
            *missing = missing.saturating_sub(buffer.filled().len() - before);
            if *missing == 0 {
                self.preface = None;
            } else if deadline.as_mut().poll(context).is_ready() {
                return Poll::Ready(Err(Error::from(ErrorKind::TimedOut)));
            }
        }
        read
    }
}

impl AsyncWrite for Connection {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, data: &[u8]) -> Poll<Result<usize>> {
        self.open(context)?.poll_write(context, data)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[IoSlice<'_>],
    ) -> Poll<Result<usize>> {
        self.open(context)?.poll_write_vectored(context, data)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        self.open(context)?.poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Result<()>> {
        self.open(context)?.poll_shutdown(context)
    }
}

impl Connected for Connection {
    type ConnectInfo = Activity;

    fn connect_info(&self) -> Activity {
        self.place.activity.clone()
    }
}
