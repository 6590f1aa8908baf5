//! Decides which CDI names Allocate's response contains.

use crate::cdi::names;
use crate::pools::terms::Cdi;
use std::collections::BTreeSet;
use vfio_probe::DeviceId;

/// One device of a spec on disk.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SpecDevice {
    /// The device.
    pub device: DeviceId,
    /// Its fully qualified name.
    pub name: String,
    /// All device nodes that the name stands for.
    pub nodes: Vec<String>,
    /// The number of the write of the spec's file; numbers grow. 0 if the spec is not written yet.
    pub written: u64,
}

/// The CDI part of one container's response.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CdiRequest {
    /// Fully qualified names.
    pub names: Vec<String>,
    /// The annotation with the names: key and value.
    pub annotation: Option<(String, String)>,
}

/// Returns the CDI part of the response for the `devices` of a container that receives `nodes`. Returns none if the specs on disk do not
/// stand for exactly these nodes. `on_disk` is in the order of devices.
pub fn request(
    cdi: Cdi,
    on_disk: &[SpecDevice],
    devices: &[DeviceId],
    nodes: &[String],
) -> Option<CdiRequest> {
    if cdi == Cdi::None {
        return Some(CdiRequest::default());
    }
    let entries = devices.iter().map(|id| entry_of(on_disk, *id)).collect::<Option<Vec<&SpecDevice>>>()?;
    let spec_nodes: BTreeSet<&String> = entries.iter().flat_map(|entry| &entry.nodes).collect();
    if spec_nodes != nodes.iter().collect() {
        return None;
    }
    let names: Vec<String> = entries.iter().map(|entry| entry.name.clone()).collect();
    let annotation = devices.first().filter(|_| cdi == Cdi::Annotations);
    let annotation = annotation.map(|first| (names::annotation_key(*first), names.join(",")));
    Some(CdiRequest { names, annotation })
}

/// Returns the first entry of a device. `on_disk` is in the order of devices.
pub fn entry_of(on_disk: &[SpecDevice], device: DeviceId) -> Option<&SpecDevice> {
    let place = on_disk.partition_point(|entry| entry.device < device);
    on_disk.get(place).filter(|entry| entry.device == device)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cdi::spec::Spec;

    fn id(text: &str) -> DeviceId {
        text.parse().unwrap()
    }

    fn nodes(group: u32) -> Vec<String> {
        vec!["/dev/vfio/vfio".to_owned(), format!("/dev/vfio/{group}")]
    }

    #[test]
    fn names_need_a_spec_with_exactly_these_nodes() {
        let mut spec = Spec::of(&"a.b/gpu".into());
        let (one, two) = (id("0000:01:00.0"), id("0000:02:00.0"));
        spec.add(one, nodes(51));
        spec.add(two, nodes(52));
        let on_disk = spec.entries();
        let both = [nodes(51), nodes(52)].concat();
        let names = ["a.b/gpu=0000:02:00.0", "a.b/gpu=0000:01:00.0"].map(str::to_owned);
        let field = request(Cdi::Devices, &on_disk, &[two, one], &both).unwrap();
        assert_eq!(field, CdiRequest { names: names.to_vec(), annotation: None });
        let annotated = request(Cdi::Annotations, &on_disk, &[two, one], &both).unwrap();
        let key = "cdi.k8s.io/vfio-device-plugin_0000-02-00.0".to_owned();
        assert_eq!(annotated, CdiRequest { names: names.to_vec(), annotation: Some((key, names.join(","))) });

        assert_eq!(request(Cdi::Devices, &on_disk, &[one], &nodes(52)), None, "another group's nodes");
        assert_eq!(request(Cdi::Devices, &on_disk, &[one], &both), None, "more nodes than the spec has");
        assert_eq!(
            request(Cdi::Devices, &on_disk, &[one, two], &nodes(51)),
            None,
            "fewer nodes than the spec has"
        );
        assert_eq!(
            request(Cdi::Devices, &on_disk, &[id("0000:03:00.0")], &nodes(51)),
            None,
            "the spec lacks the device"
        );
        let none = request(Cdi::None, &[], &[one], &nodes(51));
        assert_eq!(none, Some(CdiRequest::default()), "the pool uses no CDI");
    }
}
