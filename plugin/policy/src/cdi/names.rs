//! Pure: CDI's names of resources and devices (pkg/parser and pkg/cdi/annotations.go of
//! tags.cncf.io/container-device-interface).

use vfio_probe::DeviceId;

/// Who we are in names of files and annotations.
const PLUGIN: &str = "vfio-device-plugin";

/// The kind of a resource's devices: its name, by which Kata asks for them (`formatCDIDevIDs` of containerd-shim-kata-v2 puts
/// the resource and the device's id of the kubelet's books together). Of what the kubelet takes as a name CDI wants only that
/// vendor and class begin with a letter, and its library up to 1.1.0, and the runtime with it, panics where one of them is a
/// single character (`validateVendorOrClassName`). There the kind is another.
pub fn kind(resource: &str) -> String {
    let fit = |part: &str| match part.as_bytes() {
        [first, _, ..] if first.is_ascii_alphabetic() => part.to_owned(),
        _ => format!("vfio-{part}"),
    };
    let (vendor, class) = resource.split_once('/').unwrap_or(("vfio", resource));
    format!("{}/{}", fit(vendor), fit(class))
}

/// The oldest version that allows it: 0.5.0, which the library of containerd 1.7.0 reads, lets a device's name begin with a
/// digit; a dot in the class needs 0.6.0 (`MinimumRequiredVersion`).
pub fn version(kind: &str) -> &'static str {
    match kind.split_once('/') {
        Some((_, class)) if class.contains('.') => "0.6.0",
        _ => "0.5.0",
    }
}

/// The fully qualified name of a device. Addresses and uuids are names as they are (`ValidateDeviceName`).
pub fn qualified(kind: &str, device: DeviceId) -> String {
    format!("{kind}={device}")
}

/// The file of a resource's spec. One of its own for each: no vendor has an underscore.
pub fn file(resource: &str) -> String {
    format!("{PLUGIN}_{}.json", resource.replace('/', "_"))
}

/// Whether a file in the specs' folder can be one of ours.
pub fn is_ours(file: &str) -> bool {
    let rest = file.strip_prefix(PLUGIN).and_then(|rest| rest.strip_prefix('_'));
    rest.is_some_and(|rest| rest.ends_with(".json") && !rest.contains('/'))
}

/// The key of an annotation for devices of which this is the first: of one container no other has it, whatever other resources
/// it has. At most 63 characters, and no colon (`AnnotationKey`).
pub fn annotation_key(first: DeviceId) -> String {
    format!("cdi.k8s.io/{PLUGIN}_{}", first.to_string().replace(':', "-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_resources_but_for_what_cdi_refuses() {
        for (resource, expected, oldest) in [
            ("nvidia.com/GH100_H100_SXM5_80GB", "nvidia.com/GH100_H100_SXM5_80GB", "0.5.0"),
            ("nvidia.com/GRID_T4-1Q", "nvidia.com/GRID_T4-1Q", "0.5.0"),
            ("nvidia.com/2330", "nvidia.com/vfio-2330", "0.5.0"),
            ("pci-1002.vfio/74a1", "pci-1002.vfio/vfio-74a1", "0.5.0"),
            ("3dfx.com/voodoo.2", "vfio-3dfx.com/voodoo.2", "0.6.0"),
            ("a/b", "vfio-a/vfio-b", "0.5.0"),
            ("ab/cd", "ab/cd", "0.5.0"),
        ] {
            let kind = kind(resource);
            assert_eq!((kind.as_str(), version(&kind)), (expected, oldest), "{resource}");
        }
    }

    #[test]
    fn files_and_keys_are_plain_names() {
        assert_eq!(file("nvidia.com/H100"), "vfio-device-plugin_nvidia.com_H100.json");
        assert_ne!(file("a.b/c_d"), file("a.b-c/d"));
        assert!(is_ours(&file("a/b")));
        for other in ["nvidia.yaml", "vfio-device-plugin.json", "vfio-device-plugin_/../x.json", "x.json"] {
            assert!(!is_ours(other), "{other}");
        }
        for id in ["0000:1b:00.0", "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001"] {
            let key = annotation_key(id.parse().unwrap());
            let name = key.strip_prefix("cdi.k8s.io/").unwrap();
            let plain = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
            assert!(name.len() <= 63 && name.chars().all(plain), "{key}");
        }
    }
}
