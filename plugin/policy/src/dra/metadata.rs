//! Makes the metadata files by which a container learns which devices it has (KEP-5304).
//!
//! A file has one object for each version of the format. KubeVirt 1.9 reads v1alpha1 alone.

use k8s_openapi::api::resource::v1::DeviceAttribute;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// The directory of all metadata files, in the driver's directory.
const DIRECTORY: &str = "dra-device-metadata";
/// The directory of the files in a container (`ContainerDir` in k8s.io/dynamic-resource-allocation/api/metadata).
const CONTAINER: &str = "/var/run/kubernetes.io/dra-device-attributes";
/// The versions, newest first.
const VERSIONS: [&str; 2] = ["metadata.resource.k8s.io/v1beta1", "metadata.resource.k8s.io/v1alpha1"];

/// The metadata of one request.
#[derive(Serialize)]
pub struct Metadata<'a> {
    /// The claim.
    pub metadata: ClaimName<'a>,
    /// The name by which the pod's spec refers to a claim made from a template.
    #[serde(rename = "podClaimName", skip_serializing_if = "Option::is_none")]
    pub pod_claim_name: Option<&'a str>,
    /// The request. The format has a list, a file has one.
    pub requests: [Request<'a>; 1],
}

/// The name of a claim.
#[derive(Clone, Copy, Serialize)]
pub struct ClaimName<'a> {
    /// Its name.
    pub name: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its uid.
    pub uid: &'a str,
    /// The version of the content. It never changes.
    pub generation: i64,
}

/// One request with its devices.
#[derive(Serialize)]
pub struct Request<'a> {
    /// The request, with the subrequest.
    pub name: &'a str,
    /// Its devices.
    pub devices: Vec<Device<'a>>,
}

/// A device.
#[derive(Serialize)]
pub struct Device<'a> {
    /// The driver.
    pub driver: &'a str,
    /// The pool.
    pub pool: &'a str,
    /// The name in the pool.
    pub name: String,
    /// The attributes, as in the ResourceSlice.
    pub attributes: BTreeMap<String, DeviceAttribute>,
}

#[derive(Serialize)]
struct Versioned<'a> {
    #[serde(rename = "apiVersion")]
    api_version: &'static str,
    kind: &'static str,
    #[serde(flatten)]
    content: &'a Metadata<'a>,
}

impl Metadata<'_> {
    /// Returns the content of the file: one object a version, each in a line.
    ///
    /// # Errors
    /// The content cannot be serialized.
    pub fn text(&self) -> serde_json::Result<String> {
        let mut text = String::new();
        for api_version in VERSIONS {
            let object = Versioned { api_version, kind: "DeviceMetadata", content: self };
            text.push_str(&serde_json::to_string(&object)?);
            text.push('\n');
        }
        Ok(text)
    }

    /// Returns the path of the file in a container.
    pub fn container_path(&self, driver: &str, request: &str) -> String {
        let (kind, name) = match self.pod_claim_name {
            Some(name) => ("resourceclaimtemplates", name),
            None => ("resourceclaims", self.metadata.name),
        };
        format!("{CONTAINER}/{kind}/{name}/{request}/{driver}-metadata.json")
    }
}

/// Returns the directory of a claim's files.
pub fn claim_directory(plugins_dir: &Path, namespace: &str, name: &str) -> PathBuf {
    plugins_dir.join(DIRECTORY).join(format!("{namespace}_{name}"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn file_has_both_versions_with_the_same_content() {
        let attribute = DeviceAttribute { string: Some("0000:1b:00.0".into()), ..DeviceAttribute::default() };
        let device = Device {
            driver: "a.io",
            pool: "node-1",
            name: "pci-0000-1b-00-0".into(),
            attributes: BTreeMap::from([("resource.kubernetes.io/pciBusID".into(), attribute)]),
        };
        let mut metadata = Metadata {
            metadata: ClaimName { name: "vm-gpus-x7", namespace: "vms", uid: "u1", generation: 1 },
            pod_claim_name: Some("gpus"),
            requests: [Request { name: "gpu/large", devices: vec![device] }],
        };
        let text = metadata.text().unwrap();
        let objects: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let expected = |version: &str| {
            json!({
                "apiVersion": format!("metadata.resource.k8s.io/{version}"),
                "kind": "DeviceMetadata",
                "metadata": {"name": "vm-gpus-x7", "namespace": "vms", "uid": "u1", "generation": 1},
                "podClaimName": "gpus",
                "requests": [{"name": "gpu/large", "devices": [{
                    "driver": "a.io", "pool": "node-1", "name": "pci-0000-1b-00-0",
                    "attributes": {"resource.kubernetes.io/pciBusID": {"string": "0000:1b:00.0"}},
                }]}],
            })
        };
        assert_eq!(objects, [expected("v1beta1"), expected("v1alpha1")]);
        let directory = "/var/run/kubernetes.io/dra-device-attributes";
        assert_eq!(
            metadata.container_path("a.io", "gpu"),
            format!("{directory}/resourceclaimtemplates/gpus/gpu/a.io-metadata.json")
        );
        metadata.pod_claim_name = None;
        assert_eq!(
            metadata.container_path("a.io", "gpu"),
            format!("{directory}/resourceclaims/vm-gpus-x7/gpu/a.io-metadata.json")
        );
    }
}
