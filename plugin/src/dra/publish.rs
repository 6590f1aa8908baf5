//! Keeps the driver's ResourceSlices as they should be.
//!
//! The stored slices are known from a watch and from the answers to the driver's own writes. Nothing is written if nothing differs,
//! and there is at most one round of writes a second. A write without an answer may be carried out later; after one, and at the first
//! barrier of a process, all slices are written, which makes the API server refuse the earlier write. Slices that another program
//! deletes are created again 100 ms after the last deletion. The kubelet deletes all of them when it starts, and then registers the
//! driver; they are created again after that, see [`crate::dra::kubelet`].

use crate::backoff::Backoff;
use crate::dra::api::causes;
use crate::dra::api_server::{Access, ApiServer, owner};
use crate::dra::kubelet::KubeletLink;
use crate::dra::offered::{Acknowledged, NO_CALL, Stored, Wanted};
use crate::dra::slices::StoredSlices;
use futures_util::StreamExt;
use k8s_openapi::api::resource::v1::ResourceSlice;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::runtime::WatchStreamExt;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Api, Client};
use std::collections::BTreeSet;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};
use vfio_plugin_policy::dra::changes::{Changes, changes, differ, renewal};
use vfio_plugin_policy::dra::devices::{Features, entries, have_same_entries};
use vfio_plugin_policy::dra::names::DraDriver;
use vfio_plugin_policy::dra::slices::Publication;
use vfio_probe::DeviceId;

/// The shortest time between two rounds of writes.
const INTERVAL: Duration = Duration::from_secs(1);
/// How long further deletions are waited for: the kubelet deletes all slices of a node one by one. Slices that are created in two
/// rounds are complete only after [`INTERVAL`].
const DELETIONS: Duration = Duration::from_millis(100);
/// How long the API server may carry out a write of an earlier process after its end. Its `--request-timeout` is a minute by default.
const EARLIER_WRITES: Duration = Duration::from_secs(70);
/// The first and the longest pause after a failed request.
const RETRY: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(30));

/// Publishes the slices of this node.
pub(super) struct SlicePublisher {
    client: Client,
    pub(super) api: ApiServer,
    driver: DraDriver,
    node: String,
    kubelet: KubeletLink,
    stored: Stored,
    /// What the API server stores.
    pub(super) slices: StoredSlices,
    /// Which fields it is expected to store.
    pub(super) features: Features,
    /// Which fields it has stored.
    pub(super) confirmed: Features,
    /// The minor version for which both hold.
    minor: Option<u32>,
    owner: OwnerReference,
    /// Until when a write of an earlier process may be carried out. None after all slices have been written because of that.
    earlier_writes: Option<Instant>,
    /// The latest comparison of the wanted devices with the stored slices.
    compared: Option<Compared>,
}

/// A comparison and what it depends on. It takes milliseconds on a node of hundreds of devices, and a claim changes none of this.
struct Compared {
    wanted: Arc<Wanted>,
    revision: u64,
    features: Features,
    is_connected: bool,
    has_unanswered: bool,
    /// Whether a write is needed.
    differs: bool,
    /// The devices that the scheduler may allocate.
    allocatable: BTreeSet<DeviceId>,
}

impl SlicePublisher {
    /// Publishes whatever is wanted; never returns. Waits until the API server answers.
    pub(super) async fn run(
        (client, api): (Client, ApiServer),
        (driver, node): (DraDriver, String),
        kubelet: KubeletLink,
        stored: Stored,
        wanted: watch::Receiver<Option<Arc<Wanted>>>,
    ) {
        let started = Instant::now();
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let owner = loop {
            match owner(&client, &api, &node).await {
                Ok(owner) => break owner,
                Err(error) => {
                    let pause = backoff.pause();
                    tracing::warn!(node, %error, ?pause, "cannot get this node from the API server; trying again");
                    sleep(pause).await;
                }
            }
        };
        let publisher = Self {
            client,
            api,
            driver,
            node,
            kubelet,
            stored,
            slices: StoredSlices::default(),
            features: Features { taints: true, counters: true },
            confirmed: Features::NONE,
            minor: None,
            owner,
            earlier_writes: Some(started + EARLIER_WRITES),
            compared: None,
        };
        publisher.follow(wanted).await;
    }

    async fn follow(mut self, mut wanted: watch::Receiver<Option<Arc<Wanted>>>) {
        let config = watcher::Config::default().fields(&self.selector());
        let mut events = pin!(watcher(self.slices_api(), config).default_backoff());
        let mut links = self.kubelet.changes();
        let mut backoff = Backoff::new(RETRY.0, RETRY.1);
        let (mut attempted, mut not_before, mut requests) = (Instant::now(), Instant::now(), 0);
        let mut watch_fails = false;
        loop {
            let now = wanted.borrow_and_update().clone();
            if now.as_ref().is_some_and(|now| now.requests > requests) {
                // A call of the kubelet waits for what is stored.
                requests = now.as_ref().map_or(requests, |now| now.requests);
                not_before = not_before.min(attempted + INTERVAL);
                if requests > NO_CALL
                    && self.earlier_writes.take().is_some_and(|until| Instant::now() < until)
                {
                    // Nothing else shows whether an earlier process has left a write.
                    self.slices.note_unanswered();
                }
            }
            let is_due =
                now.as_ref().is_some_and(|now| self.acknowledge(now)) || self.slices.were_forgotten();
            let wait = is_due && Instant::now() < not_before;
            if let Some(now) = now.filter(|_| is_due && !wait) {
                attempted = Instant::now();
                let features = self.features;
                match self.write(&now).await {
                    Ok(()) => {
                        backoff.reset();
                        self.api.written(None);
                        // A device whose taint was dropped has to go at once.
                        let pause = if self.features == features { INTERVAL } else { Duration::ZERO };
                        not_before = Instant::now() + pause;
                    }
                    Err(error) => {
                        let pause = backoff.pause();
                        self.api.written(Some(&error));
                        tracing::warn!(%error, ?pause, "ResourceSlices could not be written; trying again");
                        not_before = Instant::now() + pause;
                    }
                }
                continue;
            }
            tokio::select! {
                Ok(()) = wanted.changed() => {}
                Some(event) = events.next() => {
                    match event {
                        Ok(event) => {
                            if matches!(event, Event::Delete(_)) {
                                not_before = not_before.max(Instant::now() + DELETIONS);
                            }
                            self.api.answered(Access::ReadSlices);
                            if watch_fails {
                                watch_fails = false;
                                tracing::info!("ResourceSlices are watched again");
                            }
                            self.take(event).await;
                        }
                        Err(error) => {
                            self.api.watch_failed(&error);
                            if !watch_fails {
                                watch_fails = true;
                                let error = causes(&error);
                                tracing::warn!(error, "ResourceSlices cannot be watched; trying again");
                            }
                        }
                    }
                }
                Some(()) = links.next() => {}
                () = sleep_until(not_before), if wait => {}
            }
        }
    }

