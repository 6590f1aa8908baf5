//! The status socket: `serve` answers each connection with one JSON document about its state, for `list`, `ready` and `doctor`.

pub(crate) mod client;
mod clients;
pub(crate) mod readiness;
pub(crate) mod report;
mod socket;
pub(crate) mod words;

use crate::assignments::AssignmentsHandle;
use crate::kubelet::registry::Registry;
use crate::log;
use crate::node::monitor::MonitorHandle;
use crate::problems::{Problem, ProblemCode, Problems};
use crate::publisher::HealthPublisher;
use crate::run_dir::RunDir;
use crate::state_file;
use crate::status::clients::Clients;
use crate::status::report::{DeviceReport, StatusReport};
use crate::status::socket::StatusSocket;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

pub(crate) use socket::SocketFile;

/// What the answers are made of.
pub(crate) struct Server {
    pub(crate) monitor: MonitorHandle,
    pub(crate) publisher: Arc<HealthPublisher>,
    pub(crate) assignments: AssignmentsHandle,
    pub(crate) registry: Arc<Registry>,
    pub(crate) problems: Problems,
}

/// Returns the socket's path in the run directory.
fn path(run_dir: &Path) -> PathBuf {
    run_dir.join(socket::NAME)
}

impl Server {
    /// Returns the socket's file, which is removed when dropped, and the task that answers. The task never ends: it waits for a
    /// run directory that cannot be used yet, and makes the socket again when its file has gone. Without the socket the plugin
    /// does its other work.
    pub(crate) fn start(self, run_dir: &RunDir) -> (SocketFile, impl Future<Output = ()> + Send + 'static) {
        let (file, socket) = socket::new(run_dir);
        (file, self.answer(socket))
    }

    async fn answer(self, mut socket: StatusSocket) {
        let mut clients = Clients::default();
        loop {
            let client = socket.accept().await;
            if let Err(error) = clients.answer(client, || serde_json::to_vec(&self.report())).await {
                tracing::error!(%error, "the status could not be written as JSON");
            }
        }
    }

    fn report(&self) -> StatusReport {
        let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let snapshot = self.monitor.snapshots.borrow().clone();
        let mut devices = Vec::new();
        let assignments = self.assignments.current();
        if let Some(snapshot) = &snapshot {
            self.publisher.visit(snapshot, &assignments, |state, decision, assignment| {
                devices.push(DeviceReport::new(
                    state,
                    decision,
                    assignment.map(|assignment| &assignment.pod),
                ));
            });
        }
        StatusReport {
            pid: std::process::id(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            busy: self.publisher.busy().to_string(),
            uptime_ms: millis(self.monitor.age()),
            silent_ms: millis(self.monitor.silent_for()),
            settled: self.registry.is_set(),
            listing_failed: snapshot.is_some_and(|snapshot| snapshot.listing_failed),
            assignments_known: assignments.known,
            resources: self.registry.resources(),
            devices,
            problems: self.problems(),
            lost_log_lines: log::lost().0,
        }
    }
}

impl Server {
    /// Returns the current problems.
    fn problems(&self) -> Vec<Problem> {
        state_file::forget_removed(&self.problems);
        let (lost, is_unreported) = log::lost();
        if is_unreported {
            let text =
                format!("{lost} lines were lost since the start, because it is full, closed or blocked");
            self.problems.begin(ProblemCode::LogLinesLost, "standard error", text);
        } else {
            self.problems.end(ProblemCode::LogLinesLost, "standard error");
        }
        self.problems.current()
    }
}
