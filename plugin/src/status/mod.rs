//! The status socket: `serve` answers each connection with one JSON document about its state, for `list`, `ready` and `doctor`. Each process
//! of `serve` has another socket of its own, by which `ready` reaches the process of its own container.

pub(crate) mod client;
mod clients;
pub(crate) mod readiness;
pub(crate) mod report;
pub(crate) mod socket;
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
use crate::status::socket::{RunDirSocket, SocketFile};
use crate::status::words::RoleWord;
use parking_lot::Mutex;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The socket's name in the run directory.
const NAME: &str = "status.sock";

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
    run_dir.join(NAME)
}

/// The status of this process, also while it does not serve. Clones share it.
#[derive(Clone)]
pub(crate) struct ProcessStatus(Arc<Process>);

struct Process {
    began: Instant,
    busy: String,
    state: Mutex<(RoleWord, Option<Server>)>,
}

impl ProcessStatus {
    /// Returns the status of a process that does not serve yet. `busy` is its policy for held devices.
    pub(crate) fn new(role: RoleWord, busy: String) -> Self {
        Self(Arc::new(Process { began: Instant::now(), busy, state: Mutex::new((role, None)) }))
    }

    /// Notes that the plugin has started.
    pub(crate) fn started(&self, server: Server) {
        self.0.state.lock().1 = Some(server);
    }

    /// Sets whether the process is the active one.
    pub(crate) fn set_role(&self, role: RoleWord) {
        self.0.state.lock().0 = role;
    }

    /// Returns the file of status.sock, which is removed when dropped, and the task that answers. The task never ends: it waits for a
    /// run directory that cannot be used yet, and makes the socket again when its file has gone. Without the socket the plugin
    /// does its other work.
    pub(crate) fn start(self, run_dir: &RunDir) -> (SocketFile, impl Future<Output = ()> + Send + 'static) {
        let missing = "no status socket yet; list, ready and doctor get no answer";
        self.start_as(run_dir, NAME, Some(missing))
    }

    /// Returns the same for a socket of this process alone, on which it answers also while it does not serve.
    pub(crate) fn start_own(
        self,
        run_dir: &RunDir,
        name: &str,
    ) -> (SocketFile, impl Future<Output = ()> + Send + 'static) {
        self.start_as(run_dir, name, None)
    }

    fn start_as(
        self,
        run_dir: &RunDir,
        name: &str,
        missing: Option<&'static str>,
    ) -> (SocketFile, impl Future<Output = ()> + Send + 'static) {
        let (file, socket) = socket::new(run_dir, name, missing);
        (file, self.answer(socket))
    }

    async fn answer(self, mut socket: RunDirSocket) {
        let mut clients = Clients::default();
        loop {
            let client = socket.accept().await;
            if let Err(error) = clients.answer(client, || serde_json::to_vec(&self.report())).await {
                tracing::error!(%error, "the status could not be written as JSON");
            }
        }
    }

    fn report(&self) -> StatusReport {
        let state = self.0.state.lock();
        let report = match &state.1 {
            Some(server) => server.report(),
            None => StatusReport {
                uptime_ms: millis(self.0.began.elapsed()),
                busy: self.0.busy.clone(),
                ..StatusReport::of_process()
            },
        };
        StatusReport { role: state.0, ..report }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

impl StatusReport {
    /// Returns the report of a process that has not started to serve.
    fn of_process() -> Self {
        Self {
            pid: std::process::id(),
            role: RoleWord::Waiting,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            busy: String::new(),
            uptime_ms: 0,
            silent_ms: 0,
            settled: false,
            listing_failed: false,
            assignments_known: false,
            resources: Vec::new(),
            dra: None,
            devices: Vec::new(),
            problems: Vec::new(),
            lost_log_lines: log::lost().0,
        }
    }
}

impl Server {
    fn report(&self) -> StatusReport {
        let snapshot = self.monitor.snapshots.borrow().clone();
        let mut devices = Vec::new();
        let assignments = self.assignments.current();
        if let Some(snapshot) = &snapshot {
            self.publisher.visit(snapshot, &assignments, |state, decision, _| {
                devices.push(DeviceReport::of_serve(state, decision, &assignments));
            });
        }
        StatusReport {
            busy: self.publisher.busy().to_string(),
            uptime_ms: millis(self.monitor.age()),
            silent_ms: millis(self.monitor.silent_for()),
            settled: self.registry.is_set(),
            listing_failed: snapshot.is_some_and(|snapshot| snapshot.listing_failed),
            assignments_known: assignments.known,
            resources: self.registry.resources(),
            dra: self.registry.driver(),
            devices,
            problems: self.problems(),
            ..StatusReport::of_process()
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
