//! Offers the devices by Dynamic Resource Allocation, to pods with claims.
//!
//! | module | purpose |
//! | --- | --- |
//! | [`client`], [`tls`], [`token`] | connect to the API server |
//! | [`api`], [`api_server`] | send requests to it, and record how it answers |
//! | [`others`] | reads what other drivers publish of this node, for `doctor` |
//! | [`registration`], [`kubelet`] | the sockets, and whether the kubelet is connected |
//! | [`service`] | answers the kubelet's calls |
//! | [`driver`], [`prepare`], [`unprepare`] | carry out a call for one claim |
//! | [`group`] | waits until the group of a device is free |
//! | [`again`] | checks a claim that is prepared already |
//! | [`refusal`], [`call_error`] | refuses a device, and says why a call has failed |
//! | [`health`] | streams the health of devices to the kubelet |
//! | [`events`] | reports refusals in the cluster |
//! | [`prepared`] | the record of prepared claims |
//! | [`adoption`], [`kubelet_claims`] | make a lost record again, from the kubelet's |
//! | [`earlier`], [`deallocated`] | wait for claims that the kubelet is ending, and end those that it has forgotten |
//! | [`claim_files`], [`claim_spec`] | the files by which containers get a claim's devices |
//! | [`offered`], [`described`], [`facts`] | what is to be published |
//! | [`publish`], [`write`], [`slices`] | writes it to the API server |
//!
//! Two barriers keep a device that is held from another claim. The refusal of a claim is sent after the API server has stored the
//! device's taint. A claim whose group is still held is not given back before that either.

mod adoption;
mod again;
mod api;
mod api_server;
mod call_error;
mod claim_files;
mod claim_spec;
mod client;
mod deallocated;
mod described;
mod driver;
mod earlier;
mod events;
mod facts;
mod group;
mod health;
mod kubelet;
mod kubelet_claims;
mod offered;
pub(crate) mod others;
mod prepare;
mod prepared;
mod publish;
mod refusal;
mod registration;
mod service;
mod slices;
mod tls;
mod token;
mod unprepare;
mod write;

use crate::assignments::AssignmentsHandle;
use crate::config::Config;
use crate::driver_status::{DriverStatus, SharedDriverStatus};
use crate::files::create_directories;
use crate::kubelet::registry::Registry;
use crate::node::monitor::MonitorHandle;
use crate::problems::{ProblemCode, Problems};
use crate::publisher::HealthPublisher;
use crate::reservations::Reservations;
use crate::run_dir::RunDir;
use crate::supervise::Supervisor;
use anyhow::Context;
pub(crate) use offered::Offers;

use api_server::ApiServer;
use deallocated::Deallocated;
use driver::{Calls, Driver};
use facts::KnownFacts;
use kubelet::KubeletLink;
use offered::Stored;
use parking_lot::Mutex;
use prepared::PreparedClaims;
use publish::SlicePublisher;
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use tokio::sync::watch;

/// The parts of `serve` that the driver works with.
pub(crate) struct Parts {
    /// The monitor.
    pub(crate) monitor: MonitorHandle,
    /// Decides on the devices.
    pub(crate) publisher: Arc<HealthPublisher>,
    /// Which pods have devices.
    pub(crate) assignments: AssignmentsHandle,
    /// The groups that calls are about to take.
    pub(crate) reservations: Reservations,
    /// What is wrong.
    pub(crate) problems: Problems,
    /// What `ready` and `doctor` show.
    pub(crate) registry: Arc<Registry>,
}

/// What `serve` does with claims.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    /// Pools offer devices by DRA: the driver runs.
    Offer,
    /// No pool does, and claims are left that were prepared before: the driver runs until they have ended, and offers nothing.
    Drain,
    /// The same, and the driver cannot run without the node's name. The devices stay withheld.
    Withhold,
    /// There is neither.
    Nothing,
}

impl Role {
    /// Returns the role, from the pools and the record of claims.
    ///
    /// # Errors
    /// The record cannot be read now. Without it, it would not be known who may hold a device.
    pub(crate) fn of(config: &Config) -> anyhow::Result<Self> {
        if config.offers_by_dra() {
            return Ok(Self::Offer);
        }
        let plugins_dir = config.dra.plugins_dir(&config.kubelet_root);
        let claims = PreparedClaims::read(&RunDir::of_reader(&plugins_dir), || boot(&config.root));
        match claims.context("the record of prepared claims cannot be read")? {
            0 => Ok(Self::Nothing),
            _ if config.dra.node.is_some() => Ok(Self::Drain),
            _ => Ok(Self::Withhold),
        }
    }

    /// Returns whether the driver runs.
    pub(crate) fn runs_driver(self) -> bool {
        matches!(self, Self::Offer | Self::Drain)
    }
}

