//! `serve`: the device plugin itself. Starts the monitor and the tasks, and connects them.
//!
//! The monitor's snapshots and the assignments go to the publisher, whose device lists go to the resources. Each resource is
//! registered with the kubelet by a task of its own. Every task and thread is supervised.

use crate::assignments::AssignmentsHandle;
use crate::commands::stderr;
use crate::config::Config;
#[cfg(feature = "dra-driver")]
use crate::config::dra::OfferBy;
use crate::device_plugin::registration::Services;
use crate::device_plugin::resources::ResourceSet;
use crate::device_plugin::sockets;
#[cfg(feature = "dra-driver")]
use crate::dra;
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
use crate::status;
use crate::supervise::{Failures, Supervisor};
use anyhow::{Context, bail};
use rustix::fs::Mode;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit, umask};
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
    raise_descriptor_limit();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.context("cannot start the async runtime")?;
    let end = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).context("cannot handle SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot handle SIGINT")?;
        let stop = async {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        serve_until_any_panic(config, stop).await
    });
    // A blocking call that hangs in the kernel must not hang the exit.
    runtime.shutdown_background();
    end
}

/// Raises the soft limit of open descriptors to the hard one. A soft limit of 1024 is a default for programs that call select(2),
/// and this one does not; nor does it start other programs, which would inherit the limit. Before any thread starts.
fn raise_descriptor_limit() {
    let limits = getrlimit(Resource::Nofile);
    if limits.current != limits.maximum {
        // Where this is refused, the soft limit stays: the monitor keeps descriptors for half of it.
        let _ = setrlimit(Resource::Nofile, Rlimit { current: limits.maximum, ..limits });
    }
}

/// Runs [`serve`] with a supervisor of its own that reports every panic of the process, also of threads and tasks that it has not
/// started: the readers of the hardware, the prober's threads, gRPC calls.
async fn serve_until_any_panic(config: &Config, stop: impl Future<Output = ()>) -> anyhow::Result<()> {
    let (supervisor, failures) = Supervisor::new();
    supervisor.report_panics();
    serve(config, &supervisor, failures, stop).await
}

/// Starts the plugin and runs it until `stop` or the first failure of a task or thread. In both cases streams end and sockets
/// are removed before this returns.
async fn serve(
    config: &Config,
    supervisor: &Supervisor,
    mut failures: Failures,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let (monitor, _socket) = start(config, supervisor).await?;
    let failure = tokio::select! {
        () = stop => None,
        failure = failures.first() => Some(failure),
    };
    tracing::info!("stopping");
    supervisor.stop();
    monitor.stop();
    let _ = timeout(SHUTDOWN, supervisor.ended()).await;
    match failure {
        None => Ok(()),
        Some(failure) => bail!("{failure}; stopped, to be started again"),
    }
}

/// Starts the monitor's thread and all tasks.
async fn start(
    config: &Config,
    supervisor: &Supervisor,
) -> anyhow::Result<(MonitorHandle, status::SocketFile)> {
    let problems = Problems::default();
    let run_dir = RunDir::of_serve(&config.run_dir, &problems);
    check_descriptors(&problems);
    let carried_over = CarriedOver::read(&run_dir);
    let metrics: MetricsHandle = config.listen.map(|_| Arc::new(Metrics::new()));
    let monitor = MonitorHandle::start(config, &run_dir, carried_over.lost(), metrics.clone(), supervisor)?;
    let root = monitor.root.clone();
    let publisher = Arc::new(HealthPublisher::new(config, root, carried_over, metrics.clone()));
    let assignments = AssignmentsHandle::new(&run_dir, monitor.clone());
    let registry = Arc::new(Registry::default());
    let reservations = Reservations::default();
    #[cfg(feature = "dra-driver")]
    let offers_by_dra = config.dra.offer == OfferBy::Dra;
    #[cfg(feature = "dra-driver")]
    if offers_by_dra {
        // Before the first poll: the monitor must know the devices of prepared claims before it probes anything.
        let (monitor, publisher, assignments) =
            (monitor.clone(), Arc::clone(&publisher), assignments.clone());
        let (reservations, problems, registry) =
            (reservations.clone(), problems.clone(), Arc::clone(&registry));
        let parts = dra::Parts { monitor, publisher, assignments, reservations, problems, registry };
        dra::start(config, parts, supervisor).await?;
    }
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
    let status = status::Server {
        monitor: monitor.clone(),
        publisher: Arc::clone(&publisher),
        assignments: assignments.clone(),
        registry: Arc::clone(&registry),
        problems: problems.clone(),
    };
    let (socket, answering) = status.start(&run_dir);
    supervisor.task("the status server", answering);
    if let Some(metrics) = &metrics {
        let (monitor, registry) = (monitor.clone(), Arc::clone(&registry));
        HttpServer::start(config, Arc::clone(metrics), monitor, registry, problems.clone(), supervisor);
    }
    tracing::info!(root = %config.root.display(), kubelet_dir = %config.kubelet_dir.display(), busy = %config.busy,
        interval = ?config.interval, "serving");
    log_coverage(&monitor);
    #[cfg(feature = "dra-driver")]
    if offers_by_dra {
        return Ok((monitor, socket));
    }
    let services = Services {
        kubelet_dir: config.kubelet_dir.clone(),
        plugin_dir,
        monitor: monitor.clone(),
        publisher,
        assignments,
        reservations,
        problems,
        busy_allocate: config.busy_allocate,
        metrics,
    };
    let resources = ResourceSet::new(services.clone(), supervisor.clone(), registry);
    supervisor.task("the publisher", publish(services, resources));
    Ok((monitor, socket))
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
    let coverage = ScanCoverage { pid_namespace: monitor.root.pid_namespace(), ..ScanCoverage::default() };
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

    /// Runs `serve` with one task or thread that panics. Returns the error.
    async fn failure_of(name: &'static str) -> String {
        let node = Node::with_eight_gpus().unwrap();
        let (supervisor, failures) = Supervisor::with_fault(name);
        let config = config(&node);
        let end = timeout(PATIENCE, serve(&config, &supervisor, failures, pending())).await;
        end.unwrap_or_else(|_| panic!("serve goes on without {name}")).unwrap_err().to_string()
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
            let end = timeout(PATIENCE, serve_until_any_panic(&config, pending())).await;
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
        let (monitor, _socket) = start(&config(&node), &supervisor).await.unwrap();
        monitor.stop();
        let failure = timeout(PATIENCE, failures.first()).await.unwrap();
        assert_eq!(failure.to_string(), "the monitor thread ended unexpectedly");
        supervisor.stop();
        timeout(PATIENCE, supervisor.ended()).await.unwrap();
    }

    #[tokio::test]
    async fn stop_ends_serve_without_error_and_removes_sockets() {
        let node = Node::with_eight_gpus().unwrap();
        let (supervisor, failures) = Supervisor::new();
        let config = config(&node);
        let stop = tokio::time::sleep(Duration::from_millis(300));
        timeout(PATIENCE, serve(&config, &supervisor, failures, stop)).await.unwrap().unwrap();
        assert!(!config.run_dir.join("status.sock").exists());
    }
}
