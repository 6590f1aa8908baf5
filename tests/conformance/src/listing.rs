//! Derives the expected output of `list --json --probe` from the results of the core.

#![allow(clippy::indexing_slicing, reason = "a missing key of a Value is null")]

use serde_json::{Value, json};

/// The fields of a listing that are compared: those that the core determines, and `assignment`, which must be null because no
/// kubelet runs on a tree. The plugin alone determines the others: resource, health, reason.
const COMPARED_FIELDS: [&str; 13] = [
    "address",
    "vendor",
    "device",
    "class",
    "driver",
    "iommu_group",
    "numa_node",
    "kind",
    "state",
    "evidence",
    "viable",
    "holders",
    "assignment",
];

/// Returns the expected listing: the display controllers of vendor 10de with the states of their groups. The result of a
/// probe counts only if groups have device nodes.
pub(crate) fn expected(dump: &Value) -> Value {
    let none = Vec::new();
    let devices = dump["devices"].as_array().unwrap_or(&none);
    let selected = devices.iter().filter(|device| {
        // A virtual function without a vGPU is not offered.
        let empty = device["kind"] == "vendor-vf" && device["vgpu_type"].is_null();
        device["vendor"] == 0x10de && device["class"].as_u64().is_some_and(|class| class >> 16 == 3) && !empty
    });
    json!({ "devices": selected.map(|device| line(device, dump)).collect::<Vec<_>>() })
}

fn line(device: &Value, dump: &Value) -> Value {
    let (none, has_nodes) = (Vec::new(), dump["group_nodes"] == true);
    let of_group = |list: &str| {
        let items = dump[list].as_array().unwrap_or(&none).iter();
        items
            .filter(|item| !device["group"].is_null() && item["group"] == device["group"])
            .collect::<Vec<_>>()
    };
    let group = of_group("groups").first().copied().cloned().unwrap_or_default();
    let holders = of_group("holders");
    // The open of a device's own node counts only where there is no `enable`.
    let proves = |holder: &&Value| holder["via"] != "cdev" || group["peek"] == "unavailable";
    let (state, evidence) = match (group["state"].as_str(), group["peek"].as_str()) {
        (Some(state @ ("free" | "held")), _) if has_nodes => (state, "open"),
        _ if holders.iter().any(proves) => ("held", "holder"),
        (Some("absent"), _) if has_nodes => ("absent", "open"),
        (_, Some("looks-held")) => ("held", "enable"),
        (_, Some("looks-free")) => ("free", "enable"),
        (Some(state), _) => (state, "open"),
        (None, _) => ("unknown", "none"),
    };
    let holders: Vec<Value> = holders
        .iter()
        .filter(|holder| (state, evidence) != ("free", "open") || holder["via"] == "cdev")
        .map(|holder| {
            json!({
                "pid": holder["pid"], "command": holder["command"], "pod_uid": holder["pod_uid"], "in_pod": holder["in_pod"],
                "container_id": holder["container_id"],
            })
        })
        .collect();
    json!({
        "address": device["id"], "vendor": hex(&device["vendor"], 4), "device": hex(&device["device"], 4),
        "class": hex(&device["class"], 6), "driver": device["driver"], "iommu_group": device["group"],
        "numa_node": device["numa_node"], "kind": device["kind"], "state": state, "evidence": evidence,
        "viable": group["viable"].as_bool().unwrap_or(!device["group"].is_null()), "holders": holders, "assignment": null,
    })
}

fn hex(number: &Value, digits: usize) -> String {
    format!("{:0digits$x}", number.as_u64().unwrap_or(u64::MAX))
}

/// Removes the fields that are not compared.
pub(crate) fn compared_part(mut listing: Value) -> Value {
    // The plugin searches for the holders of the offered devices only. The others are of a running `serve`.
    if let Some(fields) = listing.as_object_mut() {
        fields.retain(|key, _| !["assignments_known", "coverage", "dra", "problems"].contains(&key.as_str()));
    }
    let devices = listing.get_mut("devices").and_then(Value::as_array_mut);
    for device in devices.into_iter().flatten().filter_map(Value::as_object_mut) {
        device.retain(|key, _| COMPARED_FIELDS.contains(&key.as_str()));
    }
    listing
}