/// Sets the devices of prepared claims as assigned, without a driver that could unprepare them.
///
/// # Errors
/// The record of claims cannot be read.
pub(crate) fn withhold(
    config: &Config,
    assignments: &AssignmentsHandle,
    problems: &Problems,
) -> anyhow::Result<()> {
    let plugins_dir = config.dra.plugins_dir(&config.kubelet_root);
    let directory = RunDir::of_reader(&plugins_dir);
    let (claims, _) = PreparedClaims::open(&directory, assignments.clone(), boot(&config.root))
        .context("the record of prepared claims cannot be read")?;
    let count = claims.current();
    let text = format!("has {count} prepared claims, and no DRA driver runs that could unprepare them");
    let about = plugins_dir.display();
    problems.begin(ProblemCode::ClaimsWithoutDriver, &about, &text);
    tracing::warn!(directory = %about, count, "prepared claims are left and no DRA driver runs; their devices are withheld");
    Ok(())
}

/// Starts the driver's tasks, and sets the devices of prepared claims as assigned. Returns what takes decisions.
///
/// # Errors
/// There are no credentials for the API server, another process runs the driver, or its record of claims cannot be read.
pub(crate) async fn start(
    config: &Config,
    role: Role,
    parts: Parts,
    supervisor: &Supervisor,
) -> anyhow::Result<Offers> {
    let Parts { monitor, publisher, assignments, reservations, problems, registry } = parts;
    let options = &config.dra;
    let plugins_dir = options.plugins_dir(&config.kubelet_root);
    create_directories(&plugins_dir).with_context(|| format!("cannot create {}", plugins_dir.display()))?;
    let lock = lock(&plugins_dir)?;
    let directory = RunDir::of_serve(&plugins_dir, &problems);
    let (claims, is_recorded) = PreparedClaims::open(&directory, assignments.clone(), boot(&config.root))
        .context("the record of prepared claims cannot be read")?;
    let client = client::client(options.kubeconfig.as_deref()).await?;
    let (name, node) = (options.dra_driver.clone(), options.node().to_owned());
    let kubelet_record = config.kubelet_root.join(kubelet_claims::FILE);
    let kubelet_claims = match is_recorded {
        true => BTreeMap::new(),
        false => kubelet_claims::kubelet_claims(&kubelet_record, &name, &node),
    };
    let (events, event_sender) = events::events(client.clone(), name.as_str(), &node);
    supervisor.task("the events", event_sender.run());
    let status = DriverStatus {
        driver: name.to_string(),
        node: node.clone(),
        offers: role == Role::Offer,
        ..DriverStatus::default()
    };
    let status: SharedDriverStatus = Arc::new(Mutex::new(status));
    registry.set_driver(Arc::clone(&status));
    if role == Role::Drain {
        tracing::info!(
            claims = claims.current(),
            "the DRA driver runs until the prepared claims have ended, and offers no device"
        );
    }
    let api = ApiServer::new(Arc::clone(&status), problems);
    let (stored, kubelet) = (Stored::new(), KubeletLink::new(Arc::clone(&status)));
    let facts = KnownFacts::new(monitor.root.clone(), &config.root, config.pci_ids.clone());
    let (wanted, receiver) = watch::channel(None);
    let offers = Offers { stored: stored.clone(), facts: facts.clone(), wanted };
    let access = (client.clone(), api.clone());
    let identity = (name.clone(), node.clone());
    let publishing = SlicePublisher::run(access, identity, kubelet.clone(), stored.clone(), receiver.clone());
    supervisor.task("the publisher of ResourceSlices", publishing);
    let driver = Driver {
        name,
        node,
        release: options.release,
        plugins_dir,
        cdi_dir: config.cdi_dir.clone(),
        client,
        api,
        status,
        monitor,
        publisher,
        assignments,
        reservations,
        claims: Arc::new(claims),
        stored,
        facts,
        calls: Calls::default(),
        events,
        kubelet_claims: Mutex::new(kubelet_claims),
        kubelet_record,
        deallocated: Deallocated::default(),
        wanted: receiver,
    };
    let driver = Arc::new(driver);
    let adopting = Arc::clone(&driver);
    supervisor.task("the adoption of claims", async move { adopting.adopt().await });
    let registry_dir = options.registry_dir(&config.kubelet_root);
    supervisor.task("the DRA service", async move {
        let _lock = lock;
        registration::serve(driver, registry_dir, kubelet).await;
    });
    Ok(offers)
}

/// Locks the driver's directory. The kernel releases the lock when the process ends.
fn lock(directory: &Path) -> anyhow::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let opened = rustix::fs::open(directory, flags, Mode::empty())
        .with_context(|| format!("cannot open {}", directory.display()))?;
    flock(&opened, FlockOperation::NonBlockingLockExclusive).with_context(|| {
        format!("cannot lock {}; another process runs the DRA driver with it", directory.display())
    })?;
    Ok(opened)
}

/// Returns the id of the boot. Empty if the kernel does not show it.
///
/// An unprivileged container does not have the host's /proc below the root. Its own shows the same id: no namespace has another.
fn boot(root: &Path) -> String {
    const ID: &str = "proc/sys/kernel/random/boot_id";
    let read = |root: &Path| crate::files::read(&root.join(ID), crate::files::Links::Follow, 64);
    let content = read(root).or_else(|_| read(Path::new("/"))).unwrap_or_default();
    String::from_utf8_lossy(&content).trim().to_owned()
}
