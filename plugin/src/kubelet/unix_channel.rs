//! Connects gRPC clients to the kubelet's Unix sockets.
//!
//! tonic's own `connect` also contains the clients of TCP and DNS, which a Unix socket does not need. Without them the static
//! program lacks the C library's resolver, which would load shared libraries.

use hyper_util::rt::TokioIo;
use std::future::Future;
use std::io::Result;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use tokio::net::UnixStream;
use tonic::codegen::Service;
use tonic::codegen::http::Uri;
use tonic::transport::{Channel, Endpoint, Error};

/// Connects to the socket at `path`, which must be a text that [`Endpoint::from_shared`] accepts after `unix:`.
///
/// # Errors
/// The path is not such a text, or the socket cannot be connected to. The I/O error is among the sources of the latter.
pub(crate) async fn connect(path: &str) -> std::result::Result<Channel, ConnectError> {
    let endpoint = Endpoint::from_shared(format!("unix:{path}")).map_err(ConnectError::Path)?;
    endpoint.connect_with_connector(UnixConnector(path.into())).await.map_err(ConnectError::Connect)
}

/// Why there is no connection.
#[derive(Debug)]
pub(crate) enum ConnectError {
    /// The path cannot be used.
    Path(Error),
    /// The socket cannot be connected to, or the HTTP/2 handshake failed.
    Connect(Error),
}

/// Connects to one socket, whatever the URI is.
struct UnixConnector(PathBuf);

impl Service<Uri> for UnixConnector {
    type Response = TokioIo<UnixStream>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let path = self.0.clone();
        Box::pin(async move { Ok(TokioIo::new(UnixStream::connect(path).await?)) })
    }
}
