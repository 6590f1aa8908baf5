//! Makes the CDI spec of a claim: by it the container runtime gives each container the devices of its requests.

use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use vfio_plugin_policy::dra::names::DraDriver;

/// The class of the claims' CDI devices; the vendor is the driver.
const CLASS: &str = "claim";
/// The oldest version that allows names that begin with a digit, as uids do (`MinimumRequiredVersion`).
const VERSION: &str = "0.5.0";

/// What a container gets for one request.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct RequestEdits {
    /// The paths of device nodes.
    pub(super) nodes: Vec<String>,
    /// Environment variables. KubeVirt reads the devices of a resource from them.
    pub(super) variables: BTreeMap<String, String>,
    /// The metadata file: its paths on the host and in the container.
    pub(super) metadata: (PathBuf, String),
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct SpecFile<'a> {
    cdi_version: &'static str,
    kind: String,
    devices: Vec<Entry<'a>>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Entry<'a> {
    name: String,
    container_edits: Edits<'a>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Edits<'a> {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    env: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    device_nodes: Vec<Node<'a>>,
    mounts: Vec<Mount<'a>>,
}

/// A device node, with the same path on the host and in the container. The runtime reads type and numbers from the host
/// (`fillMissingInfo`).
#[derive(Serialize)]
struct Node<'a> {
    path: &'a str,
    permissions: &'static str,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Mount<'a> {
    host_path: &'a Path,
    container_path: &'a str,
    options: [&'static str; 2],
}

/// Returns the path of a claim's spec. Each claim has its own file: runtimes cache files by name.
pub(super) fn path(directory: &Path, driver: &DraDriver, uid: &str) -> PathBuf {
    directory.join(format!("{driver}_{uid}.json"))
}

/// Returns the fully qualified name of the CDI device of a request.
pub(super) fn device_name(driver: &DraDriver, uid: &str, request: &str) -> String {
    format!("{driver}/{CLASS}={uid}_{request}")
}

/// Returns the text of a claim's spec, with the edits by request.
///
/// # Errors
/// A path is no text.
pub(super) fn text(
    driver: &DraDriver,
    uid: &str,
    requests: &BTreeMap<String, RequestEdits>,
) -> serde_json::Result<String> {
    let devices = requests.iter().map(|(request, edits)| Entry {
        name: format!("{uid}_{request}"),
        container_edits: Edits {
            env: edits.variables.iter().map(|(name, value)| format!("{name}={value}")).collect(),
            device_nodes: edits.nodes.iter().map(|path| Node { path, permissions: "mrw" }).collect(),
            mounts: vec![Mount {
                host_path: &edits.metadata.0,
                container_path: &edits.metadata.1,
                options: ["ro", "bind"],
            }],
        },
    });
    let spec =
        SpecFile { cdi_version: VERSION, kind: format!("{driver}/{CLASS}"), devices: devices.collect() };
    Ok(serde_json::to_string(&spec)? + "\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn each_request_is_a_device_with_nodes_variables_and_metadata() {
        let driver: DraDriver = "vfio.example.com".parse().unwrap();
        let edits = RequestEdits {
            nodes: vec!["/dev/vfio/vfio".into(), "/dev/vfio/51".into()],
            variables: BTreeMap::from([("PCI_RESOURCE_A_B".into(), "0000:1b:00.0".into())]),
            metadata: ("/host/metadata.json".into(), "/container/metadata.json".into()),
        };
        let admin = RequestEdits { metadata: edits.metadata.clone(), ..RequestEdits::default() };
        let requests = BTreeMap::from([("gpu".to_owned(), edits), ("monitor".to_owned(), admin)]);
        let text = text(&driver, "5f-1", &requests).unwrap();
        let mounts = json!([{"hostPath": "/host/metadata.json", "containerPath": "/container/metadata.json",
                             "options": ["ro", "bind"]}]);
        let node = |path: &str| json!({"path": path, "permissions": "mrw"});
        let expected = json!({
            "cdiVersion": "0.5.0",
            "kind": "vfio.example.com/claim",
            "devices": [
                {"name": "5f-1_gpu", "containerEdits": {
                    "env": ["PCI_RESOURCE_A_B=0000:1b:00.0"],
                    "deviceNodes": [node("/dev/vfio/vfio"), node("/dev/vfio/51")],
                    "mounts": mounts,
                }},
                {"name": "5f-1_monitor", "containerEdits": {"mounts": mounts}},
            ],
        });
        assert_eq!(serde_json::from_str::<Value>(&text).unwrap(), expected);
        assert_eq!(device_name(&driver, "5f-1", "gpu"), "vfio.example.com/claim=5f-1_gpu");
        assert_eq!(path(Path::new("/cdi"), &driver, "5f-1"), Path::new("/cdi/vfio.example.com_5f-1.json"));
    }
}
