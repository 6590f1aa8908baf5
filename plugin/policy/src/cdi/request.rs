//! What an answer to Allocate says of CDI.

use crate::cdi::names;
use crate::pools::terms::Cdi;
use vfio_probe::DeviceId;

/// One device of a spec on disk.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SpecDevice {
    /// Which one.
    pub device: DeviceId,
    /// Its fully qualified name.
    pub name: String,
    /// All nodes that it gives.
    pub nodes: Vec<String>,
    /// Which writing of the spec's file names it: a number that grows with each; 0 where it is not written yet.
    pub written: u64,
}

/// What a container's answer says of CDI.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct CdiRequest {
    /// Fully qualified names.
    pub names: Vec<String>,
    /// Key and value.
    pub annotation: Option<(String, String)>,
}

/// What to say for devices that come with these nodes; none if the specs on disk would not give just these.
pub fn request(
    cdi: Cdi,
    on_disk: &[SpecDevice],
    devices: &[DeviceId],
    nodes: &[String],
) -> Option<CdiRequest> {
    if cdi == Cdi::None {
        return Some(CdiRequest::default());
    }
    let entry = |id: &DeviceId| on_disk.iter().find(|entry| entry.device == *id);
    let entries = devices.iter().map(entry).collect::<Option<Vec<&SpecDevice>>>()?;
    let given = || entries.iter().flat_map(|entry| &entry.nodes);
    if !given().all(|node| nodes.contains(node))
        || !nodes.iter().all(|node| given().any(|known| known == node))
    {
        return None;
    }
    let names: Vec<String> = entries.iter().map(|entry| entry.name.clone()).collect();
    let annotation = devices.first().filter(|_| cdi == Cdi::Annotations);
    let annotation = annotation.map(|first| (names::annotation_key(*first), names.join(",")));
    Some(CdiRequest { names, annotation })
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
    fn names_are_given_only_for_what_is_on_disk_with_just_these_nodes() {
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

        assert_eq!(request(Cdi::Devices, &on_disk, &[one], &nodes(52)), None, "another group's");
        assert_eq!(request(Cdi::Devices, &on_disk, &[one], &both), None, "more than it gives");
        assert_eq!(request(Cdi::Devices, &on_disk, &[one, two], &nodes(51)), None, "less than it gives");
        assert_eq!(request(Cdi::Devices, &on_disk, &[id("0000:03:00.0")], &nodes(51)), None, "not there");
        let none = request(Cdi::None, &[], &[one], &nodes(51));
        assert_eq!(none, Some(CdiRequest::default()), "nothing was asked for");
    }
}
