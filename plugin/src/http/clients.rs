//! The connections of the HTTP server: few at a time, each for one request and a short time.

use crate::client_tasks::ClientTasks;
use crate::http::HttpServer;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpStream;
use tokio::time::timeout;

/// Limit for the connections at a time. The oldest is closed for a new one, unless its share of time has not passed.
const MAX_CLIENTS: usize = 16;
const SHARE: Duration = Duration::from_millis(100);
/// The longest life of a connection: the time to send a request and to read the answer.
const LIFE: Duration = Duration::from_secs(10);
/// The longest request head in bytes. Prometheus sends some 300.
const MAX_HEAD: usize = 8 * 1024;
const MAX_HEADERS: usize = 64;

/// The connections that are open.
#[derive(Debug)]
pub(super) struct Clients(ClientTasks);

impl Default for Clients {
    fn default() -> Self {
        Self(ClientTasks::new(MAX_CLIENTS, SHARE))
    }
}

impl Clients {
    /// Answers a client, without waiting for it. If there are too many clients, this makes room first: for at most 100 ms.
    pub(super) async fn answer(&mut self, client: TcpStream, server: &Arc<HttpServer>) {
        self.0.make_room().await;
        self.0.start(serve(client, Arc::clone(server)));
    }
}

/// Answers one request, and closes the connection. A client that is idle or slow is disconnected.
async fn serve(client: TcpStream, server: Arc<HttpServer>) {
    let service = service_fn(move |request| {
        let answer = server.answer(&request);
        async move { Ok::<_, Infallible>(answer) }
    });
    let mut http = http1::Builder::new();
    // A client that waits for its next request would take a place from others.
    http.keep_alive(false).max_buf_size(MAX_HEAD).max_headers(MAX_HEADERS);
    let connection = http.serve_connection(TokioIo::new(client), service);
    // A client that breaks off is no event.
    let _ = timeout(LIFE, connection).await;
}
