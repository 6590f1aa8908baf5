//! The parts of `serve`: the monitor's thread and the tasks, and how they are connected.
//!
//! The monitor's snapshots and the assignments go to the publisher ([`Publishing`]). Its device lists go to the resources, each of
//! which is registered with the kubelet by a task of its own, and its decisions on the devices of claims to the DRA driver.

use crate::allocate::gate::{AllocateGate, ClosedGate};
use crate::assignments::AssignmentsHandle;
#[cfg(not(feature = "dra"))]
use crate::commands::serve::publishing::Offers;
use crate::commands::serve::publishing::Publishing;
use crate::config::Config;
use crate::device_plugin::orders::Registrations;
use crate::device_plugin::registration::Services;
use crate::device_plugin::resources::ResourceSet;
use crate::device_plugin::sockets;
#[cfg(feature = "dra")]
use crate::dra::{self, Role};
use crate::handover::Parts;
use crate::http::HttpServer;
use crate::kubelet::registry::Registry;
use crate::kubelet::socket_watch;
use crate::kubelet::socket_watch::PluginDirState;
use crate::metrics::{Metrics, MetricsHandle};
use crate::node::monitor::MonitorHandle;
use crate::problems::{ProblemCode, Problems};
use crate::publisher::{CarriedOver, HealthPublisher};
use crate::reservations::Reservations;
use crate::run_dir::RunDir;
use crate::status::words::RoleWord;
use crate::status::{self, ProcessStatus};
use crate::supervise::Supervisor;
use parking_lot::Mutex;
use rustix::process::{Resource, getrlimit};
use std::sync::Arc;
use tokio::sync::watch;
use vfio_plugin_policy::holders::coverage_gaps;
use vfio_probe::ScanCoverage;

/// A lower limit of open files is a problem: the usual soft limit.
const FEW_DESCRIPTORS: u64 = 1024;

/// Starts the monitor's thread and all tasks. Returns the parts that a hand-over changes, and the gate of Allocates, which is closed.
///
/// `has_lock`: this process may write to the run directory. If not, another one still serves.
pub(super) async fn start(
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
    // Before the first poll: the monitor must know the devices of prepared claims before it probes anything.
    #[cfg(feature = "dra")]
    let offers = match Role::of(config)? {
        role @ (Role::Offer | Role::Drain) => {
            let driver = dra::Parts {
                monitor: monitor.clone(),
                publisher: Arc::clone(&publisher),
                assignments: assignments.clone(),
                reservations: reservations.clone(),
                problems: problems.clone(),
                registry: Arc::clone(&registry),
            };
            Some(dra::start(config, role, driver, supervisor).await?)
        }
        Role::Withhold => {
            dra::withhold(config, &assignments, &problems)?;
            None
        }
        Role::Nothing => None,
    };
    #[cfg(not(feature = "dra"))]
    let offers: Option<Offers> = None;
    let hands_over = offers.is_none();
    let directory = config.kubelet_dir.clone();
    supervisor.task("the removal of stale sockets", async move {
        sockets::remove_stale(&directory, None).await;
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
    let publishing = Publishing {
        monitor: monitor.clone(),
        publisher: Arc::clone(&publisher),
        assignments: assignments.clone(),
        resources: ResourceSet::new(services, supervisor.clone(), Arc::clone(&registry)),
        offers,
    };
    supervisor.task("the publisher", publishing.run());
    let status_socket = Mutex::new(Some(status_socket));
    let parts = Parts {
        hands_over,
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
