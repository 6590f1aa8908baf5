//! The views of the kubelet and the kernel, as the program `sources` prints them on the node.

use std::collections::BTreeMap;

use serde_json::Value;
use xtask::Result;

/// What `sources` printed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeSources {
    /// The devices of each pod that has some, by NAMESPACE/NAME, or why the kubelet did not answer.
    pub kubelet: Result<BTreeMap<String, PodDevices>, String>,
    /// The groups bound to vfio-pci.
    pub groups: Vec<Group>,
    /// Processes whose descriptors could not be read.
    pub unread: u64,
}

/// The devices of a pod, by address. Containers that share a device have it once.
pub type PodDevices = Vec<String>;

/// A group with a function bound to vfio-pci.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    /// The group's number.
    pub number: String,
    /// The addresses of its functions.
    pub devices: Vec<String>,
    /// The processes that have its node open.
    pub holders: Vec<Holder>,
    /// What an open of its node gave, if one was tried.
    pub opened: Option<Opened>,
}

/// A process that has a group open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Holder {
    /// Process id on the node.
    pub pid: u64,
    /// Command name.
    pub command: String,
    /// UID of its pod, or empty for a process of the host.
    pub pod: String,
}

/// The result of an open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Opened {
    /// The open succeeded, and the descriptor was closed.
    Free,
    /// EBUSY.
    Busy,
    /// Another error.
    Failed(String),
}

impl NodeSources {
    /// Reads the program's output.
    ///
    /// # Errors
    ///
    /// Fails if a field is missing.
    pub fn read(text: &str, prefix: &str) -> Result<Self> {
        let report: Value =
            serde_json::from_str(text).map_err(|error| format!("sources printed {text:?}: {error}"))?;
        let kubelet = match report["pods_error"].as_str() {
            Some(error) => Err(error.to_owned()),
            None => Ok(pods(array(&report["pods"])?, prefix)?),
        };
        let groups = array(&report["groups"])?.iter().map(group).collect::<Result<_>>()?;
        Ok(Self { kubelet, groups, unread: number(&report["unread"])? })
    }
}

fn pods(entries: &[Value], prefix: &str) -> Result<BTreeMap<String, PodDevices>> {
    let mut pods: BTreeMap<String, PodDevices> = BTreeMap::new();
    for entry in entries {
        if !text(&entry["resource"])?.starts_with(prefix) {
            continue;
        }
        let devices =
            pods.entry(format!("{}/{}", text(&entry["namespace"])?, text(&entry["name"])?)).or_default();
        for id in array(&entry["ids"])? {
            devices.push(text(id)?);
        }
        devices.sort();
        devices.dedup();
    }
    Ok(pods)
}

fn group(entry: &Value) -> Result<Group> {
    let holder = |entry: &Value| {
        Ok(Holder {
            pid: number(&entry["pid"])?,
            command: text(&entry["command"])?,
            pod: text(&entry["pod"])?,
        })
    };
    Ok(Group {
        number: text(&entry["group"])?,
        devices: array(&entry["devices"])?.iter().map(text).collect::<Result<_>>()?,
        holders: array(&entry["holders"])?.iter().map(holder).collect::<Result<_>>()?,
        opened: entry["open"].as_str().map(|result| match result {
            "ok" => Opened::Free,
            "busy" => Opened::Busy,
            error => Opened::Failed(error.into()),
        }),
    })
}

fn text(value: &Value) -> Result<String> {
    value.as_str().map(str::to_owned).ok_or_else(|| format!("sources printed {value}, not a text").into())
}

fn number(value: &Value) -> Result<u64> {
    value.as_u64().ok_or_else(|| format!("sources printed {value}, not a number").into())
}

fn array(value: &Value) -> Result<&[Value]> {
    value.as_array().map(Vec::as_slice).ok_or_else(|| format!("sources printed {value}, not an array").into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn containers_of_a_pod_are_joined_and_errors_are_kept() {
        let printed = r#"{"pods":[
            {"namespace":"default","name":"a","container":"x","resource":"nvidia.com/A","ids":["0000:00:03.0"]},
            {"namespace":"default","name":"a","container":"y","resource":"nvidia.com/A","ids":["0000:00:02.0","0000:00:03.0"]},
            {"namespace":"default","name":"b","container":"x","resource":"example.com/nic","ids":["1"]}],
            "groups":[{"group":"2","devices":["0000:00:02.0"],"holders":[{"pid":7,"command":"holder","pod":""}],"open":"busy"},
            {"group":"3","devices":["0000:00:03.0"],"holders":[]}],"unread":1}"#;
        let sources = NodeSources::read(printed, "nvidia.com/").unwrap();
        let devices = vec!["0000:00:02.0".to_owned(), "0000:00:03.0".into()];
        assert_eq!(sources.kubelet, Ok(BTreeMap::from([("default/a".to_owned(), devices)])));
        assert_eq!(sources.groups[0].opened, Some(Opened::Busy));
        assert_eq!((sources.groups[0].holders[0].pid, sources.groups[1].opened.clone()), (7, None));
        assert_eq!(sources.unread, 1);

        let away =
            NodeSources::read(r#"{"pods":[],"pods_error":"refused","groups":[],"unread":0}"#, "nvidia.com/");
        assert_eq!(away.unwrap().kubelet, Err("refused".into()));
        assert!(NodeSources::read("{}", "nvidia.com/").is_err());
        assert!(NodeSources::read("sh: sources: not found", "nvidia.com/").is_err());
    }
}
