//! Pure: whether a request can be granted, and the answer to it.

use crate::cdi;
use crate::health::LOST;
use crate::owners::Ownership;
use crate::owners::checkpoint::Entry;
use crate::owners::given::Given;
use crate::pools::Terms;
use crate::preferred;
use crate::resources::env_name;
use crate::snapshot::{DeviceView, Snapshot, describe};
use kubelet_api::v1beta1::{
    AllocateRequest, AllocateResponse, CdiDevice, ContainerAllocateResponse, DeviceSpec,
};
use std::collections::BTreeSet;
use tonic::Status;
use vfio_probe::{DeviceId, GroupId, Kind, Occupancy, Viability};

/// A request that may be granted if its groups can be opened.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    pub(crate) containers: Vec<Wish<'a>>,
}

/// What one container is to be given.
#[derive(Debug)]
pub(crate) struct Wish<'a> {
    /// The ids of the kubelet's books.
    pub(crate) ids: BTreeSet<String>,
    /// The devices, in the order of the request.
    pub(crate) views: Vec<&'a DeviceView>,
}

/// Checks a request against what is known, before any group is opened.
///
/// # Errors
/// INVALID_ARGUMENT for ids that are not this resource's or come twice, FAILED_PRECONDITION for devices that cannot be
/// used; each names the device and says why.
pub(crate) fn plan<'a>(
    resource: &str,
    request: &AllocateRequest,
    snapshot: &'a Snapshot,
    owners: &Ownership,
) -> Result<Plan<'a>, Status> {
    let mut seen = Vec::new();
    let mut containers = Vec::new();
    for container in &request.container_requests {
        let mut views = Vec::new();
        for id in &container.devices_ids {
            let view = snapshot
                .device(id)
                .filter(|view| &*view.resource == resource)
                .ok_or_else(|| Status::invalid_argument(format!("{id}: no device of {resource}")))?;
            if seen.contains(&view.device.id) {
                return Err(Status::invalid_argument(format!("{id}: asked for twice in one request")));
            }
            seen.push(view.device.id);
            views.push(view);
        }
        let ids: BTreeSet<String> = views.iter().map(|view| view.device.id.to_string()).collect();
        containers.push(Wish { ids, views });
    }
    for view in containers.iter().flat_map(|wish| &wish.views) {
        usable(view)?;
        // A group goes to one pod only.
        let others = snapshot.devices.iter().filter(|other| !seen.contains(&other.device.id));
        if let Some((keeper, given)) = owners.keeper(view, others) {
            let text =
                format!("{}: group {} belongs to {keeper} ({})", view.device.id, group_of(view), given.pod);
            return Err(Status::failed_precondition(text));
        }
    }
    Ok(Plan { containers })
}

fn group_of(view: &DeviceView) -> String {
    view.device.group.map(|group| group.to_string()).unwrap_or_default()
}

/// Devices that could take the place of held ones, best first: what was given in their place before, to an init container
/// that hands it on; then what is free, of the same pool, nobody's by any book.
///
/// `given` is what the kubelet's checkpoint shows as given (`AllocResp`), which after an earlier substitution is not what
/// the kubelet's books say.
pub(crate) fn substitutes(
    resource: &str,
    plan: &Plan<'_>,
    snapshot: &Snapshot,
    owners: &Ownership,
    given: &BTreeSet<String>,
) -> Vec<DeviceId> {
    let wanted: Vec<&DeviceView> =
        plan.containers.iter().flat_map(|wish| wish.views.iter().copied()).collect();
    let fits = |view: &&DeviceView| {
        let id = view.device.id;
        let free = view.group.as_ref().is_some_and(|group| group.occupancy == Occupancy::Free);
        &*view.resource == resource
            && free
            && usable(view).is_ok()
            && !wanted.iter().any(|wanted| wanted.device.group == view.device.group)
            && owners.owner(view).is_none()
            && owners.keeper(view, &snapshot.devices).is_none()
            && !given.contains(&id.to_string())
    };
    let available: Vec<String> =
        snapshot.devices.iter().filter(fits).map(|view| view.device.id.to_string()).collect();
    // Beside what is wanted anyway, for its NUMA node.
    let must: Vec<String> = wanted.iter().map(|view| view.device.id.to_string()).collect();
    let all: Vec<String> = must.iter().chain(&available).cloned().collect();
    let chosen = preferred::choose(snapshot, owners, &all, &must, all.len());
    let chosen = chosen.iter().filter(|id| !must.contains(id)).filter_map(|id| id.parse().ok());
    let again = must.iter().flat_map(|id| owners.instead_of(resource, id));
    let again = again.filter(|id| snapshot.of(*id).is_some_and(|view| usable(view).is_ok()));
    again.filter(|id| !wanted.iter().any(|wanted| wanted.device.id == *id)).chain(chosen).collect()
}

