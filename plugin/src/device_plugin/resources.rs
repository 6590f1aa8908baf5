//! The resources with devices: starts and ends their tasks as device lists come and go.

use crate::device_plugin::registration::{Resource, Services};
use crate::kubelet::list_and_watch::DeviceList;
use crate::kubelet::registry::{Registry, ResourceStatus, SharedStatus};
use crate::supervise::Supervisor;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// The resources that are served now.
pub(crate) struct ResourceSet {
    services: Services,
    supervisor: Supervisor,
    registry: Arc<Registry>,
    running: BTreeMap<Arc<str>, Running>,
    /// The running resources that have no devices: see [`resend`](Self::resend).
    empty: BTreeSet<Arc<str>>,
    /// The tasks of resources that lost their last device. A resource that comes back waits for its old task.
    ending: BTreeMap<Arc<str>, JoinHandle<()>>,
}

/// The running task of a resource.
struct Running {
    list: watch::Sender<DeviceList>,
    stop: CancellationToken,
    status: SharedStatus,
    task: JoinHandle<()>,
}

impl ResourceSet {
    /// Returns a set without resources. `registry` is kept up to date with it.
    pub(crate) fn new(services: Services, supervisor: Supervisor, registry: Arc<Registry>) -> Self {
        Self {
            services,
            supervisor,
            registry,
            running: BTreeMap::new(),
            empty: BTreeSet::new(),
            ending: BTreeMap::new(),
        }
    }

    /// Sends each resource its list. Starts a resource that is new, and ends one that has no list, unless it was started by
    /// [`resend`](Self::resend) and `is_assigned` returns true for it.
    pub(crate) fn publish(
        &mut self,
        lists: BTreeMap<Arc<str>, DeviceList>,
        is_assigned: impl Fn(&str) -> bool,
    ) {
        self.empty.retain(|name| !lists.contains_key(name));
        let is_kept = |name: &Arc<str>| self.empty.contains(name) && is_assigned(name);
        let names = self.running.keys().filter(|name| !lists.contains_key(*name) && !is_kept(name));
        let gone: Vec<Arc<str>> = names.cloned().collect();
        let mut changed = !gone.is_empty();
        for name in gone {
            self.end(name);
        }
        for (name, list) in lists {
            if let Some(resource) = self.running.get(&name) {
                resource.list.send_if_modified(|known| {
                    let changed = *known != list;
                    *known = list;
                    changed
                });
            } else {
                self.start(name, list);
                changed = true;
            }
        }
        if changed || !self.registry.is_set() {
            self.register();
        }
    }

    /// Keeps the registry up to date.
    fn register(&self) {
        let statuses = self.running.iter();
        let statuses = statuses.map(|(name, resource)| (Arc::clone(name), Arc::clone(&resource.status)));
        self.registry.set(statuses.collect());
    }

    /// Sends all lists again, unchanged, so that the kubelet writes its checkpoint again.
    ///
    /// If there is no list, because all devices are offered to claims, it registers the resource `assigned` with an empty one: the
    /// checkpoint may still name a pod that was allocated a device of it by the device plugin and has ended.
    pub(crate) fn resend(&mut self, assigned: Option<&str>) {
        if let Some(name) = assigned.filter(|_| self.running.is_empty()) {
            let name: Arc<str> = name.into();
            self.empty.insert(Arc::clone(&name));
            self.start(name, DeviceList::default());
            self.register();
        } else {
            self.running.values().for_each(|resource| resource.list.send_modify(|_| {}));
        }
    }

    /// Starts a resource. If its name was in use before, it registers only after the old stream and socket have gone.
    fn start(&mut self, name: Arc<str>, list: DeviceList) {
        let (sender, list) = watch::channel(list);
        let stop = self.supervisor.child_token();
        let status = ResourceStatus { name: name.to_string(), ..ResourceStatus::default() };
        let status: SharedStatus = Arc::new(Mutex::new(status));
        let resource = Resource {
            name: Arc::clone(&name),
            list,
            services: self.services.clone(),
            status: Arc::clone(&status),
            stop: stop.clone(),
        };
        let orders = self.services.registrations.add(&name);
        let previous = self.ending.remove(&name);
        let task = self.supervisor.task_until(format!("resource {name}"), stop.clone(), async move {
            if let Some(previous) = previous {
                // It was stopped, so it ends soon. Its panic ends the process.
                let _ = previous.await;
            }
            resource.run(orders).await;
        });
        self.running.insert(name, Running { list: sender, stop, status, task });
    }

    /// Ends a resource that has no devices.
    fn end(&mut self, name: Arc<str>) {
        let Some(resource) = self.running.remove(&name) else { return };
        self.empty.remove(&name);
        tracing::info!(resource = %name, "resource has no devices left");
        self.services.registrations.remove(&name);
        // An empty list first: the kubelet then counts 0 at once, not after its grace period of 5 minutes.
        resource.list.send_replace(DeviceList::default());
        resource.stop.cancel();
        self.ending.retain(|_, task| !task.is_finished());
        self.ending.insert(name, resource.task);
    }
}
