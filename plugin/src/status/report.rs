//! What `serve` tells through its status socket and `list` prints: the JSON records.

use crate::kubelet::registry::ResourceStatus;
use serde::{Deserialize, Serialize};
use vfio_plugin_policy::assignments::record::Pod;
use vfio_plugin_policy::device::DeviceState;
use vfio_plugin_policy::health::Decision;
use vfio_plugin_policy::sriov;
use vfio_probe::{Holder, Viability};

/// What `serve` tells.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct StatusReport {
    /// Its process id.
    pub(crate) pid: u32,
    /// Its version.
    pub(crate) version: String,
    /// Its policy.
    pub(crate) busy: String,
    /// How long it has run.
    pub(crate) uptime_ms: u64,
    /// How long ago its monitor was last seen alive.
    pub(crate) silent_ms: u64,
    /// Whether the first picture is whole.
    pub(crate) settled: bool,
    /// Its resources.
    pub(crate) resources: Vec<ResourceStatus>,
    /// Its devices, with what the kubelet was told.
    pub(crate) devices: Vec<DeviceReport>,
}

/// What `list` prints.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Listing {
    /// The devices.
    pub(crate) devices: Vec<DeviceReport>,
}

/// One device, as printed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct DeviceReport {
    /// PCI address or mdev uuid.
    pub(crate) address: String,
    /// Four hex digits.
    pub(crate) vendor: String,
    /// Four hex digits.
    pub(crate) device: String,
    /// Six hex digits.
    pub(crate) class: String,
    /// None while it is being unbound.
    pub(crate) driver: Option<String>,
    /// None without an IOMMU.
    pub(crate) iommu_group: Option<u32>,
    /// None where the kernel says -1.
    pub(crate) numa_node: Option<u16>,
    /// `pci`, `mdev` or `vendor-vf`.
    pub(crate) kind: String,
    /// The resource that it belongs to.
    pub(crate) resource: String,
    /// `free`, `held`, `absent` or `unknown`.
    pub(crate) state: String,
    /// `open`, `enable`, `node` or `none`.
    pub(crate) evidence: String,
    /// Whether the group can be used.
    pub(crate) viable: bool,
    /// The pod that owns it: `namespace/name`, its uid where only that is known; none when nothing serves.
    pub(crate) owner: Option<String>,
    /// What the kubelet was told; none when nothing serves.
    pub(crate) health: Option<String>,
    /// UnknownReason it is Unhealthy, or what is wrong with it.
    pub(crate) reason: Option<String>,
    /// Who holds it.
    pub(crate) holders: Vec<HolderReport>,
    /// HealthTracker by serve to `list` only; see [`DeviceState::stale_enable`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) stale_enable: bool,
}

/// One holder, as printed.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct HolderReport {
    /// Process id.
    pub(crate) pid: u32,
    /// Command name.
    pub(crate) command: String,
    /// The pod of its cgroup.
    pub(crate) pod_uid: Option<String>,
    /// The container of its cgroup.
    pub(crate) container_id: Option<String>,
}

impl From<&Holder> for HolderReport {
    fn from(holder: &Holder) -> Self {
        Self {
            pid: holder.pid,
            command: holder.command.to_string(),
            pod_uid: holder.container.pod_uid.map(|uid| uid.to_string()),
            container_id: holder.container.container_id.map(|id| id.to_string()),
        }
    }
}

impl DeviceReport {
    /// Whether the kubelet was told that it is Unhealthy.
    pub(crate) fn is_unhealthy(&self) -> bool {
        self.health.as_deref() == Some(kubelet_api::UNHEALTHY)
    }

    /// A device as printed, with what the kubelet was told and the pod that owns it.
    pub(crate) fn new(view: &DeviceState, told: Option<&Decision>, owner: Option<&Pod>) -> Self {
        let (device, group) = (&view.device, view.group.as_ref());
        let viability = group.map_or(Viability::Viable, |group| group.viability);
        let not_viable = match viability {
            Viability::NotViable { member, driver } => Some(format!("{member} is bound to {driver}")),
            Viability::Viable => None,
        };
        let reason =
            told.and_then(|told| told.health.reason().or(told.warning.as_deref()).map(str::to_owned));
        Self {
            address: device.id.to_string(),
            vendor: format!("{:04x}", device.vendor),
            device: format!("{:04x}", device.device),
            class: format!("{:06x}", device.class),
            driver: device.driver.map(|driver| driver.to_string()),
            iommu_group: device.group.map(|group| group.0),
            numa_node: device.numa_node,
            kind: device.kind.as_str().to_owned(),
            resource: view.resource.to_string(),
            state: group.map_or("unknown", |group| group.occupancy.as_str()).to_owned(),
            evidence: group.map_or("none", |group| group.evidence.as_str()).to_owned(),
            viable: group.is_some() && viability.is_viable(),
            owner: owner.map(|pod| {
                pod.name.clone().or_else(|| pod.uid.clone()).unwrap_or_else(|| "being admitted".to_owned())
            }),
            health: told.map(|told| told.health.as_str().to_owned()),
            reason: reason.or(not_viable).or_else(|| sriov::note(device)),
            holders: group
                .map(|group| group.holders.iter().map(HolderReport::from).collect())
                .unwrap_or_default(),
            stale_enable: view.stale_enable,
        }
    }
}
