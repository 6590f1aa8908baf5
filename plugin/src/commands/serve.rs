//! `serve`: the device plugin itself. Starts the monitor and the tasks, and connects them.
//!
//! The monitor's snapshots and the assignments go to the publisher, whose device lists go to the resources. Each resource is
//! registered with the kubelet by a task of its own. Every task and thread is supervised.

use crate::allocate::gate::{AllocateGate, ClosedGate};
use crate::assignments::AssignmentsHandle;
use crate::commands::stderr;
use crate::config::Config;
use crate::device_plugin::orders::Registrations;
use crate::device_plugin::registration::Services;
use crate::device_plugin::resources::ResourceSet;
use crate::device_plugin::sockets;
use crate::handover::reload::{Reload, notify_active};
use crate::handover::retired::{AfterRetirement, Retired};
use crate::handover::taker::{self, Beginning, Taken, Withdrawn};
use crate::handover::{Parts, giver};
use crate::http::HttpServer;
use crate::kubelet::registry::Registry;
use crate::kubelet::socket_watch;
use crate::kubelet::socket_watch::PluginDirState;
use crate::metrics::{Metrics, MetricsHandle};
use crate::node::monitor::MonitorHandle;
use crate::problems::{ProblemCode, Problems};
use crate::publisher::{CarriedOver, HealthPublisher, Published};
use crate::reservations::Reservations;
use crate::run_dir::RunDir;
use crate::status::socket::SocketFile;
use crate::status::words::RoleWord;
use crate::status::{self, ProcessStatus};
use crate::supervise::{Failures, PanicReports, Supervisor};
use anyhow::{Context, bail};
use parking_lot::Mutex;
use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::{sleep_until, timeout};
use vfio_plugin_policy::holders::coverage_gaps;
use vfio_probe::ScanCoverage;

/// How long streams and sockets may take to end after a SIGTERM. What is left ends with the process.
const SHUTDOWN: Duration = Duration::from_millis(800);

/// A lower limit of open files is a problem: the usual soft limit.
const FEW_DESCRIPTORS: u64 = 1024;

/// Serve failed, and why is in its log.
#[derive(Debug)]
pub(crate) struct Logged;

/// Runs until SIGTERM or SIGINT. Waits for a kubelet that is not there.
///
/// # Errors
/// The root cannot be opened, the kernel gives the process no thread or descriptor, or a task or thread of the plugin has
/// panicked or ended. The log has the reason, so that every line is JSON with `--log-format json`. Standard error has it if the
/// log is off.
pub(crate) fn run(config: &Config) -> Result<(), Logged> {
    // Files and directories get explicit modes where they are created. Nothing is ever open to others before that.
    umask(Mode::RWXG | Mode::RWXO);
    run_until_signal(config).map_err(|error| {
        if tracing::enabled!(tracing::Level::ERROR) {
            tracing::error!(error = %format_args!("{error:#}"), "serve failed");
        } else {
            stderr::print(format_args!("vfio-device-plugin: {error:#}"));
        }
        Logged
    })
}

fn run_until_signal(config: &Config) -> anyhow::Result<()> {
    let reload = Reload::new();
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the async runtime")?;
    let end = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
        // Only the active process reloads. Another one is not ended by the signal either.
        let _hangup = signal(SignalKind::hangup()).context("cannot handle SIGHUP")?;
        let stop = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        serve_until_any_panic(config, &reload, stop).await
    });
    // A blocking call that hangs in the kernel must not hang the exit.
    runtime.shutdown_background();
    end
}

/// Raises the soft limit of open descriptors to the hard one. A soft limit of 1024 is a default for programs that call select(2),
/// and this one does not; the only program that it starts, and that inherits the limit, is itself. Before any thread starts.
fn raise_descriptor_limit() {
    let limits = getrlimit(Resource::Nofile);
    if limits.current != limits.maximum {
        // Where this is refused, the soft limit stays: the monitor keeps descriptors for half of it.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limits.maximum, ..limits });
    }
}

/// Runs [`serve`] with a supervisor of its own that reports every panic of the process, also of threads and tasks that it has not
/// started: the readers of the hardware, the prober's threads, gRPC calls. Does that again as long as this process is to serve after a
/// hand-over.
async fn serve_until_any_panic(
    config: &Config,
    reload: &Reload,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let (mut stop, mut before) = (pin!(stop), Before::Started);
    let panics = PanicReports::new();
    loop {
        let (supervisor, failures) = Supervisor::new();
        panics.report_to(&supervisor);
        before = match serve(config, &supervisor, failures, reload, before, &mut stop).await? {
            Next::Exit => return Ok(()),
            Next::Wait(before) => before,
        };
    }
}

