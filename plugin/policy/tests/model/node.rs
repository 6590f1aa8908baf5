//! The state of the whole model: devices, pods, the kubelet and the plugin.

use super::id;
use super::kubelet::Kubelet;
use super::plugin::Plugin;

/// The process that has a device open.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Holder {
    /// No process.
    None,
    /// The VM of a pod.
    Pod(u8),
    /// A process of no pod, or the VM of a pod that was force-deleted.
    Foreign,
}

/// A device.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) struct Device {
    pub(super) bound: bool,
    pub(super) holder: Holder,
}

/// A pod of the API server. Each comes once.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub(super) enum Pod {
    /// It has not come yet.
    ToCome,
    /// It is admitted, and this device is assigned to it.
    Active(u8),
    /// It was refused or deleted.
    Gone,
}

/// Everything.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct State {
    pub(super) devices: Vec<Device>,
    pub(super) pods: Vec<Pod>,
    pub(super) kubelet: Kubelet,
    pub(super) plugin: Plugin,
    /// The forbidden event that happened.
    pub(super) violation: Option<&'static str>,
}

impl State {
    pub(super) fn all_devices(&self) -> impl Iterator<Item = u8> + use<> {
        0..u8::try_from(self.devices.len()).unwrap_or(u8::MAX)
    }

    pub(super) fn device(&self, device: u8) -> Device {
        self.devices.get(usize::from(device)).copied().unwrap()
    }

    pub(super) fn device_named(&self, name: &str) -> Option<u8> {
        self.all_devices().find(|device| id(*device) == name)
    }

    /// Returns the active pods with their devices.
    pub(super) fn active(&self) -> impl Iterator<Item = (u8, u8)> + '_ {
        (0..).zip(&self.pods).filter_map(|(pod, phase)| match phase {
            Pod::Active(device) => Some((pod, *device)),
            Pod::ToCome | Pod::Gone => None,
        })
    }

    /// Returns what the scheduler counts as requested.
    pub(super) fn requested(&self) -> usize {
        self.active().count()
    }

    pub(super) fn device_of(&self, pod: u8) -> Option<u8> {
        self.active().find(|(active, _)| *active == pod).map(|(_, device)| device)
    }

    pub(super) fn set_pod(&mut self, pod: u8, phase: Pod) {
        self.pods[usize::from(pod)] = phase;
    }

    pub(super) fn set_holder(&mut self, device: u8, holder: Holder) {
        self.devices[usize::from(device)].holder = holder;
    }

    pub(super) fn set_bound(&mut self, device: u8, bound: bool) {
        self.devices[usize::from(device)].bound = bound;
    }

    /// Ends the pod's VM, if it runs. `left` holds the device from then on.
    pub(super) fn end_vm(&mut self, pod: u8, left: Holder) {
        if let Some(device) = self.device_of(pod)
            && self.device(device).holder == Holder::Pod(pod)
        {
            self.set_holder(device, left);
        }
    }
}