    async fn take(&mut self, event: Event<ResourceSlice>) {
        match event {
            Event::Init => self.slices.begin_list(),
            Event::InitApply(slice) => self.slices.listed(slice),
            Event::InitDone => {
                self.slices.end_list();
                self.read_version().await;
            }
            Event::Apply(slice) => self.slices.applied(slice),
            Event::Delete(slice) => self.slices.deleted(&slice.metadata),
        }
    }

    /// Reads the version of the API server, which may have changed with a new watch. Another version may keep other fields.
    async fn read_version(&mut self) {
        let Ok(info) = self.api.request(Access::Version, self.client.apiserver_version()).await else {
            return;
        };
        let digits: String = info.minor.chars().take_while(char::is_ascii_digit).collect();
        let minor: Option<u32> = digits.parse().ok();
        if minor.is_some() && minor != self.minor {
            self.minor = minor;
            // What this version stores by default may be turned on or off: its answers show it.
            self.features = Features { taints: true, counters: minor.is_some_and(|minor| minor >= 36) };
            self.api.set_version(minor);
            self.confirmed = Features::NONE;
        }
    }

    /// Records what is stored. Returns whether a write is needed and allowed. No write is under way meanwhile.
    fn acknowledge(&mut self, wanted: &Arc<Wanted>) -> bool {
        if !self.slices.are_known() {
            self.api.set_stored(None);
            return false;
        }
        let compared = match self.compared.take().filter(|known| self.is_current(known, wanted)) {
            // The former list of devices is not needed any more.
            Some(known) => Compared { wanted: Arc::clone(wanted), ..known },
            None => self.compare(wanted),
        };
        // A write without an answer may still be carried out, and make a device allocatable again.
        if !compared.has_unanswered {
            let allocatable = compared.allocatable.clone();
            self.stored.acknowledge(Acknowledged { requests: wanted.requests, allocatable });
        }
        let differs = compared.differs;
        self.compared = Some(compared);
        self.api.set_stored(Some((!differs && !self.slices.is_empty(), &self.slices)));
        differs
    }

    /// Returns whether another comparison would have the same result.
    fn is_current(&self, known: &Compared, wanted: &Arc<Wanted>) -> bool {
        known.revision == self.slices.revision()
            && known.features == self.features
            && known.is_connected == self.kubelet.is_connected()
            && known.has_unanswered == self.slices.has_unanswered()
            && (Arc::ptr_eq(&known.wanted, wanted)
                || have_same_entries(&known.wanted.devices, &wanted.devices, self.features))
    }

    fn compare(&self, wanted: &Arc<Wanted>) -> Compared {
        // Read once: the link may change during the comparison.
        let is_connected = self.kubelet.is_connected();
        Compared {
            wanted: Arc::clone(wanted),
            revision: self.slices.revision(),
            features: self.features,
            is_connected,
            has_unanswered: self.slices.has_unanswered(),
            // After a write without an answer all slices are written.
            differs: self.publication(wanted, is_connected).is_some_and(|publication| {
                self.slices.has_unanswered() || differ(&publication, self.slices.all())
            }),
            allocatable: self.slices.allocatable(&self.driver),
        }
    }

    /// Returns the writes that are needed. After a write without an answer all slices are written.
    pub(super) fn changes(&self, wanted: &Wanted) -> Changes {
        let Some(publication) = self.publication(wanted, self.kubelet.is_connected()) else {
            return Changes::default();
        };
        let (stored, generation) = (self.slices.all(), self.slices.generation());
        if self.slices.has_unanswered() {
            renewal(&publication, stored, generation)
        } else {
            changes(&publication, stored, generation)
        }
    }

    /// Returns what is to be stored. None if nothing may be published.
    fn publication(&self, wanted: &Wanted, is_connected: bool) -> Option<Publication> {
        let mut entries = entries(&self.driver, &wanted.devices, self.features);
        if !is_connected {
            if self.slices.is_empty() {
                return None;
            }
            // Only what is stored may change.
            let (devices, sets) = self.slices.names();
            entries.devices.retain(|device| devices.contains(&device.name));
            entries.counter_sets.retain(|set| sets.contains(&set.name));
        }
        let (driver, node) = (self.driver.clone(), self.node.clone());
        Some(Publication { driver, node, owner: Some(self.owner.clone()), entries })
    }

    pub(super) fn selector(&self) -> String {
        format!("spec.driver={},spec.nodeName={}", self.driver, self.node)
    }

    pub(super) fn slices_api(&self) -> Api<ResourceSlice> {
        Api::all(self.client.clone())
    }
}
