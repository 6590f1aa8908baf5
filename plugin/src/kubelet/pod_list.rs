//! Reads a list of pod resources (`ListPodResourcesResponse`, api.proto of podresources v1): the names of all pods, and of their
//! devices those that can be this plugin's.

use crate::kubelet::kept::{Budget, Fault, OfferedResources};
use crate::kubelet::wire::Fields;
use kubelet_api::podresources::ListPodResourcesRequest;
use prost::bytes::Buf;
use std::collections::BTreeSet;
use tonic::Status;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use vfio_plugin_policy::assignments::observation::ListedPod;

/// Reads the pods of an encoded list. A pod without devices is in the result, because it exists.
///
/// # Errors
/// The list is malformed or over a limit. None of it may be used then.
pub(crate) fn read(message: &[u8], offered: &OfferedResources) -> Result<Vec<ListedPod>, Fault> {
    let (mut budget, mut pods) = (Budget::of_a_list(), Vec::new());
    for field in Fields::of(message) {
        let (number, value) = field?;
        if number == 1 {
            pods.push(pod(value.bytes()?, offered, &mut budget)?);
        }
    }
    Ok(pods)
}

fn pod(message: &[u8], offered: &OfferedResources, budget: &mut Budget) -> Result<ListedPod, Fault> {
    let (mut name, mut namespace) = ("", "");
    let mut pod = ListedPod { full_name: String::new(), devices: Default::default() };
    for field in Fields::of(message) {
        let (number, value) = field?;
        match number {
            1 => name = value.text()?,
            2 => namespace = value.text()?,
            3 => container(value.bytes()?, offered, budget, &mut pod)?,
            _ => {}
        }
    }
    budget.pod(name)?;
    budget.text(namespace)?;
    pod.full_name = format!("{namespace}/{name}");
    Ok(pod)
}

/// Adds the devices of a container. The kubelet makes one entry for each device, so that each has its own topology.
fn container(
    message: &[u8],
    offered: &OfferedResources,
    budget: &mut Budget,
    pod: &mut ListedPod,
) -> Result<(), Fault> {
    let mut name = "";
    for field in Fields::of(message) {
        if let (1, value) = field? {
            name = value.text()?;
        }
    }
    for field in Fields::of(message) {
        if let (2, value) = field? {
            devices(value.bytes()?, name, offered, budget, pod)?;
        }
    }
    Ok(())
}

/// Adds the ids of one entry, of one resource.
fn devices(
    message: &[u8],
    container: &str,
    offered: &OfferedResources,
    budget: &mut Budget,
    pod: &mut ListedPod,
) -> Result<(), Fault> {
    let mut resource = "";
    for field in Fields::of(message) {
        if let (1, value) = field? {
            resource = value.text()?;
        }
    }
    let mut is_ours = false;
    for field in Fields::of(message) {
        if let (2, value) = field? {
            is_ours |= offered.can_be_ours(resource, value.text()?);
        }
    }
    if !is_ours {
        return Ok(());
    }
    let ids = set_of(container, resource, budget, pod)?;
    for field in Fields::of(message) {
        if let (2, value) = field? {
            let id = value.text()?;
            if offered.can_be_ours(resource, id) {
                budget.insert(ids, id)?;
            }
        }
    }
    Ok(())
}

/// Returns the set of ids of a container and a resource.
fn set_of<'p>(
    container: &str,
    resource: &str,
    budget: &mut Budget,
    pod: &'p mut ListedPod,
) -> Result<&'p mut BTreeSet<String>, Fault> {
    let key = (container.to_owned(), resource.to_owned());
    if !pod.devices.contains_key(&key) {
        budget.entry()?;
        budget.text(container)?;
        budget.text(resource)?;
    }
    Ok(pod.devices.entry(key).or_default())
}

/// The codec of the call `List`: its answer is a list, or why the list is not used.
#[derive(Clone, Debug)]
pub(super) struct ListCodec(pub(super) OfferedResources);

/// Encodes the request, which has no fields.
#[derive(Debug)]
pub(super) struct RequestEncoder;

/// Decodes the answer.
#[derive(Debug)]
pub(super) struct ListDecoder(OfferedResources);

impl Codec for ListCodec {
    type Encode = ListPodResourcesRequest;
    type Decode = Result<Vec<ListedPod>, Fault>;
    type Encoder = RequestEncoder;
    type Decoder = ListDecoder;