fn usable(view: &DeviceView) -> Result<&DeviceView, Status> {
    let id = view.device.id;
    let refuse = |why: String| Err(Status::failed_precondition(format!("{id}: {why}")));
    let Some(group) = &view.group else {
        return refuse(view.without_group().to_owned());
    };
    if view.condition.lost {
        return Err(lost(view));
    }
    if view.unbinding || view.device.driver.is_none() {
        return refuse("is being unbound from its VFIO driver".to_owned());
    }
    if let Viability::NotViable { member, driver } = group.viability
        && !group.occupancy.is_held()
    {
        return refuse(format!("group {} is not viable: {member} is bound to {driver}", group.id));
    }
    Ok(view)
}

/// The refusal of a device that has fallen off the bus.
pub(crate) fn lost(view: &DeviceView) -> Status {
    let text =
        format!("{}: {LOST}: reset its slot or reseat it; dmesg may say when it was lost", view.device.id);
    Status::failed_precondition(text)
}

/// Whether a device is a pod's of which the kubelet has lost its books. Of one that its books name, the kubelet knows that the
/// pod is gone, or it would not ask for it: the file is behind what it has in memory (`UpdateAllocatedDevices`).
pub(crate) fn lost_by_the_kubelet(
    resource: &str,
    view: &DeviceView,
    owners: &Ownership,
    checkpoint: Option<&[Entry]>,
) -> bool {
    let id = view.device.id.to_string();
    let names = |entry: &Entry| entry.resource == resource && entry.ids.contains(&id);
    owners.counts(view)
        && owners.owner(view).is_some_and(Given::may_be_lost)
        && checkpoint.is_some_and(|entries| !entries.iter().any(names))
}

/// What to do when a group's open has answered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Verdict {
    /// Give it.
    Grant,
    /// Somebody has it.
    Held,
    /// There is nothing to give.
    Absent,
}

/// Decides by the answer; `looks_held` is what can be seen without it, `absent_is_sure`: /dev/vfio can be seen and sysfs
/// has no such group.
pub(crate) fn judge(answer: Occupancy, looks_held: impl Fn() -> bool, absent_is_sure: bool) -> Verdict {
    match answer {
        Occupancy::Free => Verdict::Grant,
        Occupancy::Held => Verdict::Held,
        Occupancy::Absent if absent_is_sure => Verdict::Absent,
        // A denied or late open says nothing; a count above its baseline does, and so does an EBUSY from before.
        Occupancy::Absent | Occupancy::Unknown(_) if looks_held() => Verdict::Held,
        Occupancy::Absent | Occupancy::Unknown(_) => Verdict::Grant,
    }
}

/// By what a container comes to its devices.
#[derive(Clone, Debug, Default)]
pub(crate) struct Means {
    /// Paths of device nodes.
    pub(crate) nodes: Vec<String>,
    /// Names by which its runtime finds the same.
    pub(crate) cdi: cdi::Request,
}

impl<'a> Wish<'a> {
    /// The groups to open, each once, with a device to name them by.
    pub(crate) fn groups(&self) -> Vec<(GroupId, &'a DeviceView)> {
        let mut groups: Vec<(GroupId, &DeviceView)> = Vec::new();
        for &view in &self.views {
            if let Some(group) = view.device.group
                && !groups.iter().any(|(known, _)| *known == group)
            {
                groups.push((group, view));
            }
        }
        groups
    }

    /// On what terms it is given them: of one resource, and so mostly of one pool.
    pub(crate) fn terms(&self) -> Terms {
        self.views.first().map(|view| view.terms).unwrap_or_default()
    }

    /// What it is given, by ids.
    pub(crate) fn real(&self) -> BTreeSet<String> {
        self.views.iter().map(|view| view.device.id.to_string()).collect()
    }
}

impl Plan<'_> {
    /// The answer, for KubeVirt exactly: addresses in the variable, and what each container is given.
    pub(crate) fn answer(&self, resource: &str, means: Vec<Means>) -> AllocateResponse {
        let containers = self.containers.iter().zip(means);
        let container_responses =
            containers.map(|(wish, means)| container(resource, &wish.views, means)).collect();
        AllocateResponse { container_responses }
    }
}

