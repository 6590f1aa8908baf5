//! From snapshots and owners to what the kubelet is told: each resource's list, and a log line for each change of health.

use crate::health::{Busy, Case, Decision, Health, Standing, decide};
use crate::memory::Memory;
use crate::owners::Ownership;
use crate::service::List;
use crate::settings::Settings;
use crate::snapshot::{DeviceReport, DeviceView, Snapshot};
use kubelet_api::v1beta1::{Device, NumaNode, TopologyInfo};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use tokio::sync::Notify;
use vfio_probe::{DeviceId, GroupId, Root};

/// What the kubelet has been told, and what of the past decides what it is told next.
#[derive(Debug)]
pub(crate) struct Board {
    busy: Busy,
    settling: Duration,
    root: Arc<Root>,
    past: Mutex<Past>,
    /// Something other than a snapshot or the owners makes lists differ.
    pub(crate) news: Notify,
}

#[derive(Debug, Default)]
struct Past {
    told: BTreeMap<DeviceId, Decision>,
    /// Why devices were Unhealthy when an earlier process of ours ended.
    before: BTreeMap<String, Health>,
    memory: Option<Memory>,
    /// Since when no pod owns a device.
    unowned: BTreeMap<DeviceId, Instant>,
    /// Groups of which an Allocate was refused.
    refused: BTreeMap<GroupId, Refusal>,
    /// Owned devices as last seen: one that is unbound stays listed until its pod ends.
    owned: BTreeMap<DeviceId, DeviceView>,
}

#[derive(Clone, Copy, Debug)]
struct Refusal {
    at: Instant,
    /// A snapshot that has heard as many answers knows that the group is held.
    heard: u64,
}

/// What a round has decided.
#[derive(Debug, Default)]
pub(crate) struct Lists {
    /// By resource.
    pub(crate) lists: BTreeMap<Arc<str>, List>,
    /// When to decide again though nothing changes.
    pub(crate) again: Option<Instant>,
}

impl Board {
    /// Nothing told yet, by this process.
    pub(crate) fn new(settings: &Settings, root: Arc<Root>) -> Self {
        let memory = Memory::new(&settings.run_dir, "unhealthy.json");
        let reasons: BTreeMap<String, String> = memory.read();
        let before = reasons.into_iter().map(|(id, reason)| (id, Health::Unhealthy(reason))).collect();
        let past = Mutex::new(Past { before, memory: Some(memory), ..Past::default() });
        let Settings { busy, settling, .. } = *settings;
        Self { busy, settling, root, past, news: Notify::new() }
    }

    /// The policy.
    pub(crate) fn busy(&self) -> Busy {
        self.busy
    }

    fn past(&self) -> MutexGuard<'_, Past> {
        self.past.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An Allocate of a held group is about to be refused: until an open succeeds it is Unhealthy without settling, so
    /// that whoever replaces the refused pod is given another. `heard` answers to opens include the one that said so.
    pub(crate) fn refused(&self, group: GroupId, heard: u64) {
        self.past().refused.insert(group, Refusal { at: Instant::now(), heard });
        self.news.notify_one();
    }

    /// Decides on every device and makes each resource's list.
    pub(crate) fn lists(&self, snapshot: &Snapshot, owners: &Ownership, now: Instant) -> Lists {
        let mut past = self.past();
        past.forget(snapshot, owners);
        let mut lists: BTreeMap<Arc<str>, Vec<Device>> = BTreeMap::new();
        let mut again: Option<Instant> = None;
        let mut told = BTreeMap::new();
        for view in &snapshot.devices {
            let id = view.device.id;
            let standing = past.standing(view, snapshot, owners, now);
            let before = past.told.get(&id);
            let refused = view.device.group.is_some_and(|group| past.refused.contains_key(&group));
            let decision = decide(&Case {
                busy: self.busy,
                view,
                vfio_visible: snapshot.vfio_visible,
                standing,
                refused,
                before: before.map(|decision| &decision.health).or_else(|| past.before.get(&id.to_string())),
                settling: self.settling,
                now,
            });
            again = again.into_iter().chain(decision.again).min();
            log(view, before, &decision);
            lists.entry(Arc::clone(&view.resource)).or_default().push(listed(view, &decision.health));
            told.insert(id, decision);
        }
        // A device that a pod owns is counted as requested: to drop it would take it from the free ones.
        let owned: Vec<DeviceView> = past.owned.values().cloned().collect();
        for view in &owned {
            let id = view.device.id;
            if told.contains_key(&id) {
                continue;
            }
            let decision = self.unbound(id);
            log(view, past.told.get(&id), &decision);
            let list = lists.entry(Arc::clone(&view.resource)).or_default();
            let place = list.partition_point(|device| device.id < id.to_string());
            list.insert(place, listed(view, &decision.health));
            told.insert(id, decision);
        }
        for (id, _) in past.told.iter().filter(|(id, _)| !told.contains_key(id)) {
            tracing::info!(device = %id, "no longer bound, dropped from the list");
        }
        past.told = told;
        past.remember();
        let lists = lists.into_iter().map(|(resource, list)| (resource, Arc::new(list))).collect();
        Lists { lists, again }
    }