/// What comes before a process serves.
enum Before {
    /// It has just been started.
    Started,
    /// It has served without the lock, which another process has.
    SteppedBack,
    /// Another process went on in a hand-over to this one. It waits until the connection is closed.
    Withdrawn(Withdrawn),
    /// It has handed over.
    Retired(Retired),
}

impl Before {
    /// Waits until this process serves or takes over. Returns none if it is to exit.
    async fn wait(self, config: &Config) -> Option<Beginning> {
        match self {
            Self::Started | Self::SteppedBack => Some(taker::begin(&config.run_dir).await),
            Self::Withdrawn(withdrawn) => Some(taker::begin_again(&config.run_dir, withdrawn).await),
            Self::Retired(retired) => match retired.wait().await {
                AfterRetirement::Serve(lock) => Some(Beginning::Alone(Some(lock))),
                AfterRetirement::Exit => None,
            },
        }
    }

    fn role(&self) -> RoleWord {
        match self {
            Self::Started | Self::SteppedBack | Self::Withdrawn(_) => RoleWord::Waiting,
            Self::Retired(_) => RoleWord::HandedOver,
        }
    }
}

/// What comes after a process has served.
enum Next {
    /// It exits.
    Exit,
    /// It waits until it serves again.
    Wait(Before),
}

