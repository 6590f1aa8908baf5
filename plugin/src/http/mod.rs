//! The HTTP server of `--listen`: `/metrics`, `/healthz` and `/readyz`.
//!
//! | module | purpose |
//! | --- | --- |
//! | [`listener`] | binds the address, and again after a failure |
//! | [`clients`] | the connections: few at a time, each for one request and a short time |
//! | [`answer`] | what each path answers |
//!
//! The server has a thread of its own, so that no client and no scrape delays a call of the kubelet.

mod answer;
mod clients;
mod listener;

use crate::backoff::Backoff;
use crate::config::{Config, ListenAddress};
use crate::kubelet::registry::Registry;
use crate::metrics::Metrics;
use crate::node::monitor::MonitorHandle;
use crate::problems::{ProblemCode, Problems};
use crate::supervise::Supervisor;
use clients::Clients;
use listener::Listener;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// The stack of the thread in bytes.
const STACK: usize = 512 * 1024;
/// Pauses between attempts to start the server.
pub(super) const RETRY: Backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(10));

/// What the answers are made of.
#[derive(Clone, Debug)]
pub(crate) struct HttpServer {
    address: ListenAddress,
    metrics: Arc<Metrics>,
    monitor: MonitorHandle,
    registry: Arc<Registry>,
    problems: Problems,
    /// `--interval`, which decides how long the monitor may be silent.
    interval: Duration,
}

impl HttpServer {
    /// Returns the server, which is not started. None without `--listen`.
    pub(crate) fn new(
        config: &Config,
        metrics: Arc<Metrics>,
        monitor: MonitorHandle,
        registry: Arc<Registry>,
        problems: Problems,
    ) -> Option<Self> {
        let address = config.listen?;
        Some(Self { address, metrics, monitor, registry, problems, interval: config.interval })
    }

    /// Starts the server's thread, which ends with `stop`. If that or the address fails, a problem says so, and the plugin does its
    /// other work.
    pub(crate) fn start(self, supervisor: &Supervisor, stop: CancellationToken) {
        let (address, problems, is_stopped) = (self.address, self.problems.clone(), stop.clone());
        let serve = move || self.run(address, &stop);
        if let Err(error) = supervisor.thread_until("http", STACK, is_stopped, serve) {
            report(&problems, address, &error);
        }
    }

    /// Serves until stopped: another process may then have the address.
    fn run(self, address: ListenAddress, stop: &CancellationToken) {
        let mut retry = RETRY;
        let runtime = loop {
            match tokio::runtime::Builder::new_current_thread().enable_io().enable_time().build() {
                Ok(runtime) => break runtime,
                // Out of descriptors.
                Err(error) => report(&self.problems, address, &error),
            }
            std::thread::sleep(retry.pause());
        };
        runtime.block_on(stop.run_until_cancelled(async {
            let mut listener = Listener::new(address, self.problems.clone());
            let mut clients = Clients::default();
            let server = Arc::new(self);
            loop {
                let client = listener.accept().await;
                clients.answer(client, &server).await;
            }
        }));
    }
}

/// Records and logs that the address cannot be used, once for each reason.
fn report(problems: &Problems, address: ListenAddress, error: &std::io::Error) {
    let text = format_args!("metrics and probes over HTTP get no answer: {error}");
    if problems.begin(ProblemCode::ListenFailed, address, text) {
        tracing::warn!(%address, %error, "cannot listen for metrics and probes over HTTP; trying again");
    }
}
