//! Converts what the core reports without an open: a watch up to `ready`, waits, device nodes and hardware.

use crate::core_dump::failure;
use serde_json::{Value, json};
use std::path::Path;
use std::time::{Duration, Instant};
use vfio_probe::device::Detail;
use vfio_probe::{Buffer, DeviceId, DeviceNodes, Event, GroupId, Hardware, Result, Root, Watch, watch};

/// A watch of a tree is ready long before.
const PATIENCE: Duration = Duration::from_secs(20);

/// Returns the document in the form that the programs of the other languages print for `ROOT unprobed`.
pub(crate) fn dump(path: &Path) -> Value {
    read(path).unwrap_or_else(|error| json!({ "error": failure(&error) }))
}

fn read(path: &Path) -> Result<Value> {
    let root = Root::open(path)?;
    let mut devices = Vec::new();
    root.scan(Detail::Full, &mut Buffer::new(), |device| devices.extend(device))?;
    let (mut ids, mut groups): (Vec<DeviceId>, Vec<GroupId>) = (
        devices.iter().map(|device| device.id).collect(),
        devices.iter().filter_map(|it| it.group).collect(),
    );
    ids.sort_by_key(ToString::to_string);
    groups.sort_unstable();
    groups.dedup();
    let mut watch = Watch::open(&root, watch::Options::default())?;
    let events = events_until_ready(&mut watch)?;
    let waits: Vec<Value> = groups.iter().map(|&group| wait(&mut watch, group)).collect::<Result<_>>()?;
    let addresses = ids.iter().filter_map(|id| match id {
        DeviceId::Pci(address) => Some(*address),
        DeviceId::Mdev(_) => None,
    });
    Ok(json!({
        "events": events, "ready": watch.is_ready(), "waits": waits,
        "snapshot": root.snapshot(Detail::Full, None)?.groups.iter().map(|group| group.id.0).collect::<Vec<_>>(),
        "nodes": groups.iter().map(|&group| nodes(group, root.device_nodes(group))).collect::<Vec<_>>(),
        "hardware": addresses.map(|address| hardware(&address.to_string(), root.hardware(address))).collect::<Vec<_>>(),
    }))
}

/// Returns the words of the events, in order of their texts: that of devices and groups is no promise. `ready` is the last.
fn events_until_ready(watch: &mut Watch) -> Result<Vec<String>> {
    let (mut words, end) = (Vec::new(), Instant::now() + PATIENCE);
    while let Some(event) = watch.wait_for_event(Some(end.saturating_duration_since(Instant::now())))? {
        if event == Event::Ready {
            words.sort();
            words.push("ready".to_owned());
            break;
        }
        let subject = event.device().map(|id| id.to_string()).or(event.group().map(|id| id.0.to_string()));
        words.push(format!("{} {}", event.as_str(), subject.unwrap_or_default()));
    }
    Ok(words)
}

fn wait(watch: &mut Watch, group: GroupId) -> Result<Value> {
    let now = Some(Duration::ZERO);
    Ok(json!({
        "group": group.0, "free": watch.wait_until_free(group, now)?, "held": watch.wait_until_held(group, now)?,
    }))
}

fn nodes(group: GroupId, nodes: Result<DeviceNodes>) -> Value {
    match nodes {
        Err(error) => json!({ "group": group.0, "error": failure(&error) }),
        Ok(nodes) => json!({
            "group": group.0, "container": nodes.container, "node": nodes.group, "iommufd": nodes.iommufd,
        "devices": nodes.devices.iter().filter(|(_, node)| node.is_some()).map(|(id, node)| json!([id.to_string(), node])).collect::<Vec<_>>(),
        }),
    }
}

fn hardware(device: &str, hardware: Result<Hardware>) -> Value {
    match hardware {
        Err(error) => json!({ "device": device, "error": failure(&error) }),
        Ok(Hardware { presence, fatal_errors, .. }) => {
            json!({ "device": device, "presence": presence.as_str(), "fatal_errors": fatal_errors })
        }
    }
}
