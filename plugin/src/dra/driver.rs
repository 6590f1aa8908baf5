//! What the calls of the kubelet work with.

use crate::allocate::verify::Checks;
use crate::assignments::AssignmentsHandle;
use crate::backoff::Backoff;
use crate::dra::api::RequestError;
use crate::dra::api_server::{Access, ApiServer};
use crate::dra::call_error::CallError;
use crate::dra::deallocated::Deallocated;
use crate::dra::events::Events;
use crate::dra::facts::KnownFacts;
use crate::dra::offered::{Stored, Wanted};
use crate::dra::prepared::{NotWritten, PreparedClaims};
use crate::driver_status::SharedDriverStatus;
use crate::node::monitor::MonitorHandle;
use crate::publisher::HealthPublisher;
use crate::reservations::Reservations;
use k8s_openapi::api::resource::v1::ResourceClaim;
use kubelet_api::dra::Claim;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{OwnedMutexGuard, watch};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep, sleep_until, timeout_at};
use vfio_plugin_policy::device::DeviceState;
use vfio_plugin_policy::dra::kubelet_record::KubeletClaim;
use vfio_plugin_policy::dra::names::DraDriver;
use vfio_probe::{DeviceId, GroupId};

/// How long a call waits for the API server to store a taint before it answers without.
pub(super) const STORE: Duration = Duration::from_secs(2);
/// How long the first request for a claim is waited for.
const GET: Duration = Duration::from_secs(5);
/// The pause before the record of claims is written again while the disk is slow.
const RECORD_AGAIN: Duration = Duration::from_millis(200);
/// How long one write of the record is waited for, also after the deadline.
const ONE_RECORD: Duration = Duration::from_millis(500);
/// The first and the longest pause before a claim is requested again.
const GET_AGAIN: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(2));

/// Prepares and unprepares claims.
pub(super) struct Driver {
    pub(super) name: DraDriver,
    pub(super) node: String,
    /// How long Unprepare waits for a held group.
    pub(super) release: Duration,
    pub(super) plugins_dir: PathBuf,
    pub(super) cdi_dir: PathBuf,
    pub(super) client: kube::Client,
    pub(super) api: ApiServer,
    /// Counts the calls.
    pub(super) status: SharedDriverStatus,
    pub(super) monitor: MonitorHandle,
    pub(super) publisher: Arc<HealthPublisher>,
    pub(super) assignments: AssignmentsHandle,
    /// The groups that other calls are about to take.
    pub(super) reservations: Reservations,
    pub(super) claims: Arc<PreparedClaims>,
    pub(super) stored: Stored,
    pub(super) facts: KnownFacts,
    pub(super) calls: Calls,
    /// Reports refusals in the cluster.
    pub(super) events: Events,
    /// The claims of the kubelet's record, if this driver's was lost. Those that are in use are adopted.
    pub(super) kubelet_claims: Mutex<BTreeMap<String, KubeletClaim>>,
    /// The kubelet's record of claims. It need not be mounted.
    pub(super) kubelet_record: PathBuf,
    /// Prepared claims that may be forgotten.
    pub(super) deallocated: Deallocated,
    /// What is to be published. None before the first decision on the devices.
    pub(super) wanted: watch::Receiver<Option<Arc<Wanted>>>,
}

