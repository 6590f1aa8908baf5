//! Makes the calls with bad input in Rust, and reports what they return as the programs of the other languages do.

use serde_json::{Value, json};
use std::ffi::OsStr;
use std::fmt::{Display, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::Duration;
use vfio_probe::device::Detail;
use vfio_probe::{
    Buffer, DeviceId, Error, GroupId, Occupancy, PciAddress, Prober, Result, Root, UnknownReason, Watch,
    names, watch,
};

/// A watch of the node is ready long before.
const PATIENCE: Duration = Duration::from_secs(20);

/// Makes a call. None if the type of an argument has no such value, as an unsigned timeout that is negative.
pub(crate) fn call(root: &Path, call: &str, argument: &OsStr) -> Option<Value> {
    let root = Root::open(root).ok()?;
    let mut buffer = Buffer::new();
    let text = argument.to_str().unwrap_or_default();
    let (group, millis) = text.split_once(' ').unwrap_or((text, ""));
    let group = group.parse().map(GroupId);
    Some(match call {
        "open" => report(Root::open(argument), |_| "a root".to_owned()),
        "open_nul" => report(Root::open("a\0b"), |_| "a root".to_owned()),
        "names" => report(names::open(Some(Path::new(argument))), |_| "a file".to_owned()),
        "device" => match text.parse::<DeviceId>() {
            Ok(id) => report(root.device(id, Detail::Full), |_| "a device".to_owned()),
            Err(error) => refused("ParseIdError", &error),
        },
        "hardware" => match text.parse::<PciAddress>() {
            Ok(address) => report(root.hardware(address), |_| "hardware".to_owned()),
            Err(error) => refused("ParseIdError", &error),
        },
        "scan" => {
            let mut errors = Vec::new();
            root.scan(Detail::Full, &mut buffer, |device| errors.extend(device.err())).ok()?;
            let of_device = |error: &&Error| error.device.is_some_and(|id| id.to_string() == text);
            errors.iter().find(of_device).map_or_else(|| done("no error"), failed)
        }
        "group" => report(root.group(group.ok()?, &mut buffer), |_| "a group".to_owned()),
        "members" => report(root.members(group.ok()?, &mut buffer, |_| ()), |()| "members".to_owned()),
        "peek" => report(root.peek(group.ok()?, &mut buffer), |peek| peek.as_str().to_owned()),
        "probe" => done(&occupancy(root.probe(group.ok()?))),
        "probe_within" => {
            let timeout = Duration::from_millis(millis.parse().ok()?);
            done(&occupancy(Prober::new(root).probe(group.ok()?, timeout)))
        }
        "nodes" => report(root.device_nodes(group.ok()?), |nodes| {
            format!("group node {}", nodes.group.as_deref().unwrap_or("none"))
        }),
        "holders" => report(root.holders(&[group.ok()?], &mut |_| ()), |_| "holders".to_owned()),
        "watch_group" => {
            let mut watch = Watch::open(&root, watch::Options::default()).ok()?;
            watch.wait_for(Some(PATIENCE), |_| true).ok()?;
            done(&watch.occupancy(group.ok()?).map_or_else(|| "none".to_owned(), occupancy))
        }
        "wait_free" => {
            let mut watch = Watch::open(&root, watch::Options::default()).ok()?;
            report(watch.wait_until_free(group.ok()?, Some(Duration::ZERO)), |is_free| is_free.to_string())
        }
        _ => return None,
    })
}

/// Returns the state of a probe, and why it is not known.
fn occupancy(occupancy: Occupancy) -> String {
    match occupancy {
        Occupancy::Unknown(UnknownReason::Errno(errno)) => format!("unknown, errno {errno}"),
        Occupancy::Unknown(reason) => format!("unknown, {}", reason.as_str()),
        known => known.as_str().to_owned(),
    }
}

fn report<T>(result: Result<T>, shown: impl FnOnce(T) -> String) -> Value {
    result.map_or_else(|error| failed(&error), |value| done(&shown(value)))
}

fn done(result: &str) -> Value {
    json!({ "result": result })
}

fn refused(kind: &str, error: &dyn Display) -> Value {
    json!({ "type": kind, "text": error.to_string() })
}

fn failed(error: &Error) -> Value {
    json!({
        "type": "Error", "kind": error.kind.as_str(), "errno": error.errno,
        "device": error.device.map(|id| id.to_string()), "group": error.group.map(|id| id.0),
        "path": error.path().map(|path| escaped(path.as_os_str().as_bytes())), "text": error.to_string(),
    })
}

/// Shows each byte that is not printable ASCII as `%FF`, because JSON has no such bytes.
pub(crate) fn escaped(bytes: &[u8]) -> String {
    let mut shown = String::new();
    for &byte in bytes {
        match byte {
            b' '..=b'~' => shown.push(char::from(byte)),
            // Cannot fail: the target is a String.
            _ => drop(write!(shown, "%{byte:02X}")),
        }
    }
    shown
}
