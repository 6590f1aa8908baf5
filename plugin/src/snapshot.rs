//! What the monitor knew at one moment, immutable, and the record in which it is printed.

use crate::cdi;
use crate::condition::Condition;
use crate::health::Decision;
use crate::names::Offer;
use crate::owners::given::Pod;
use crate::pools::Terms;
use crate::sriov;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;
use std::time::Instant;
use vfio_probe::peek::Peek;
use vfio_probe::{Device, DeviceId, Evidence, GroupId, Holder, Kind, Looked, Occupancy, Viability, Watch};

/// All offered devices.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(crate) struct Snapshot {
    /// By id.
    pub(crate) devices: Vec<DeviceView>,
    /// Devices that pods own and that are no longer bound.
    pub(crate) unbound: Vec<DeviceView>,
    /// Whether /dev/vfio can be listed.
    pub(crate) vfio_visible: bool,
    /// /dev/vfio/vfio is missing, without which a group's node is of no use.
    pub(crate) lacks_container: bool,
    /// What could not be read.
    pub(crate) errors: Vec<vfio_probe::Error>,
    /// How many answers to opens made elsewhere it has taken in.
    pub(crate) heard: u64,
    /// Which devices the CDI specs on disk have.
    pub(crate) cdi: Vec<cdi::Entry>,
}

/// One device.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct DeviceView {
    /// Its record.
    pub(crate) device: Device,
    /// The resource that it belongs to.
    pub(crate) resource: Arc<str>,
    /// On what terms it is given.
    pub(crate) terms: Terms,
    /// The kernel's unbind of it waits for the holder.
    pub(crate) unbinding: bool,
    /// Its enable count is left over from before the bind, so that a look without serve's memory is misled.
    pub(crate) left_over: bool,
    /// Its hardware, as far as that is looked at.
    pub(crate) condition: Condition,
    /// Its group.
    pub(crate) group: Option<GroupView>,
}

/// A device's group.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct GroupView {
    /// Its number.
    pub(crate) id: GroupId,
    /// Whether it is held.
    pub(crate) occupancy: Occupancy,
    /// What that rests on.
    pub(crate) evidence: Evidence,
    /// Whether the kernel has nodes for groups; without, its devices' own are all there is.
    pub(crate) has_node: bool,
    /// Since when.
    pub(crate) since: Instant,
    /// Whether VFIO can use it.
    pub(crate) viability: Viability,
    /// The latest look without opening.
    pub(crate) peek: Peek,
    /// Who holds it, as far as seen.
    pub(crate) holders: Vec<Holder>,
    /// How far that is.
    pub(crate) looked: Option<Looked>,
}

impl Snapshot {
    /// Takes the watch's state; `offer` tells how a device is offered, none leaves it out.
    pub(crate) fn take(watch: &Watch, mut offer: impl FnMut(&Device) -> Option<Offer>) -> Self {
        let monitor = watch.monitor();
        let devices = monitor.devices().iter().filter_map(|tracked| {
            let group = tracked.device.group.and_then(|id| monitor.group(id)).map(|group| GroupView {
                id: group.id,
                occupancy: group.state.occupancy,
                evidence: group.state.evidence,
                has_node: monitor.has_group_nodes(),
                since: group.state.since,
                viability: group.viability,
                peek: group.peek.unwrap_or(Peek::Blind),
                holders: watch.holders(group.id).to_vec(),
                looked: watch.looked(group.id),
            });
            let view = DeviceView::unbound(tracked.device, offer(&tracked.device)?);
            let (unbinding, left_over) = (tracked.unbinding, tracked.count_is_left_over());
            Some(DeviceView { unbinding, left_over, group, ..view })
        });
        Self {
            devices: devices.collect(),
            unbound: Vec::new(),
            vfio_visible: monitor.vfio_visible(),
            lacks_container: monitor.lacks_container(),
            errors: monitor.errors().to_vec(),
            heard: 0,
            cdi: Vec::new(),
        }
    }

    /// A device by the id that the kubelet knows it by.
    pub(crate) fn device(&self, id: &str) -> Option<&DeviceView> {
        self.of(id.parse().ok()?)
    }

    /// A device.
    pub(crate) fn of(&self, id: DeviceId) -> Option<&DeviceView> {
        let place = self.devices.binary_search_by_key(&id, |view| view.device.id).ok()?;
        self.devices.get(place)
    }
}

impl DeviceView {
    /// One of which only the record is known, as of one that is not bound.
    pub(crate) fn unbound(device: Device, offer: Offer) -> Self {
        let Offer { resource, terms } = offer;
        let condition = Condition::default();
        Self { device, resource, terms, unbinding: false, left_over: false, condition, group: None }
    }

