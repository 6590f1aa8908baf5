//! Compares the device nodes in the kubelet's stored response with those that the devices have now.

/// Returns whether a host path in a response is a VFIO device node of one device or group, or shared by all of them. Other paths
/// are of other plugins, or of another kind.
pub fn is_vfio_node(path: &str) -> bool {
    path.starts_with("/dev/vfio/") || path == "/dev/iommu" || path.starts_with("/dev/egm")
}

/// Returns whether an annotation in a response can contain CDI names (`AnnotationPrefix` of
/// tags.cncf.io/container-device-interface). Its value is a list of names, separated by commas.
pub fn is_cdi_annotation(key: &str) -> bool {
    key.starts_with("cdi.k8s.io/")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_and_keys_of_other_kinds_are_ignored() {
        for path in
            ["/dev/vfio/51", "/dev/vfio/noiommu-0", "/dev/vfio/devices/vfio3", "/dev/iommu", "/dev/egm4"]
        {
            assert!(is_vfio_node(path), "{path}");
        }
        for path in ["", "/dev/nvidia0", "/dev/vfio", "/dev/infiniband/uverbs0", "/host/dev/vfio/51"] {
            assert!(!is_vfio_node(path), "{path}");
        }
        assert!(is_cdi_annotation("cdi.k8s.io/vfio-device-plugin_0000-1b-00.0"));
        assert!(!is_cdi_annotation("example.com/cdi.k8s.io"));
    }
}
