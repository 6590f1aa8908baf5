//! Makes CDI's names of resources, devices, files and annotations.
//!
//! The rules are those of pkg/parser and pkg/cdi/annotations.go of tags.cncf.io/container-device-interface.

use vfio_probe::DeviceId;

/// The plugin's name in names of files and annotations.
const PLUGIN: &str = "vfio-device-plugin";

/// Returns the CDI kind of a resource's devices.
///
/// It is the resource's name, because Kata makes CDI names of the resource and the kubelet's device id (`formatCDIDevIDs` of
/// containerd-shim-kata-v2). CDI refuses a few names that the kubelet accepts: vendor and class must begin with a letter. Its
/// library up to 1.1.0 panics, and with it the runtime, if one of them is a single character (`validateVendorOrClassName`). Such a
/// part gets the prefix `vfio-`.
pub fn kind(resource: &str) -> String {
    let fit = |part: &str| match part.as_bytes() {
        [first, _, ..] if first.is_ascii_alphabetic() => part.to_owned(),
        _ => format!("vfio-{part}"),
    };
    let (vendor, class) = resource.split_once('/').unwrap_or(("vfio", resource));
    format!("{}/{}", fit(vendor), fit(class))
}

/// Returns the oldest CDI version that allows the kind (`MinimumRequiredVersion`). Version 0.5.0, which the library of containerd
/// 1.7.0 reads, lets a device's name begin with a digit. A dot in the class needs 0.6.0.
pub fn version(kind: &str) -> &'static str {
    match kind.split_once('/') {
        Some((_, class)) if class.contains('.') => "0.6.0",
        _ => "0.5.0",
    }
}

/// Returns the fully qualified name of a device. PCI addresses and uuids are valid names (`ValidateDeviceName`).
pub fn qualified(kind: &str, device: DeviceId) -> String {
    format!("{kind}={device}")
}

/// Returns the name of a resource's spec file. Each resource has its own: a vendor contains no underscore, so no two resources get
/// the same name.
pub fn file(resource: &str) -> String {
    format!("{PLUGIN}_{}.json", resource.replace('/', "_"))
}

/// Returns whether a file in the directory of specs can belong to the plugin.
pub fn is_ours(file: &str) -> bool {
    let rest = file.strip_prefix(PLUGIN).and_then(|rest| rest.strip_prefix('_'));
    rest.is_some_and(|rest| rest.ends_with(".json") && !rest.contains('/'))
}

/// Returns the key of the annotation for devices of which `first` is the first. The keys of one container differ, because its
/// resources have different devices. A key has at most 63 characters and no colon (`AnnotationKey`).
pub fn annotation_key(first: DeviceId) -> String {
    format!("cdi.k8s.io/{PLUGIN}_{}", first.to_string().replace(':', "-"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kind_is_the_resource_unless_cdi_refuses_it() {
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
    fn file_names_and_annotation_keys_are_valid() {
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
