//! A connection of the kubelet that the plugin can close.

use std::io::{Error, ErrorKind, IoSlice, Result};
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tonic::transport::server::Connected;

/// An accepted connection. After its token is cancelled, reads and writes fail, and the server drops it with all its streams.
///
/// The server's graceful shutdown is not enough: it waits for the client, and a kubelet that does not read never answers.
pub(super) struct Connection {
    stream: UnixStream,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Connection {
    /// Wraps an accepted connection until `close` is cancelled.
    pub(super) fn new(stream: UnixStream, close: CancellationToken) -> Self {
        Self { stream, closed: Box::pin(close.cancelled_owned()) }
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
        self.open(context)?.poll_read(context, buffer)
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
    type ConnectInfo = ();

    fn connect_info(&self) {}
}