impl Driver {
    /// Returns the checks of devices as they are now.
    pub(super) fn checks(&self) -> Checks<'_> {
        Checks { monitor: &self.monitor }
    }

    /// Waits until the node's devices and the pods of the device plugin are known. Returns false if they are not by the deadline.
    pub(super) async fn is_ready(&self, deadline: Instant) -> bool {
        let mut wanted = self.wanted.clone();
        timeout_at(deadline, wanted.wait_for(Option::is_some)).await.is_ok_and(|wanted| wanted.is_ok())
    }

    /// Gets a claim from the API server. Tries again until the deadline if there is no answer: a refusal costs the pod more than that.
    pub(super) async fn get(&self, claim: &Claim, deadline: Instant) -> Result<ResourceClaim, CallError> {
        let claims: kube::Api<ResourceClaim> = kube::Api::namespaced(self.client.clone(), &claim.namespace);
        let (mut limit, mut pauses) = (GET, Backoff::new(GET_AGAIN.0, GET_AGAIN.1));
        loop {
            let error = match timeout_at(deadline.min(Instant::now() + limit), claims.get(&claim.name)).await
            {
                Ok(Ok(claim)) => {
                    self.api.answered(Access::Claims);
                    return Ok(claim);
                }
                Ok(Err(error)) => {
                    self.api.failed(Access::Claims, &error);
                    match error {
                        kube::Error::Api(status) if status.code == 404 => return Err(CallError::NoClaim),
                        error => RequestError::from(error),
                    }
                }
                Err(_) => {
                    self.api.silent();
                    // An API server under load answers late, and on a lost connection not at all.
                    limit *= 2;
                    RequestError::Unanswered("no answer in time".to_owned())
                }
            };
            let again = Instant::now() + pauses.pause();
            if !matches!(error, RequestError::Unanswered(_)) || again >= deadline {
                return Err(CallError::Get(error.to_string()));
            }
            sleep_until(again).await;
        }
    }

    /// Changes the record of claims. Waits until the deadline for a disk that has not finished a write: a refusal costs the pod more.
    pub(super) async fn record(
        &self,
        deadline: Instant,
        change: impl Fn(&PreparedClaims) -> Result<(), NotWritten> + Clone + Send + 'static,
    ) -> Result<(), NotWritten> {
        loop {
            let (claims, change) = (Arc::clone(&self.claims), change.clone());
            // The state file waits a second for a write, and may wait longer to find the disk.
            let done = timeout_at(
                deadline.max(Instant::now() + ONE_RECORD),
                spawn_blocking(move || change(&claims)),
            );
            match done.await {
                Ok(Ok(Err(NotWritten { is_late: true }))) if Instant::now() + RECORD_AGAIN < deadline => {
                    sleep(RECORD_AGAIN).await;
                }
                Ok(Ok(result)) => return result,
                // It has panicked, which the supervisor reports.
                Ok(Err(_)) => return Err(NotWritten { is_late: false }),
                Err(_) => return Err(NotWritten { is_late: true }),
            }
        }
    }

    /// Reports that a group is held although it should be free, and waits until the API server keeps other claims from its devices.
    /// Returns false if it does not by the deadline.
    ///
    /// The devices stay withheld until an open succeeds.
    pub(super) async fn withhold(&self, group: GroupId, devices: &[DeviceId], deadline: Instant) -> bool {
        self.publisher.refused(group, self.monitor.reports_sent());
        let snapshot = self.checks().snapshot();
        let members = snapshot.devices.in_group(group).map(|device: &DeviceState| device.device.id);
        let devices: BTreeSet<DeviceId> = members.chain(devices.iter().copied()).collect();
        self.stored.wait_until_withheld(&devices, deadline).await
    }
}

/// Returns the name of a claim with its namespace.
pub(super) fn full_name(claim: &Claim) -> String {
    format!("{}/{}", claim.namespace, claim.name)
}

/// The lock of a claim, for a call that works on it. Clones share it.
pub(super) type CallLock = Arc<OwnedMutexGuard<()>>;

/// The claims that calls are working on: one call at a time for each.
#[derive(Debug, Default)]
pub(super) struct Calls(Mutex<BTreeMap<String, Arc<tokio::sync::Mutex<()>>>>);

impl Calls {
    /// Waits until no other call works on the claim.
    pub(super) async fn begin(&self, uid: &str) -> CallLock {
        let lock = {
            let mut calls = self.0.lock();
            // A lock that only the map has is of a call that has ended.
            calls.retain(|_, lock| Arc::strong_count(lock) > 1);
            Arc::clone(calls.entry(uid.to_owned()).or_default())
        };
        Arc::new(lock.lock_owned().await)
    }

    /// Waits until no other call works on the claim.
    ///
    /// # Errors
    /// One still does at the deadline.
    pub(super) async fn begin_by(&self, uid: &str, deadline: Instant) -> Result<CallLock, CallError> {
        timeout_at(deadline, self.begin(uid)).await.map_err(|_| CallError::Busy)
    }
}