    /// An owned device that is no longer bound: only lost hardware is told of.
    fn unbound(&self, id: DeviceId) -> Decision {
        if self.root.has(id) {
            let warning = Some("no longer bound to a VFIO driver".to_owned());
            return Decision { health: Health::Healthy, again: None, warning };
        }
        let health = Health::Unhealthy("the device is gone".to_owned());
        Decision { health, again: None, warning: None }
    }

    /// All devices as `list` prints them.
    pub(crate) fn reports(&self, snapshot: &Snapshot, owners: &Ownership) -> Vec<DeviceReport> {
        let past = self.past();
        let unbound = past.owned.values().filter(|view| snapshot.of(view.device.id).is_none());
        let views = snapshot.devices.iter().chain(unbound);
        views
            .map(|view| {
                let owner = owners.owner(view).map(|given| &given.pod);
                DeviceReport::new(view, past.told.get(&view.device.id), owner)
            })
            .collect()
    }
}

impl Past {
    /// Keeps why devices are Unhealthy: what nobody can tell at once after a restart then stays as it was.
    fn remember(&mut self) {
        let unhealthy =
            self.told.iter().filter_map(|(id, told)| Some((id.to_string(), told.health.reason()?)));
        let unhealthy: BTreeMap<String, &str> = unhealthy.collect();
        if let Some(memory) = &mut self.memory {
            memory.write(&unhealthy);
        }
    }

    /// Lets go of what has ended.
    fn forget(&mut self, snapshot: &Snapshot, owners: &Ownership) {
        self.owned.retain(|_, view| owners.counts(view));
        for view in snapshot.devices.iter().filter(|view| owners.counts(view)) {
            self.owned.insert(view.device.id, view.clone());
        }
        for view in snapshot.unbound.iter().filter(|view| owners.counts(view)) {
            self.owned.entry(view.device.id).or_insert_with(|| view.clone());
        }
        self.unowned.retain(|id, _| snapshot.of(*id).is_some_and(|view| !owners.counts(view)));
        self.refused.retain(|group, refusal| {
            let members = || snapshot.devices.iter().filter(|view| view.device.group == Some(*group));
            let held = || members().any(DeviceView::is_held);
            // A pod that the kubelet lists still owns it: then it was the kubelet's books that were wrong.
            let stands = members().any(|view| {
                owners.owner(view).is_some_and(|given| given.confirmed.is_some_and(|at| at > refusal.at))
            });
            (snapshot.heard < refusal.heard || held()) && !stands
        });
    }

    fn standing(
        &mut self,
        view: &DeviceView,
        snapshot: &Snapshot,
        owners: &Ownership,
        now: Instant,
    ) -> Standing {
        let id = view.device.id;
        let refused = view.device.group.is_some_and(|group| self.refused.contains_key(&group));
        if owners.counts(view) && !refused {
            return Standing::Owned;
        }
        let keeper = owners.keeper(view, snapshot.devices.iter().chain(self.owned.values()));
        let mate = keeper.map(|(keeper, given)| (keeper, given.pod.to_string()));
        if !owners.told && mate.is_none() {
            return Standing::Untold;
        }
        let since = *self.unowned.entry(id).or_insert(now);
        Standing::Unowned { since, mate }
    }
}

fn listed(view: &DeviceView, health: &Health) -> Device {
    // -1 is unknown, not node 0: without a hint the topology manager may choose freely.
    let topology =
        view.device.numa_node.map(|node| TopologyInfo { nodes: vec![NumaNode { id: i64::from(node) }] });
    Device { id: view.device.id.to_string(), health: health.as_str().to_owned(), topology }
}

fn log(view: &DeviceView, before: Option<&Decision>, decision: &Decision) {
    let device = view.device.id;
    let group = view.device.group.map(|group| group.0);
    let holder = view.group.as_ref().and_then(|group| group.holders.first()).map(|holder| holder.pid);
    let health = &decision.health;
    let resource = &view.resource;
    if before.map(|before| &before.health) != Some(health) {
        let (old, new) = (before.map_or("new", |before| before.health.as_str()), health.as_str());
        match health.reason() {
            Some(reason) => tracing::warn!(%device, group, %resource, old, new, reason, holder, "health"),
            // The usual case at the start, of which the resource tells the number.
            None if before.is_none() => tracing::debug!(%device, group, %resource, old, new, "health"),
            None => tracing::info!(%device, group, %resource, old, new, "health"),
        }
    }
    if let Some(warning) = &decision.warning
        && before.and_then(|before| before.warning.as_ref()) != Some(warning)
    {
        tracing::warn!(%device, group, %resource, warning, "a pod's device; it stays Healthy until the pod ends");
    }
}
