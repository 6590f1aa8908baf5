//! Limits for the clients of a plugin socket. The kubelet is the only one that is expected, but every process of root can connect.

use std::time::Duration;
use tonic::transport::Server;

/// How many clients there may be, and how long a silent one stays.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// Connections at a time. For another one the least useful is closed.
    pub(super) connections: usize,
    /// Calls at a time on one connection.
    pub(super) streams: u32,
    /// How long a client may take to begin HTTP/2.
    pub(super) preface: Duration,
    /// The time between two pings on a connection.
    pub(super) ping: Duration,
    /// How long a client may take to answer a ping. A kubelet answers as long as it runs, so its streams live for months; a
    /// kubelet that is stopped for longer loses them, and the plugin registers again.
    pub(super) pong: Duration,
}

impl Limits {
    /// The limits of the plugin.
    pub(super) const DEFAULT: Self = Self {
        connections: 64,
        streams: 64,
        preface: Duration::from_secs(10),
        ping: Duration::from_secs(60),
        pong: Duration::from_secs(60),
    };

    /// Returns a server with these limits, except those that a [`Connection`](super::connection::Connection) has.
    pub(super) fn server(self) -> Server {
        Server::builder()
            .max_concurrent_streams(Some(self.streams))
            .http2_keepalive_interval(Some(self.ping))
            .http2_keepalive_timeout(Some(self.pong))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::device_plugin::clients::{Activity, Clients};
    use crate::device_plugin::server::accepted_connections;
    use crate::files::bind_private;
    use kubelet_api::v1beta1::registration_client::RegistrationClient;
    use kubelet_api::v1beta1::registration_server::{Registration, RegistrationServer};
    use kubelet_api::v1beta1::{Empty, RegisterRequest};
    use std::path::{Path, PathBuf};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;
    use tokio::time::{sleep, timeout};
    use tokio_util::sync::CancellationToken;
    use tonic::transport::Endpoint;
    use tonic::{Request, Response, Status};

    const PATIENCE: Duration = Duration::from_secs(10);
    const SHORT: Limits = Limits {
        connections: 2,
        streams: 4,
        preface: Duration::from_millis(300),
        ping: Duration::from_millis(100),
        pong: Duration::from_millis(300),
    };

    /// A service that answers.
    struct Answers;

    #[tonic::async_trait]
    impl Registration for Answers {
        async fn register(&self, request: Request<RegisterRequest>) -> Result<Response<Empty>, Status> {
            Activity::called(request.extensions());
            Ok(Response::new(Empty {}))
        }
    }

    fn serve(directory: &Path) -> PathBuf {
        serve_with(directory, SHORT)
    }

    fn serve_with(directory: &Path, limits: Limits) -> PathBuf {
        let path = directory.join("socket");
        let listener = bind_private(&path).unwrap();
        let connections =
            accepted_connections(listener, limits, CancellationToken::new(), Clients::default(), |_| {});
        let server = limits.server().add_service(RegistrationServer::new(Answers));
        tokio::spawn(server.serve_with_incoming(connections));
        path
    }

    async fn channel(path: &Path) -> RegistrationClient<tonic::transport::Channel> {
        let endpoint = Endpoint::from_shared(format!("unix:{}", path.display())).unwrap();
        RegistrationClient::new(endpoint.connect().await.unwrap())
    }

    /// Waits until the server closes the connection.
    async fn closed(stream: &mut UnixStream) {
        let end = async { while stream.read(&mut [0; 1024]).await.is_ok_and(|length| length > 0) {} };
        timeout(PATIENCE, end).await.expect("the connection stays open");
    }

    #[tokio::test]
    async fn silent_clients_are_disconnected_and_make_room() {
        let directory = tempfile::tempdir().unwrap();
        let path = serve(directory.path());
        // One sends nothing, one begins HTTP/2 and answers no ping.
        let mut silent = UnixStream::connect(&path).await.unwrap();
        let mut half_open = UnixStream::connect(&path).await.unwrap();
        half_open.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        // Both places are taken: one is closed.
        let mut client = channel(&path).await;
        timeout(PATIENCE, client.register(RegisterRequest::default())).await.unwrap().unwrap();
        closed(&mut silent).await;
        closed(&mut half_open).await;
    }

    #[tokio::test]
    async fn client_that_sends_single_bytes_is_disconnected() {
        let directory = tempfile::tempdir().unwrap();
        let mut slow = UnixStream::connect(serve(directory.path())).await.unwrap();
        for byte in b"PRI * HTTP/2.0\r\n\r\nSM\r\n" {
            if slow.write_all(&[*byte]).await.is_err() {
                return;
            }
            sleep(SHORT.preface / 8).await;
        }
        closed(&mut slow).await;
    }

    #[tokio::test]
    async fn idle_client_that_answers_pings_stays() {
        let directory = tempfile::tempdir().unwrap();
        let path = serve(directory.path());
        let mut client = channel(&path).await;
        client.register(RegisterRequest::default()).await.unwrap();
        let (stream, _) = (path, sleep((SHORT.preface + SHORT.ping + SHORT.pong) * 3).await);
        // A channel that was disconnected would connect again, which it cannot without the file.
        std::fs::remove_file(stream).unwrap();
        client.register(RegisterRequest::default()).await.unwrap();
    }

    #[tokio::test]
    async fn clients_that_only_answer_pings_make_room_for_callers() {
        let directory = tempfile::tempdir().unwrap();
        let limits = Limits { connections: 4, ..SHORT };
        let path = serve_with(directory.path(), limits);
        let mut client = channel(&path).await;
        client.register(RegisterRequest::default()).await.unwrap();
        // Without the file the first client cannot connect again: each of its calls uses its first connection.
        let moved = directory.path().join("moved");
        std::fs::rename(&path, &moved).unwrap();
        let mut idle = Vec::new();
        for _ in 0..limits.connections * 3 {
            idle.push(timeout(PATIENCE, channel(&moved)).await.unwrap());
            client.register(RegisterRequest::default()).await.unwrap();
            let mut other = channel(&moved).await;
            timeout(PATIENCE, other.register(RegisterRequest::default())).await.unwrap().unwrap();
        }
        client.register(RegisterRequest::default()).await.unwrap();
    }
}