/// Waits until this process is to serve, starts the plugin, and runs it until `stop`, the first failure of a task or thread, or a
/// hand-over. In all cases streams end and sockets are removed before this returns.
async fn serve(
    config: &Config,
    supervisor: &Supervisor,
    mut failures: Failures,
    reload: &Reload,
    before: Before,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<Next> {
    let status = ProcessStatus::new(before.role(), config.busy.to_string());
    let _own_socket = start_own_socket(config, supervisor, status.clone());
    let mut stop = pin!(stop);
    let beginning = tokio::select! {
        beginning = before.wait(config) => beginning,
        () = &mut stop => None,
        failure = failures.first() => {
            supervisor.stop();
            bail!("{failure}; stopped, to be started again")
        }
    };
    let Some(beginning) = beginning else {
        supervisor.stop();
        return Ok(Next::Exit);
    };
    let (parts, gate) = start(config, supervisor, &status, matches!(beginning, Beginning::Alone(_)))?;
    let end = tokio::select! {
        () = stop => Ok(Next::Exit),
        failure = failures.first() => Err(failure),
        before = hand_over(beginning, &parts, gate, supervisor, reload) => Ok(Next::Wait(before)),
    };
    tracing::info!("stopping");
    supervisor.stop();
    parts.monitor.stop();
    let _ = timeout(SHUTDOWN, supervisor.ended()).await;
    // Until here a process that waits for the lock must not serve: an Allocate may still have been answered.
    drop(parts);
    end.or_else(|failure| bail!("{failure}; stopped, to be started again"))
}

/// Starts the status socket of this process, and removes those that killed processes left.
fn start_own_socket(config: &Config, supervisor: &Supervisor, status: ProcessStatus) -> SocketFile {
    let run_dir = RunDir::of_waiting_serve(&config.run_dir, &Problems::default());
    let (socket, answering) = status.start_own(&run_dir, &sockets::new_name());
    let directory = config.run_dir.clone();
    supervisor.task("the status socket of the process", async move {
        tokio::join!(answering, sockets::remove_stale(&directory));
    });
    socket
}

/// Takes over if another process serves, and then serves until another process takes over.
async fn hand_over(
    beginning: Beginning,
    parts: &Parts,
    gate: Option<ClosedGate>,
    supervisor: &Supervisor,
    reload: &Reload,
) -> Before {
    let giver = match beginning {
        Beginning::Alone(lock) => {
            *parts.lock.lock() = lock;
            parts.activate();
            if let Some(gate) = gate {
                gate.answer();
            }
            None
        }
        Beginning::Taking(takeover) => {
            let giver = takeover.peer();
            match takeover.run(parts, gate).await {
                Taken::Serves => Some(giver),
                Taken::Withdrawn(withdrawn) => return Before::Withdrawn(withdrawn),
            }
        }
    };
    notify_active(giver);
    supervisor.task("the reload", reload.clone().follow());
    match giver::serve(parts, reload).await {
        Some(retired) => Before::Retired(retired),
        None => Before::SteppedBack,
    }
}

/// Starts the monitor's thread and all tasks. Returns the parts that a hand-over changes, and the gate of Allocates, which is closed.
///
/// `has_lock`: this process may write to the run directory. If not, another one still serves.
fn start(
    config: &Config,
    supervisor: &Supervisor,
    process: &ProcessStatus,
    has_lock: bool,
) -> anyhow::Result<(Parts, Option<ClosedGate>)> {
    let problems = Problems::default();
    let run_dir = match has_lock {
        true => RunDir::of_serve(&config.run_dir, &problems),
        false => RunDir::of_waiting_serve(&config.run_dir, &problems),
    };
    check_descriptors(&problems);
    let carried_over = CarriedOver::read(&run_dir);
    let metrics: MetricsHandle = config.listen.map(|_| Arc::new(Metrics::new()));
    let monitor = MonitorHandle::start(config, &run_dir, carried_over.lost(), metrics.clone(), supervisor)?;
    let root = monitor.root.clone();
    let publisher = Arc::new(HealthPublisher::new(config, root, carried_over, metrics.clone()));
    let assignments = AssignmentsHandle::new(&run_dir, monitor.clone());
    let registry = Arc::new(Registry::default());
    let reservations = Reservations::default();
    let directory = config.kubelet_dir.clone();
    supervisor.task("the removal of stale sockets", async move {
        sockets::remove_stale(&directory).await;
        // A task that ends is a failure.
        std::future::pending::<()>().await;
    });
    let kubelet = socket_watch::kubelet_socket(&config.kubelet_dir);
    let (sender, plugin_dir) = watch::channel(PluginDirState { kubelet, changes: 0 });
    supervisor.task(
        "the watch of the kubelet's directory",
        socket_watch::follow(config.kubelet_dir.clone(), problems.clone(), sender),
    );
    supervisor.task(
        "the assignments' poller",
        assignments.clone().follow(
            config.clone(),
            reservations.clone(),
            plugin_dir.clone(),
            monitor.snapshots.clone(),
            metrics.clone(),
        ),
    );
    let (gate, closed) = AllocateGate::closed();
    let registrations = Registrations::default();
    let (active, is_active) = watch::channel(false);
    process.started(status::Server {
        monitor: monitor.clone(),
        publisher: Arc::clone(&publisher),
        assignments: assignments.clone(),
        registry: Arc::clone(&registry),
        problems: problems.clone(),
    });
    let (status_socket, answering) = process.clone().start(&run_dir);
    let http = metrics.clone().and_then(|metrics| {
        HttpServer::new(config, metrics, monitor.clone(), Arc::clone(&registry), problems.clone())
    });
    supervisor.task(
        "the status server",
        answer_while_active(is_active, process.clone(), answering, http, supervisor.clone()),
    );
    tracing::info!(root = %config.root.display(), kubelet_dir = %config.kubelet_dir.display(), busy = %config.busy,
        interval = ?config.interval, "serving");
    log_coverage(&monitor);
    let services = Services {
        kubelet_dir: config.kubelet_dir.clone(),
        plugin_dir,
        monitor: monitor.clone(),
        publisher: Arc::clone(&publisher),
        assignments: assignments.clone(),
        reservations,
        gate: gate.clone(),
        registrations: registrations.clone(),
        problems,
        busy_allocate: config.busy_allocate,
        metrics,
    };
    let resources = ResourceSet::new(services.clone(), supervisor.clone(), Arc::clone(&registry));
    supervisor.task("the publisher", publish(services, resources));
    let status_socket = Mutex::new(Some(status_socket));
    let parts = Parts {
        run_dir,
        registrations,
        registry,
        gate,
        assignments,
        monitor,
        publisher,
        active,
        status_socket,
        lock: Mutex::default(),
    };
    Ok((parts, closed))
}

/// Answers on the status socket and over HTTP from the moment on that this process is the active one, until it has handed over.
async fn answer_while_active(
    mut is_active: watch::Receiver<bool>,
    process: ProcessStatus,
    answering: impl Future<Output = ()>,
    http: Option<HttpServer>,
    supervisor: Supervisor,
) {
    if is_active.wait_for(|active| *active).await.is_ok() {
        process.set_role(RoleWord::Active);
        let stop = supervisor.child_token();
        if let Some(http) = http {
            http.start(&supervisor, stop.clone());
        }
        tokio::select! {
            () = answering => {}
            _ = is_active.wait_for(|active| !active) => {}
        }
        stop.cancel();
        process.set_role(RoleWord::HandedOver);
    }
    // A task that ends is a failure.
    std::future::pending::<()>().await;
}

/// Records a limit of open files that a node with many devices exceeds.
fn check_descriptors(problems: &Problems) {
    if let Some(limit) = getrlimit(Resource::Nofile).current.filter(|limit| *limit < FEW_DESCRIPTORS) {
        let text = format!("serve may open {limit} files; it needs one for each offered group");
        if problems.begin(ProblemCode::DescriptorLimit, "limit of open files", &text) {
            tracing::warn!(limit, "the limit of open files is low; a node with many devices exceeds it");
        }
    }
}

/// Logs whether the search for holders can see all processes, once. A container without `hostPID` sees only its own.
fn log_coverage(monitor: &MonitorHandle) {
    let mut coverage = ScanCoverage::default();
    coverage.pid_namespace = monitor.root.pid_namespace();
    for gap in coverage_gaps(&coverage) {
        tracing::info!(
            gap,
            "not all holders can be named; held devices are detected by enable counts and probes nevertheless"
        );
    }
}

/// Turns snapshots and assignments into device lists; never returns.
async fn publish(services: Services, mut resources: ResourceSet) {
    let Services { monitor, publisher, assignments, .. } = services;
    let mut snapshots = monitor.snapshots.clone();
    let mut changes = assignments.subscribe();
    loop {
        let snapshot = snapshots.borrow_and_update().clone();
        changes.mark_unchanged();
        let (current, changed) = assignments.take();
        let mut next = None;
        if let Some(snapshot) = snapshot {
            let Published { lists, decide_again } =
                publisher.decide(&snapshot, &current, &changed, Instant::now());
            next = decide_again.map(tokio::time::Instant::from_std);
            let contested = publisher.contested();
            // A confirmed assignment ends a refusal.
            assignments.set_times_matter(!contested.is_empty());
            monitor.set_contested(contested);
            if let Some(lists) = lists {
                resources.publish(lists);
            }
        }
        tokio::select! {
            Ok(()) = snapshots.changed() => {}
            Ok(()) = changes.changed() => {}
            () = publisher.changed.notified() => {}
            () = sleep_until(next.unwrap_or_else(tokio::time::Instant::now)), if next.is_some() => {}
            // The kubelet writes its checkpoint again after every list, also after one that is not new.
            () = assignments.checkpoint_is_stale() => resources.resend(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use crate::handover::lock::Lock;
    use crate::status::client;
    use clap::Parser;
    use std::future::pending;
    use vfio_sim_node::Node;

    const PATIENCE: Duration = Duration::from_secs(10);

    /// Returns the configuration for a simulated node.
    fn config(node: &Node) -> Config {
        let path = |path: std::path::PathBuf| path.to_str().unwrap().to_owned();
        let mut config = Cli::parse_from([
            "vfio-device-plugin".to_owned(),
            "--interval=50ms".to_owned(),
            "--pci-ids=/dev/null".to_owned(),
            format!("--root={}", path(node.root().to_owned())),
            format!("--kubelet-dir={}", path(node.kubelet_dir())),
            format!("--pod-resources={}", path(node.pod_resources_socket())),
            format!("--run-dir={}", path(node.run_dir())),
            format!("--cdi-dir={}", path(node.root().join("cdi"))),
        ])
        .config;
        config.read_pools().unwrap();
        config
    }

    /// Runs `serve` without another process.
    async fn serve_once(
        config: &Config,
        supervisor: &Supervisor,
        failures: Failures,
        stop: impl Future<Output = ()>,
    ) -> anyhow::Result<Next> {
        serve(config, supervisor, failures, &Reload::new(), Before::Started, stop).await
    }

    #[tokio::test]
    async fn serve_fails_when_a_task_panics_while_it_waits() {
        let node = Node::with_eight_gpus().unwrap();
        let (supervisor, failures) = Supervisor::with_fault("the status socket of the process");
        let config = config(&node);
        let _lock = Lock::try_take(&config.run_dir).unwrap().unwrap();
        let end = timeout(PATIENCE, serve_once(&config, &supervisor, failures, pending())).await;
        let error = end.unwrap().err().unwrap().to_string();
        assert!(error.starts_with("the status socket of the process panicked: injected"), "{error}");
    }

    /// Runs `serve` with one task or thread that panics. Returns the error.
    async fn failure_of(name: &'static str) -> String {
        let node = Node::with_eight_gpus().unwrap();
        let (supervisor, failures) = Supervisor::with_fault(name);
        let config = config(&node);
        let end = timeout(PATIENCE, serve_once(&config, &supervisor, failures, pending())).await;
        end.unwrap_or_else(|_| panic!("serve goes on without {name}")).err().unwrap().to_string()
    }

    #[tokio::test]
    async fn serve_fails_when_a_task_panics() {
        for name in [
            "the watch of the kubelet's directory",
            "the assignments' poller",
            "the status server",
            "the publisher",
            "resource nvidia.com/2330",
        ] {
            let expected = format!("{name} panicked: injected; stopped, to be started again");
            assert_eq!(failure_of(name).await, expected);
        }
    }

    #[tokio::test]
    async fn serve_fails_when_the_monitor_thread_panics() {
        let error = failure_of("monitor").await;
        assert!(error.starts_with("the monitor thread panicked: "), "{error}");
    }

    #[tokio::test]
    async fn serve_fails_when_an_unsupervised_thread_panics() {
        let expected = "the bystander thread panicked: gave up; stopped, to be started again";
        let deadline = Instant::now() + PATIENCE;
        loop {
            let node = Node::with_eight_gpus().unwrap();
            let config = config(&node);
            let run_dir = config.run_dir.clone();
            let work = move || {
                while client::fetch(&run_dir, PATIENCE).is_err() {
                    std::thread::sleep(Duration::from_millis(10));
                }
                panic!("gave up");
            };
            std::thread::Builder::new().name("bystander".to_owned()).spawn(work).unwrap();
            let end = timeout(PATIENCE, serve_until_any_panic(&config, &Reload::new(), pending())).await;
            let error = end.expect("serve goes on after the panic").unwrap_err().to_string();
            if error == expected {
                return;
            }
            // Another test has panicked meanwhile.
            assert!(Instant::now() < deadline, "{error}");
        }
    }

    #[tokio::test]
    async fn serve_fails_when_the_monitor_thread_ends() {
        let node = Node::with_eight_gpus().unwrap();
        let (supervisor, mut failures) = Supervisor::new();
        let status = ProcessStatus::new(RoleWord::Waiting, String::new());
        let (parts, _gate) = start(&config(&node), &supervisor, &status, true).unwrap();
        parts.monitor.stop();
        let failure = timeout(PATIENCE, failures.first()).await.unwrap();
        assert_eq!(failure.to_string(), "the monitor thread ended unexpectedly");
        supervisor.stop();
        timeout(PATIENCE, supervisor.ended()).await.unwrap();
    }

    #[tokio::test]
    async fn lock_is_held_until_all_tasks_have_ended() {
        let node = Node::with_eight_gpus().unwrap();
        let (supervisor, failures) = Supervisor::new();
        let config = config(&node);
        let (stopping, run_dir) = (supervisor.child_token(), config.run_dir.clone());
        let (sender, was_held) = tokio::sync::oneshot::channel();
        supervisor.task_until("the last Allocate", stopping.clone(), async move {
            stopping.cancelled().await;
            let _ = sender.send(Lock::try_take(&run_dir).unwrap().is_none());
        });
        let stop = async {
            while !config.run_dir.join("handover.sock").exists() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, serve_once(&config, &supervisor, failures, stop)).await.unwrap().unwrap();
        assert!(was_held.await.unwrap());
        assert!(Lock::try_take(&config.run_dir).unwrap().is_some());
    }

    #[tokio::test]
    async fn stop_ends_serve_without_error_and_removes_sockets() {
        let node = Node::with_eight_gpus().unwrap();
        let (supervisor, failures) = Supervisor::new();
        let config = config(&node);
        let stop = tokio::time::sleep(Duration::from_millis(300));
        let next =
            timeout(PATIENCE, serve_once(&config, &supervisor, failures, stop)).await.unwrap().unwrap();
        assert!(matches!(next, Next::Exit));
        assert!(!config.run_dir.join("status.sock").exists());
    }
}