    fn encoder(&mut self) -> RequestEncoder {
        RequestEncoder
    }

    fn decoder(&mut self) -> ListDecoder {
        ListDecoder(self.0.clone())
    }
}

impl Encoder for RequestEncoder {
    type Item = ListPodResourcesRequest;
    type Error = Status;

    fn encode(
        &mut self,
        ListPodResourcesRequest {}: Self::Item,
        _: &mut EncodeBuf<'_>,
    ) -> Result<(), Status> {
        Ok(())
    }
}

impl Decoder for ListDecoder {
    type Item = Result<Vec<ListedPod>, Fault>;
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<Self::Item>, Status> {
        // The message is in one piece already, so this copies nothing.
        let message = message.copy_to_bytes(message.remaining());
        Ok(Some(read(&message, &self.0)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kubelet::kept::Limit;
    use kubelet_api::podresources::{
        ContainerDevices, ContainerResources, ListPodResourcesResponse, PodResources,
    };
    use proptest::prelude::*;
    use prost::Message;

    fn devices(resource: &str, ids: &[&str]) -> ContainerDevices {
        let device_ids = ids.iter().map(ToString::to_string).collect();
        ContainerDevices { resource_name: resource.into(), device_ids, ..ContainerDevices::default() }
    }

    fn pod(name: &str, devices: Vec<ContainerDevices>) -> PodResources {
        let container = ContainerResources { name: "c".into(), devices, ..ContainerResources::default() };
        PodResources { name: name.into(), namespace: "vms".into(), containers: vec![container] }
    }

    fn list(pods: Vec<PodResources>, offered: &OfferedResources) -> Result<Vec<ListedPod>, Fault> {
        read(&ListPodResourcesResponse { pod_resources: pods }.encode_to_vec(), offered)
    }

    #[test]
    fn all_pods_are_named_and_only_own_ids_kept() {
        let entries = vec![
            devices("a/x", &["51"]),
            devices("nvidia.com/gpu", &["GPU-1", "3"]),
            devices("b/y", &["0000:1b:00.0"]),
            devices("b/y", &["0000:1c:00.0"]),
        ];
        let offered = OfferedResources::known(BTreeSet::from(["a/x".into()]));
        let pods =
            list(vec![pod("vm-1", entries), pod("web", vec![devices("cpu/x", &["1"])])], &offered).unwrap();
        let names: Vec<&str> = pods.iter().map(|pod| pod.full_name.as_str()).collect();
        assert_eq!(names, ["vms/vm-1", "vms/web"]);
        let of = |resource: &str| pods[0].devices[&("c".to_owned(), resource.to_owned())].clone();
        assert_eq!(pods[0].devices.len(), 2);
        assert_eq!(of("a/x"), BTreeSet::from(["51".to_owned()]));
        assert_eq!(of("b/y"), BTreeSet::from(["0000:1b:00.0".to_owned(), "0000:1c:00.0".to_owned()]));
        assert!(pods[1].devices.is_empty());
    }

    #[test]
    fn each_limit_makes_the_whole_list_unused() {
        let unknown = OfferedResources::default();
        // 16 MiB of pods without a name.
        assert_eq!(read(&[0x0a, 0].repeat(8 << 20), &unknown), Err(Fault::Over(Limit::Pods)));
        let ids: Vec<String> = (0..8_193).map(|id| id.to_string()).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        assert_eq!(list(vec![pod("a", vec![devices("r", &ids)])], &unknown), Err(Fault::Over(Limit::Ids)));
        let offered = OfferedResources::known(BTreeSet::new());
        assert!(list(vec![pod("a", vec![devices("r", &ids)])], &offered).is_ok(), "another plugin's");
        let many = (0..2049).map(|n| devices(&format!("r/{n}"), &["51"])).collect();
        assert_eq!(list(vec![pod("a", many)], &unknown), Err(Fault::Over(Limit::Entries)));
        let long = "x".repeat(513);
        assert_eq!(list(vec![pod(&long, Vec::new())], &unknown), Err(Fault::Over(Limit::Text)));
        assert_eq!(read(&[0x0a, 2, 0x0a], &unknown), Err(Fault::Malformed));
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(message: Vec<u8>) {
            let _ = read(&message, &OfferedResources::default());
        }
    }
}