fn container(resource: &str, views: &[&DeviceView], means: Means) -> ContainerAllocateResponse {
    // KubeVirt takes uuids from one variable and addresses from the other, and asks both for GPUs.
    let variable = |mdev: bool| {
        let these = views.iter().filter(|view| (view.device.kind == Kind::Mdev) == mdev);
        let ids: Vec<String> = these.map(|view| view.device.id.to_string()).collect();
        (!ids.is_empty()).then(|| (env_name(resource, mdev), ids.join(",")))
    };
    let spec = |path: String| DeviceSpec {
        container_path: path.clone(),
        host_path: path,
        permissions: "mrw".into(),
    };
    ContainerAllocateResponse {
        envs: [false, true].into_iter().filter_map(variable).collect(),
        devices: means.nodes.into_iter().map(spec).collect(),
        cdi_devices: means.cdi.names.into_iter().map(|name| CdiDevice { name }).collect(),
        annotations: means.cdi.annotation.into_iter().collect(),
        ..ContainerAllocateResponse::default()
    }
}

/// The refusal of a held device.
pub(crate) fn held(view: &DeviceView, holders: &[vfio_probe::Holder], more: &str) -> Status {
    Status::failed_precondition(format!(
        "{} (group {}) is held by {}{more}",
        view.device.id,
        group_of(view),
        describe(holders)
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::tests::view;
    use kubelet_api::v1beta1::ContainerAllocateRequest;
    use std::time::Instant;
    use tonic::Code;
    use vfio_probe::Why;
    use vfio_probe::text::Text;

    const RESOURCE: &str = "nvidia.com/GPU";

    fn snapshot() -> Snapshot {
        let now = Instant::now();
        let offender =
            Viability::NotViable { member: Text::lossy(b"0000:05:00.1"), driver: Text::lossy(b"e1000") };
        let devices = vec![
            view("0000:01:00.0", 51, Occupancy::Free, now, Viability::Viable, false),
            view("0000:02:00.0", 52, Occupancy::Free, now, Viability::Viable, false),
            view("0000:02:00.1", 52, Occupancy::Free, now, Viability::Viable, false),
            view("0000:04:00.0", 54, Occupancy::Held, now, Viability::Viable, true),
            view("0000:05:00.0", 55, Occupancy::Free, now, offender, false),
        ];
        Snapshot { devices, vfio_visible: true, ..Snapshot::default() }
    }

    fn request(containers: &[&[&str]]) -> AllocateRequest {
        let container = |ids: &&[&str]| ContainerAllocateRequest {
            devices_ids: ids.iter().map(|&id| id.to_owned()).collect(),
        };
        AllocateRequest { container_requests: containers.iter().map(container).collect() }
    }

    fn planned<'a>(
        containers: &[&[&str]],
        snapshot: &'a Snapshot,
        owners: &Ownership,
    ) -> Result<Plan<'a>, Status> {
        plan(RESOURCE, &request(containers), snapshot, owners)
    }

    #[test]
    fn two_containers_never_share_an_answer() {
        let snapshot = snapshot();
        let plan = planned(
            &[&["0000:01:00.0"], &["0000:02:00.0", "0000:02:00.1"]],
            &snapshot,
            &Ownership::default(),
        )
        .unwrap();
        let groups = plan.containers.iter().flat_map(Wish::groups);
        assert_eq!(groups.map(|(group, _)| group.0).collect::<Vec<_>>(), [51, 52]);
        let legacy = |group: u32| Means {
            nodes: vec!["/dev/vfio/vfio".to_owned(), format!("/dev/vfio/{group}")],
            ..Means::default()
        };
        let answer = plan.answer(RESOURCE, vec![legacy(51), legacy(52)]).container_responses;
        let show = |answer: &ContainerAllocateResponse| {
            let paths: Vec<_> = answer.devices.iter().map(|spec| spec.host_path.clone()).collect();
            assert!(
                answer
                    .devices
                    .iter()
                    .all(|spec| spec.permissions == "mrw" && spec.container_path == spec.host_path)
            );
            (answer.envs["PCI_RESOURCE_NVIDIA_COM_GPU"].clone(), paths.join(" "), answer.envs.len())
        };
        assert_eq!(answer.len(), 2);
        assert_eq!(show(&answer[0]), ("0000:01:00.0".into(), "/dev/vfio/vfio /dev/vfio/51".into(), 1));
        assert_eq!(
            show(&answer[1]),
            ("0000:02:00.0,0000:02:00.1".into(), "/dev/vfio/vfio /dev/vfio/52".into(), 1)
        );
    }

    #[test]
    fn uuids_and_addresses_are_never_in_one_variable() {
        let mut snapshot = snapshot();
        let uuid = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
        let mut mdev = view(uuid, 70, Occupancy::Free, Instant::now(), Viability::Viable, false);
        mdev.device.kind = Kind::Mdev;
        snapshot.devices.push(mdev);
        let plan = planned(&[&["0000:01:00.0", uuid]], &snapshot, &Ownership::default()).unwrap();
        let answer = plan.answer(RESOURCE, vec![Means::default()]).container_responses;
        let mut envs: Vec<_> = answer[0].envs.clone().into_iter().collect();
        envs.sort();
        let expected =
            [("MDEV_PCI_RESOURCE_NVIDIA_COM_GPU", uuid), ("PCI_RESOURCE_NVIDIA_COM_GPU", "0000:01:00.0")];
        assert_eq!(envs, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn refusals_name_the_device_and_the_reason() {
        let snapshot = snapshot();
        for (ids, code, words) in [
            (&["0000:09:00.0"][..], Code::InvalidArgument, "0000:09:00.0: no device of nvidia.com/GPU"),
            (&["garbage"], Code::InvalidArgument, "garbage: no device of"),
            (&["0000:01:00.0", "0000:01:00.0"], Code::InvalidArgument, "twice"),
            (&["0000:04:00.0"], Code::FailedPrecondition, "being unbound"),
            (
                &["0000:05:00.0"],
                Code::FailedPrecondition,
                "group 55 is not viable: 0000:05:00.1 is bound to e1000",
            ),
        ] {
            let status = planned(&[ids], &snapshot, &Ownership::default()).unwrap_err();
            assert_eq!(status.code(), code, "{ids:?}");
            assert!(status.message().contains(words), "{}", status.message());
        }
        let other = request(&[&["0000:01:00.0"]]);
        assert!(plan("nvidia.com/OTHER", &other, &snapshot, &Ownership::default()).is_err());
        let view = snapshot.device("0000:04:00.0").unwrap();
        let status = held(view, &view.group.as_ref().unwrap().holders, "");
        assert_eq!(status.message(), "0000:04:00.0 (group 54) is held by pid 7 (qemu)");
    }

    #[test]
    fn a_substitute_is_free_and_nobodys_by_any_book() {
        let now = Instant::now();
        let device =
            |address, group, occupancy| view(address, group, occupancy, now, Viability::Viable, false);
        let offender =
            Viability::NotViable { member: Text::lossy(b"0000:05:00.1"), driver: Text::lossy(b"e1000") };
        let snapshot = Snapshot {
            devices: vec![
                device("0000:01:00.0", 51, Occupancy::Held),
                device("0000:02:00.0", 52, Occupancy::Free),
                device("0000:03:00.0", 53, Occupancy::Held),
                device("0000:04:00.0", 54, Occupancy::Free),
                view("0000:05:00.0", 55, Occupancy::Free, now, offender, false),
                device("0000:06:00.0", 56, Occupancy::Free),
            ],
            vfio_visible: true,
            ..Snapshot::default()
        };
        let set = |ids: &[&str]| ids.iter().map(|&id| id.to_owned()).collect::<BTreeSet<_>>();
        let shown = |owners: &Ownership, given: &[&str]| {
            let plan = planned(&[&["0000:01:00.0"]], &snapshot, owners).unwrap();
            let found = substitutes(RESOURCE, &plan, &snapshot, owners, &set(given));
            found.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(shown(&Ownership::default(), &[]), ["0000:02:00.0", "0000:04:00.0", "0000:06:00.0"]);
        assert_eq!(shown(&Ownership::default(), &["0000:02:00.0"]), ["0000:04:00.0", "0000:06:00.0"]);
        let mut ledger = crate::owners::ledger::Ledger::default();
        ledger.granted(RESOURCE, set(&["0000:02:00.0"]), set(&["0000:02:00.0"]), Default::default(), now);
        assert_eq!(shown(&Ownership::new(true, &ledger), &[]), ["0000:04:00.0", "0000:06:00.0"]);
        // An init container was given another in its place, which it hands on.
        ledger.granted(RESOURCE, set(&["0000:01:00.0"]), set(&["0000:06:00.0"]), Default::default(), now);
        assert_eq!(shown(&Ownership::new(true, &ledger), &[]), ["0000:06:00.0", "0000:04:00.0"]);
    }

    #[test]
    fn every_answer_of_an_open_has_its_verdict() {
        let denied = Occupancy::Unknown(Why::Denied);
        for (answer, looks_held, sure, verdict) in [
            (Occupancy::Free, false, false, Verdict::Grant),
            (Occupancy::Free, true, false, Verdict::Grant),
            (Occupancy::Held, false, false, Verdict::Held),
            (Occupancy::Absent, false, true, Verdict::Absent),
            (Occupancy::Absent, false, false, Verdict::Grant),
            (Occupancy::Absent, true, false, Verdict::Held),
            (denied, false, false, Verdict::Grant),
            (denied, true, false, Verdict::Held),
        ] {
            assert_eq!(judge(answer, || looks_held, sure), verdict, "{answer:?} {looks_held}");
        }
    }
}
