//! The gRPC server of one registration, on a socket of its own.

use crate::allocate::allocator::Allocator;
use crate::device_plugin::clients::Clients;
use crate::device_plugin::connection::Connection;
use crate::device_plugin::limits::Limits;
use crate::device_plugin::service::{MAX_REQUEST, Service};
use crate::device_plugin::sockets;
use crate::files::bind_private;
use crate::problems::{ProblemCode, Problems};
use kubelet_api::v1beta1::device_plugin_server::DevicePluginServer;
use std::io::Result;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::time::{sleep, timeout};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_stream::{Stream, StreamExt};
use tokio_util::sync::{CancellationToken, DropGuard};

/// How long connections may take to end by themselves after their streams have.
const LINGER: Duration = Duration::from_millis(300);
/// The pause after a failed accept.
const ACCEPT_AGAIN: Duration = Duration::from_millis(100);

/// A socket in the kubelet's directory. Dropping it removes the file.
pub(super) struct Socket {
    listener: UnixListener,
    file: EndpointFile,
}

/// What a server is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Purpose {
    /// To serve the kubelet.
    Serve,
    /// To let its registration fail ([`Order::Void`](crate::device_plugin::orders::Order::Void)).
    Refuse,
}

/// A running server.
pub(super) struct PluginServer {
    file: EndpointFile,
    clients: Clients,
    shutdown: CancellationToken,
    /// Closes the connections, also if this is dropped.
    close: DropGuard,
    /// Cancelled when the server has ended, with all its connections.
    ended: CancellationToken,
}

/// The socket's file, removed when dropped.
struct EndpointFile {
    path: PathBuf,
    name: String,
}

impl Drop for EndpointFile {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.path);
    }
}

impl Socket {
    /// Binds a socket with a new name.
    ///
    /// # Errors
    /// The directory is missing or cannot be written.
    pub(super) fn bind(directory: &Path) -> Result<Self> {
        let name = sockets::new_name();
        let path = directory.join(&name);
        Ok(Self { listener: bind_private(&path)?, file: EndpointFile { path, name } })
    }

    /// Starts to answer calls.
    pub(super) fn serve(self, allocator: Allocator, purpose: Purpose, problems: Problems) -> PluginServer {
        let (shutdown, close, ended) =
            (CancellationToken::new(), CancellationToken::new(), CancellationToken::new());
        let limits = Limits::DEFAULT;
        let socket = self.file.path.display().to_string();
        let note = move |accepted: &Result<UnixStream>| match accepted {
            Ok(_) => {
                problems.end(ProblemCode::AcceptFailed, &socket);
            }
            Err(error) => {
                let text = format_args!("connections of the kubelet cannot be accepted: {error}");
                if problems.begin(ProblemCode::AcceptFailed, &socket, text) {
                    tracing::warn!(%error, "cannot accept a connection of the kubelet; trying again");
                }
            }
        };
        let clients = Clients::default();
        let connections = accepted_connections(self.listener, limits, close.clone(), clients.clone(), note);
        let service = Service { allocator, refuses: purpose == Purpose::Refuse };
        let server = limits
            .server()
            .add_service(DevicePluginServer::new(service).max_decoding_message_size(MAX_REQUEST))
            .serve_with_incoming_shutdown(connections, shutdown.clone().cancelled_owned());
        let end = ended.clone().drop_guard();
        tokio::spawn(async move {
            let _end = end;
            if let Err(error) = server.await {
                tracing::warn!(%error, "the gRPC server of a resource failed");
            }
        });
        PluginServer { file: self.file, clients, shutdown, close: close.drop_guard(), ended }
    }
}

/// Accepts connections until the server ends. `note` sees each result. `close` closes all connections.
pub(super) fn accepted_connections(
    listener: UnixListener,
    limits: Limits,
    close: CancellationToken,
    clients: Clients,
    mut note: impl FnMut(&Result<UnixStream>),
) -> impl Stream<Item = Result<Connection>> {
    UnixListenerStream::new(listener).then(move |accepted| {
        note(&accepted);
        connection(accepted, close.clone(), limits, clients.clone())
    })
}

/// Returns the connection that was accepted. Pauses after an error: without descriptors the next accept fails at once, and the
/// gRPC server makes it at once.
///
/// If there are as many connections as there may be, closes the least useful one.
async fn connection(
    accepted: Result<UnixStream>,
    close: CancellationToken,
    limits: Limits,
    clients: Clients,
) -> Result<Connection> {
    let stream = match accepted {
        Ok(stream) => stream,
        Err(error) => {
            sleep(ACCEPT_AGAIN).await;
            return Err(error);
        }
    };
    let peer = stream.peer_cred().ok().and_then(|peer| peer.pid()).filter(|pid| *pid > 0);
    let place = clients.admit(limits.connections, peer, &close).await;
    Ok(Connection::new(stream, limits.preface, place))
}

impl PluginServer {
    /// Returns the file name of the socket, as Register takes it.
    pub(super) fn endpoint(&self) -> &str {
        &self.file.name
    }

    /// Returns whether the socket's file is there. A kubelet that starts removes every socket of its directory.
    pub(super) fn socket_exists(&self) -> bool {
        self.file.path.exists()
    }

    /// Returns whether a connection is open on which a client has called ListAndWatch, also if its stream has ended.
    pub(super) fn has_follower(&self) -> bool {
        self.clients.has_follower()
    }

    /// Waits until the server has ended. It does not end before [`PluginServer::end`] unless it fails.
    pub(super) async fn ended(&self) {
        self.ended.cancelled().await;
    }

    /// Removes the socket and ends the server. When this returns, no stream is left: a connection that does not end within
    /// 300 ms is closed.
    pub(super) async fn end(self) {
        let Self { file, shutdown, close, ended, .. } = self;
        drop(file);
        shutdown.cancel();
        if timeout(LINGER, ended.cancelled()).await.is_err() {
            drop(close);
            // Nothing is left to wait for; the limit is for certainty.
            let _ = timeout(LINGER, ended.cancelled()).await;
        }
    }
}
