//! Pure: whether a request can be granted, and the answer to it.

use crate::resources::env_name;
use crate::snapshot::{DeviceView, Snapshot, describe};
use kubelet_api::v1beta1::{AllocateRequest, AllocateResponse, ContainerAllocateResponse, DeviceSpec};
use std::collections::HashMap;
use tonic::Status;
use vfio_probe::{GroupId, Kind, Occupancy, Viability};

/// A request that may be granted if its groups can be opened: the devices of each container.
#[derive(Debug)]
pub(crate) struct Plan<'a> {
    containers: Vec<Vec<&'a DeviceView>>,
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
            views.push(usable(view)?);
        }
        containers.push(views);
    }
    Ok(Plan { containers })
}

fn usable(view: &DeviceView) -> Result<&DeviceView, Status> {
    let id = view.device.id;
    let refuse = |why: String| Err(Status::failed_precondition(format!("{id}: {why}")));
    let Some(group) = &view.group else {
        return refuse("no IOMMU group: is the IOMMU off?".to_owned());
    };
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

/// Decides by the answer; `looks_held` is what the monitor thinks, `absent_is_sure`: /dev/vfio can be seen and sysfs has
/// no such group.
pub(crate) fn judge(answer: Occupancy, looks_held: bool, absent_is_sure: bool) -> Verdict {
    match answer {
        Occupancy::Free => Verdict::Grant,
        Occupancy::Held => Verdict::Held,
        Occupancy::Absent if absent_is_sure => Verdict::Absent,
        // A denied or late open says nothing; a count above its baseline does, and so does an EBUSY from before.
        Occupancy::Absent | Occupancy::Unknown(_) if looks_held => Verdict::Held,
        Occupancy::Absent | Occupancy::Unknown(_) => Verdict::Grant,
    }
}

impl<'a> Plan<'a> {
    /// The groups to open, each once, with a device to name them by.
    pub(crate) fn groups(&self) -> Vec<(GroupId, &'a DeviceView)> {
        let mut groups: Vec<(GroupId, &DeviceView)> = Vec::new();
        for view in self.containers.iter().flatten() {
            if let Some(group) = view.device.group
                && !groups.iter().any(|(known, _)| *known == group)
            {
                groups.push((group, view));
            }
        }
        groups
    }

    /// The answer, for KubeVirt exactly: requested addresses in the variable, the container node and each group's node once.
    pub(crate) fn answer(&self, resource: &str) -> AllocateResponse {
        let container_responses = self.containers.iter().map(|views| container(resource, views)).collect();
        AllocateResponse { container_responses }
    }
}

fn container(resource: &str, views: &[&DeviceView]) -> ContainerAllocateResponse {
    let mdev = views.iter().any(|view| view.device.kind == Kind::Mdev);
    let addresses: Vec<String> = views.iter().map(|view| view.device.id.to_string()).collect();
    let mut paths = vec!["/dev/vfio/vfio".to_owned()];
    for view in views {
        let path = view.device.group.map(|group| format!("/dev/vfio/{group}"));
        paths.extend(path.filter(|path| !paths.contains(path)));
    }
    let spec = |path: String| DeviceSpec {
        container_path: path.clone(),
        host_path: path,
        permissions: "mrw".into(),
    };
    ContainerAllocateResponse {
        envs: HashMap::from([(env_name(resource, mdev), addresses.join(","))]),
        devices: paths.into_iter().map(spec).collect(),
        ..ContainerAllocateResponse::default()
    }
}

/// The refusal of a held device.
pub(crate) fn held(view: &DeviceView, holders: &[vfio_probe::Holder]) -> Status {
    let group = view.device.group.map(|group| group.to_string()).unwrap_or_default();
    Status::failed_precondition(format!(
        "{} (group {group}) is held by {}",
        view.device.id,
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
        Snapshot { devices, vfio_visible: true, errors: Vec::new() }
    }

    fn request(containers: &[&[&str]]) -> AllocateRequest {
        let container = |ids: &&[&str]| ContainerAllocateRequest {
            devices_ids: ids.iter().map(|&id| id.to_owned()).collect(),
        };
        AllocateRequest { container_requests: containers.iter().map(container).collect() }
    }

    #[test]
    fn two_containers_never_share_an_answer() {
        let snapshot = snapshot();
        let plan =
            plan(RESOURCE, &request(&[&["0000:01:00.0"], &["0000:02:00.0", "0000:02:00.1"]]), &snapshot)
                .unwrap();
        assert_eq!(plan.groups().iter().map(|(group, _)| group.0).collect::<Vec<_>>(), [51, 52]);
        let answer = plan.answer(RESOURCE).container_responses;
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
            let status = plan(RESOURCE, &request(&[ids]), &snapshot).unwrap_err();
            assert_eq!(status.code(), code, "{ids:?}");
            assert!(status.message().contains(words), "{}", status.message());
        }
        assert!(plan("nvidia.com/OTHER", &request(&[&["0000:01:00.0"]]), &snapshot).is_err());
        let view = snapshot.device("0000:04:00.0").unwrap();
        let status = held(view, &view.group.as_ref().unwrap().holders);
        assert_eq!(status.message(), "0000:04:00.0 (group 54) is held by pid 7 (qemu)");
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
            assert_eq!(judge(answer, looks_held, sure), verdict, "{answer:?} {looks_held}");
        }
    }
}
