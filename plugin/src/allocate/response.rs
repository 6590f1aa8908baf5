//! Builds the response of Allocate, and the gRPC status of a refusal.

use kubelet_api::v1beta1::{AllocateResponse, CdiDevice, ContainerAllocateResponse, DeviceSpec};
use tonic::Status;
use vfio_plugin_policy::allocation::{AllocateError, Plan};
use vfio_plugin_policy::cdi::request::CdiRequest;
use vfio_plugin_policy::device::DeviceState;
use vfio_plugin_policy::pools::resource_name::env_name;
use vfio_probe::Kind;

/// Device nodes and CDI names for one container.
#[derive(Clone, Debug, Default)]
pub(crate) struct ContainerDevices {
    /// The paths of its device nodes.
    pub(crate) nodes: Vec<String>,
    /// The names by which the container runtime finds the same nodes.
    pub(crate) cdi: CdiRequest,
}

/// Returns the response exactly as KubeVirt expects it: the requested addresses in an environment variable, and the device nodes
/// of each container.
pub(super) fn response(resource: &str, plan: &Plan<'_>, devices: Vec<ContainerDevices>) -> AllocateResponse {
    let containers = plan.containers.iter().zip(devices);
    let container_responses =
        containers.map(|(planned, devices)| container(resource, &planned.devices, devices)).collect();
    AllocateResponse { container_responses }
}

/// Returns the gRPC status of a refusal.
pub(super) fn status(error: &AllocateError) -> Status {
    if error.is_invalid_request() {
        Status::invalid_argument(error.to_string())
    } else {
        Status::failed_precondition(error.to_string())
    }
}

fn container(
    resource: &str,
    devices: &[&DeviceState],
    allocated: ContainerDevices,
) -> ContainerAllocateResponse {
    // KubeVirt reads uuids from one variable and addresses from another, for GPUs from both.
    let variable = |mdev: bool| {
        let these = devices.iter().filter(|device| (device.device.kind == Kind::Mdev) == mdev);
        let ids: Vec<String> = these.map(|device| device.device.id.to_string()).collect();
        (!ids.is_empty()).then(|| (env_name(resource, mdev), ids.join(",")))
    };
    let spec = |path: String| DeviceSpec {
        container_path: path.clone(),
        host_path: path,
        permissions: "mrw".into(),
    };
    ContainerAllocateResponse {
        envs: [false, true].into_iter().filter_map(variable).collect(),
        devices: allocated.nodes.into_iter().map(spec).collect(),
        cdi_devices: allocated.cdi.names.into_iter().map(|name| CdiDevice { name }).collect(),
        annotations: allocated.cdi.annotation.into_iter().collect(),
        ..ContainerAllocateResponse::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;
    use vfio_plugin_policy::allocation;
    use vfio_plugin_policy::allocation::PlannedContainer;
    use vfio_plugin_policy::allocation::request::Request;
    use vfio_plugin_policy::assignments::index::Assignments;
    use vfio_plugin_policy::device::NodeSnapshot;
    use vfio_plugin_policy::testing::{device_state, node_of, request};
    use vfio_probe::{Occupancy, Viability};

    const RESOURCE: &str = "nvidia.com/GPU";

    fn snapshot() -> NodeSnapshot {
        let device = |address, group| {
            device_state(address, group, Occupancy::Free, Instant::now(), Viability::Viable, false)
        };
        let devices =
            vec![device("0000:01:00.0", 51), device("0000:02:00.0", 52), device("0000:02:00.1", 52)];
        NodeSnapshot { devices: devices.into(), vfio_visible: true, ..NodeSnapshot::default() }
    }

    fn planned<'a>(containers: &[&[&str]], snapshot: &'a NodeSnapshot) -> Plan<'a> {
        let parse = |ids: &&[&str]| ids.iter().map(|&id| id.parse().unwrap()).collect();
        let request = Request { containers: containers.iter().map(parse).collect() };
        allocation::plan(RESOURCE, &request, snapshot, &Assignments::default()).unwrap()
    }

    #[test]
    fn containers_have_responses_of_their_own() {
        let snapshot = snapshot();
        let plan = planned(&[&["0000:01:00.0"], &["0000:02:00.0", "0000:02:00.1"]], &snapshot);
        let groups = plan.containers.iter().flat_map(PlannedContainer::groups);
        assert_eq!(groups.map(|(group, _)| group.0).collect::<Vec<_>>(), [51, 52]);
        let legacy = |group: u32| ContainerDevices {
            nodes: vec!["/dev/vfio/vfio".to_owned(), format!("/dev/vfio/{group}")],
            ..ContainerDevices::default()
        };
        let responses = response(RESOURCE, &plan, vec![legacy(51), legacy(52)]).container_responses;
        let show = |response: &ContainerAllocateResponse| {
            let paths: Vec<_> = response.devices.iter().map(|spec| spec.host_path.clone()).collect();
            assert!(
                response
                    .devices
                    .iter()
                    .all(|spec| spec.permissions == "mrw" && spec.container_path == spec.host_path)
            );
            (response.envs["PCI_RESOURCE_NVIDIA_COM_GPU"].clone(), paths.join(" "), response.envs.len())
        };
        assert_eq!(responses.len(), 2);
        assert_eq!(show(&responses[0]), ("0000:01:00.0".into(), "/dev/vfio/vfio /dev/vfio/51".into(), 1));
        assert_eq!(
            show(&responses[1]),
            ("0000:02:00.0,0000:02:00.1".into(), "/dev/vfio/vfio /dev/vfio/52".into(), 1)
        );
    }

    #[test]
    fn uuids_and_addresses_are_in_separate_variables() {
        let mut snapshot = snapshot();
        let uuid = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
        let mut mdev = device_state(uuid, 70, Occupancy::Free, Instant::now(), Viability::Viable, false);
        mdev.device.kind = Kind::Mdev;
        snapshot.devices.push(mdev);
        let plan = planned(&[&["0000:01:00.0", uuid]], &snapshot);
        let responses = response(RESOURCE, &plan, vec![ContainerDevices::default()]).container_responses;
        let mut envs: Vec<_> = responses[0].envs.clone().into_iter().collect();
        envs.sort();
        let expected =
            [("MDEV_PCI_RESOURCE_NVIDIA_COM_GPU", uuid), ("PCI_RESOURCE_NVIDIA_COM_GPU", "0000:01:00.0")];
        assert_eq!(envs, expected.map(|(name, value)| (name.to_owned(), value.to_owned())));
    }

    #[test]
    fn one_device_costs_the_same_on_any_node() {
        let allocations = |size| {
            let snapshot = node_of(size);
            let request = request(snapshot.devices.iter().skip(5).take(1));
            // Makes the snapshot's index.
            allocation::plan(RESOURCE, &request, &snapshot, &Assignments::default()).unwrap();
            allocation_counter::measure(|| {
                let plan = allocation::plan(RESOURCE, &request, &snapshot, &Assignments::default()).unwrap();
                let nodes = vec!["/dev/vfio/vfio".to_owned(), "/dev/vfio/5".to_owned()];
                let devices = ContainerDevices { nodes, cdi: CdiRequest::default() };
                assert_eq!(response(RESOURCE, &plan, vec![devices]).container_responses.len(), 1);
            })
            .count_total
        };
        assert_eq!(allocations(8), allocations(1024));
    }
}