    /// The node by which its group, or on a kernel without such nodes the device itself, is opened.
    pub(crate) fn node(&self) -> String {
        match (&self.group, self.device.cdev) {
            (Some(group), Some(number)) if !group.has_node => format!("/dev/vfio/devices/vfio{number}"),
            (Some(group), _) => format!("/dev/vfio/{}", group.id),
            (None, _) => "/dev/vfio".to_owned(),
        }
    }

    /// Why it may have no group.
    pub(crate) fn without_group(&self) -> &'static str {
        match self.device.kind {
            // Theirs are made by VFIO itself (`vfio_noiommu_group_alloc` of VFIO_EMULATED_IOMMU).
            Kind::Mdev => "no IOMMU group: a kernel without CONFIG_VFIO_GROUP has none for mediated devices",
            Kind::Pci | Kind::VendorVf => "no IOMMU group: is the IOMMU off?",
        }
    }

    /// Whether its group is held.
    pub(crate) fn is_held(&self) -> bool {
        self.group.as_ref().is_some_and(|group| group.occupancy.is_held())
    }
}

/// Holders in words: `pid 4711 (qemu-system-x86), pod <uid>`.
pub(crate) fn describe(holders: &[Holder]) -> String {
    in_words(holders.iter().map(|holder| (holder.pid, &holder.command, holder.owner.pod_uid)))
}

/// Holders in words, from pid, command and pod.
pub(crate) fn in_words(
    holders: impl Iterator<Item = (u32, impl fmt::Display, Option<impl fmt::Display>)>,
) -> String {
    let mut words = Vec::new();
    for (pid, command, pod) in holders {
        let pod = pod.map(|pod| format!(", pod {pod}")).unwrap_or_default();
        words.push(format!("pid {pid} ({command}){pod}"));
    }
    if words.is_empty() {
        return "a process that could not be found".to_owned();
    }
    words.join("; ")
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
    /// Why it is Unhealthy, or what is wrong with it.
    pub(crate) reason: Option<String>,
    /// Who holds it.
    pub(crate) holders: Vec<HolderReport>,
    /// Told by serve to `list` only; see [`DeviceView::left_over`].
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) left_over: bool,
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
            pod_uid: holder.owner.pod_uid.map(|uid| uid.to_string()),
            container_id: holder.owner.container_id.map(|id| id.to_string()),
        }
    }
}

impl DeviceReport {
    /// Whether the kubelet was told that it is Unhealthy.
    pub(crate) fn is_unhealthy(&self) -> bool {
        self.health.as_deref() == Some(kubelet_api::UNHEALTHY)
    }

    /// A device as printed, with what the kubelet was told and the pod that owns it.
    pub(crate) fn new(view: &DeviceView, told: Option<&Decision>, owner: Option<&Pod>) -> Self {
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
            left_over: view.left_over,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use vfio_probe::holders::Via;
    use vfio_probe::text::Text;
    use vfio_probe::{Kind, Sriov};

    /// A device for the tests of pure decisions; a held one is held by pid 7.
    pub(crate) fn view(
        address: &str,
        group: u32,
        occupancy: Occupancy,
        since: Instant,
        viability: Viability,
        unbinding: bool,
    ) -> DeviceView {
        let device = Device {
            id: address.parse().unwrap(),
            vendor: 0x10de,
            device: 0x2330,
            subsystem_vendor: 0,
            subsystem_device: 0,
            class: 0x03_0200,
            driver: Text::new(b"vfio-pci"),
            group: Some(GroupId(group)),
            numa_node: Some(0),
            sriov: Sriov::None,
            cdev: None,
            kind: Kind::Pci,
            vgpu_type: None,
            parent: None,
        };
        let id = GroupId(group);
        let command = Text::lossy(b"qemu");
        let holder =
            Holder { group: id, pid: 7, start_time: 1, command, via: Via::Group, owner: Default::default() };
        let holders = if occupancy.is_held() { vec![holder] } else { Vec::new() };
        let peek = if occupancy.is_held() { Peek::LooksHeld } else { Peek::LooksFree };
        let evidence = Evidence::Open;
        let has_node = true;
        let group =
            GroupView { id, occupancy, evidence, has_node, since, viability, peek, holders, looked: None };
        DeviceView {
            device,
            resource: "nvidia.com/GPU".into(),
            terms: Terms::default(),
            unbinding,
            left_over: false,
            condition: Condition::default(),
            group: Some(group),
        }
    }
}
