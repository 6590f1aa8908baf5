//! Makes snapshots of the node and publishes them.

use crate::node::cdi_specs::needed_specs;
use crate::node::monitor::run::{MonitorLoop, Sources, bound};
use crate::node::naming::ResourceNamer;
use crate::node::probe_exclusions::{ProbeExclusions, UnboundDevices};
use crate::node::snapshot;
use crate::problems::ProblemCode;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;
use vfio_plugin_policy::device::{DeviceState, NodeSnapshot};
use vfio_plugin_policy::pools::terms::Offer;
use vfio_plugin_policy::sriov;
use vfio_probe::{Device, DeviceId};

impl MonitorLoop {
    /// Publishes a snapshot after a change, the first one, and after a CDI spec had to be written again.
    pub(super) fn publish(&mut self, changed: bool) {
        let is_first = self.snapshots.borrow().is_none();
        if !changed && !is_first && !self.sources.cdi.is_due(Instant::now()) {
            return;
        }
        let mut snapshot = self.snapshot();
        self.warn_of_shared_functions();
        // The specs are on disk before any component learns of their devices. They stay as they are if the bound devices could not
        // be listed.
        if self.failure.is_none() {
            let specs = needed_specs(self.sources.watch.monitor().root(), &snapshot);
            self.cdi_devices = self.sources.cdi.write_all(&specs, Instant::now());
            self.cdi_devices.sort_by_key(|entry| entry.device);
        }
        snapshot.cdi.clone_from(&self.cdi_devices);
        self.log_errors(&snapshot.errors);
        // A spec that still cannot be written is no change.
        if changed || is_first || self.snapshots.borrow().as_deref() != Some(&snapshot) {
            self.snapshots.send_replace(Some(Arc::new(snapshot)));
        }
    }

    /// Takes a snapshot of all offered devices, without the CDI specs' devices.
    fn snapshot(&mut self) -> NodeSnapshot {
        let Sources { watch, namer, hardware, .. } = &mut self.sources;
        let exclusions = &self.exclusions;
        let unbound = exclusions.unbound(watch);
        namer.save();
        namer.warn_of_unused_aliases();
        // During an unbind a device has no driver any more, by which a pool might select it.
        let stays = |device: &Device| device.driver.is_none() || exclusions.is_assigned(device);
        let offers = namer.offers(bound(watch).chain(&unbound.existing), exclusions.pinned_offers(), stays);
        let mut snapshot = snapshot::take(watch, &offers);
        if let Some(hardware) = hardware {
            for state in &mut snapshot.devices {
                state.hardware = hardware.hardware(state.device.id);
            }
        }
        add_unbound(&mut snapshot, unbound, exclusions, namer, &offers);
        let is_unoffered =
            |device: &&Device| exclusions.is_assigned(device) && !offers.contains_key(&device.id);
        snapshot.not_offered.extend(bound(watch).filter(is_unoffered));
        snapshot.reports_seen = self.reports_seen;
        snapshot
    }

    /// Logs each physical function that is bound with virtual functions on, once.
    fn warn_of_shared_functions(&mut self) {
        for function in sriov::shared(bound(&self.sources.watch)) {
            if self.logged_functions.is_new(function) {
                tracing::warn!(
                    device = %function,
                    "physical function is bound to VFIO with virtual functions on; a VM must pass a VF token to open them"
                );
            }
        }
    }

    /// Logs each error of a device once while it lasts.
    fn log_errors(&mut self, errors: &[vfio_probe::Error]) {
        let texts: Vec<String> = errors.iter().map(ToString::to_string).collect();
        self.logged_errors.keep(|logged| texts.contains(logged));
        let (problems, code) = (&self.sources.problems, ProblemCode::DeviceUnreadable);
        problems.keep(code, |about| texts.iter().any(|text| text == about));
        for error in texts {
            if self.logged_errors.is_new(error.clone()) {
                problems.begin(code, &error, "the device is left out, because its record cannot be read");
                tracing::warn!(%error, "device left out; its record could not be read");
            }
        }
    }
}

/// Adds the assigned devices that are not bound: each under the resource by which it was allocated, if that is this plugin's.
fn add_unbound(
    snapshot: &mut NodeSnapshot,
    unbound: UnboundDevices,
    exclusions: &ProbeExclusions,
    namer: &ResourceNamer,
    offers: &BTreeMap<DeviceId, Offer>,
) {
    let offer = |id: DeviceId, device: Option<&Device>| {
        let assigned = exclusions.resource(id)?;
        let known = offers.get(&id).filter(|offer| offer.resource == assigned.resource);
        known.cloned().or_else(|| namer.offer_of_assigned(assigned, id, device))
    };
    for device in unbound.existing {
        match offer(device.id, Some(&device)) {
            Some(offer) => snapshot.unbound.push(DeviceState::unbound(device, offer)),
            None => snapshot.not_offered.push(device),
        }
    }
    for id in unbound.missing.iter().chain(&unbound.unreadable) {
        let state = |offer| DeviceState::unbound(Device::new(*id), offer);
        snapshot.unbound.extend(offer(*id, None).map(state));
    }
    snapshot.missing.extend(unbound.missing);
}
