//! Makes the schema of the pools file for editors, and checks that it accepts what the reader accepts.

mod file;

use crate::config::pools_file;
use file::PoolsFile;
use schemars::{Schema, SchemaGenerator, json_schema};
use serde_json::Value;
use std::path::Path;
use vfio_plugin_policy::pools::terms::OfferBy;

/// The pattern of a resource's part after the slash, and of an alias.
const NAME: &str = "[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?";
const ADDRESS: &str = "([0-9A-Fa-f]{4}|[1-9A-Fa-f][0-9A-Fa-f]{4,7}):[0-9A-Fa-f]{2}:[01][0-9A-Fa-f][.][0-7]";
const UUID: &str = "[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}";

fn resource(_: &mut SchemaGenerator) -> Schema {
    let label = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
    json_schema!({
        "type": "string",
        "pattern": format!("^{label}([.]{label})*/{NAME}$"),
        "allOf": [{"pattern": "^[^/]{1,244}/"}],
        "not": {"pattern": "^requests[.]|kubernetes[.]io/"},
    })
}

/// Hex digits. YAML reads digits without letters as a decimal number, and with `0x` as a hex number. The schema cannot see which, so
/// it accepts any number that has up to four hex digits.
fn pci_id(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": ["string", "integer"], "pattern": "^(0x)?[0-9A-Fa-f]{1,4}$", "minimum": 0, "maximum": 0xffff})
}

fn class(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": ["string", "integer"], "pattern": "^(0x)?[0-9A-Fa-f]{1,6}$", "minimum": 0, "maximum": 0x00ff_ffff})
}

fn driver(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "pattern": "^[!-~]{1,32}$"})
}

fn device_id(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "pattern": format!("^({ADDRESS}|{UUID})$")})
}

fn pci_address(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": "string", "pattern": format!("^{ADDRESS}$")})
}

fn group(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": ["integer", "string"], "pattern": "^[0-9]{1,10}$", "minimum": 0, "maximum": u32::MAX})
}

fn numa_node(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": ["integer", "string"], "pattern": "^[0-9]{1,5}$", "minimum": 0, "maximum": u16::MAX})
}

fn vgpu_type(_: &mut SchemaGenerator) -> Schema {
    json_schema!({"type": ["integer", "string"], "pattern": "^([1-9!-.:-~]|[!-.0-~]{2,64})$", "minimum": 1})
}

fn alias(_: &mut SchemaGenerator) -> Schema {
    let name = json_schema!({"type": ["string", "integer"], "pattern": format!("^{NAME}$"), "minimum": 0});
    json_schema!({"type": "object", "additionalProperties": name})
}

/// Returns the schema as it is checked in. It has no defaults, because the reader accepts null nowhere.
fn made() -> Value {
    let mut schema = serde_json::to_value(schemars::schema_for!(PoolsFile)).unwrap();
    without_defaults(&mut schema);
    schema
}

fn without_defaults(value: &mut Value) {
    match value {
        Value::Object(keys) => {
            keys.remove("default");
            keys.values_mut().for_each(without_defaults);
        }
        Value::Array(items) => items.iter_mut().for_each(without_defaults),
        _ => {}
    }
}

/// Returns whether a document fits a schema. Knows the keywords of our schema and no others.
fn fits(schema: &Value, document: &Value, whole: &Value) -> bool {
    let Value::Object(keywords) = schema else { return schema.as_bool().unwrap() };
    let all = |list: &Value, document: &Value| {
        list.as_array().unwrap().iter().filter(|schema| fits(schema, document, whole)).count()
    };
    let is_a = |name: &Value| match name.as_str().unwrap() {
        "object" => document.is_object(),
        "array" => document.is_array(),
        "string" => document.is_string(),
        // 3.0 is an integer too, as YAML reads `03`.
        "integer" => document.as_f64().is_some_and(|number| number.fract() == 0.0),
        other => panic!("unknown type {other}"),
    };
    keywords.iter().all(|(keyword, wanted)| match keyword.as_str() {
        "$schema" | "$defs" | "title" | "description" => true,
        "$ref" => {
            let name = wanted.as_str().unwrap().strip_prefix("#/$defs/").unwrap();
            fits(&whole["$defs"][name], document, whole)
        }
        "type" => wanted.as_array().map_or_else(|| is_a(wanted), |names| names.iter().any(is_a)),
        "const" => document == wanted,
        "enum" => wanted.as_array().unwrap().contains(document),
        "oneOf" => all(wanted, document) == 1,
        "anyOf" => all(wanted, document) > 0,
        "allOf" => all(wanted, document) == wanted.as_array().unwrap().len(),
        "not" => !fits(wanted, document, whole),
        "required" => {
            wanted.as_array().unwrap().iter().all(|name| document.get(name.as_str().unwrap()).is_some())
        }
        "properties" => document.as_object().is_none_or(|keys| {
            keys.iter().all(|(key, value)| wanted.get(key).is_none_or(|schema| fits(schema, value, whole)))
        }),
        "additionalProperties" => document.as_object().is_none_or(|keys| {
            let known = |key: &str| keywords.get("properties").is_some_and(|known| known.get(key).is_some());
            keys.iter().all(|(key, value)| known(key) || fits(wanted, value, whole))
        }),
        "minProperties" => {
            document.as_object().is_none_or(|keys| keys.len() as u64 >= wanted.as_u64().unwrap())
        }
        "items" => document.as_array().is_none_or(|items| items.iter().all(|item| fits(wanted, item, whole))),
        "minItems" => document.as_array().is_none_or(|items| items.len() as u64 >= wanted.as_u64().unwrap()),
        "pattern" => {
            let pattern = regex::Regex::new(wanted.as_str().unwrap()).unwrap();
            document.as_str().is_none_or(|text| pattern.is_match(text))
        }
        "minimum" => document.as_f64().is_none_or(|number| number >= wanted.as_f64().unwrap()),
        "maximum" => document.as_f64().is_none_or(|number| number <= wanted.as_f64().unwrap()),
        other => panic!("unknown keyword {other}"),
    })
}

/// With `UPDATE=1` it writes the schema.
#[test]
fn schema_is_up_to_date_and_the_example_is_read() {
    let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy");
    let schema = made();
    let text = serde_json::to_string_pretty(&schema).unwrap() + "\n";
    let path = deploy.join("pools.schema.json");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, &text).unwrap();
    }
    assert!(
        std::fs::read_to_string(&path).unwrap_or_default() == text,
        "the schema is out of date; run UPDATE=1 cargo test -p vfio-device-plugin schema"
    );
    let example = deploy.join("pools-example.yaml");
    let pools = pools_file::read(&example, OfferBy::default()).unwrap();
    assert_eq!(pools.title(0), "nvidia.com/H100");
    assert!(pools.need_parents());
    let document = serde_saphyr::from_str(&std::fs::read_to_string(&example).unwrap()).unwrap();
    assert!(fits(&schema, &document, &schema));
}

#[test]
fn schema_and_reader_accept_the_same_files() {
    let schema = made();
    let pool = |text: &str| format!("pools:\n  - select: [{{}}]\n    {text}\n");
    let selector = |text: &str| format!("pools:\n  - select:\n      - {text}\n");
    let uuid = "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001";
    let name = "x".repeat(63);
    let domain = format!("{}b", "a.".repeat(121));
    let good = [
        pool("resource: nvidia.com/H100"),
        pool(&format!("resource: a/{name}")),
        pool(&format!("resource: {domain}/x")),
        pool("resource: a-b.c/x_y.z-1"),
        pool("backend: both"),
        pool("cdi: annotations"),
        pool("busy: advertise"),
        pool("busy_allocate: substitute"),
        pool("offer: device-plugin"),
        pool(if cfg!(feature = "dra") { "offer: dra" } else { "offer: device-plugin" }),
        pool("alias: {2330: H100, A: \"b.c\", D: 5}"),
        pool("alias: {}"),
        pool("resource: a/b\n    alias: {}"),
        selector("{}"),
        selector("{vendor: 10de, device: 2330, class: 03, numa_node: 1}"),
        selector("{vendor: \"0x10DE\", device: 0x10, class: \"030200\"}"),
        selector("{vendor: 9999, class: 999999}"),
        selector("{driver: mlx5-vfio-pci, group: 0}"),
        selector("{group: 4294967295, numa_node: 65535}"),
        selector("{group: \"5\", numa_node: \"0\"}"),
        selector("{vgpu_type: 1414}"),
        selector("{vgpu_type: nvidia-222}"),
        selector("{address: \"0000:3b:1f.7\"}"),
        selector("{address: \"1abcd:3B:00.0\", parent: \"0000:3b:00.0\"}"),
        selector(&format!("{{address: {uuid}}}")),
    ];
    let bad = [
        "pools:\n".to_owned(),
        "pools: []\n".into(),
        "pools: {}\n".into(),
        "pools: [~]\n".into(),
        "pool: []\n".into(),
        "[]\n".into(),
        "pools:\n  - resource: a.b/c\n".into(),
        "pools:\n  - select: []\n".into(),
        "pools:\n  - select:\n".into(),
        "pools:\n  - select: {}\n".into(),
        pool("resourc: a/b"),
        pool("resource:"),
        pool("resource: GPU"),
        pool("resource: [a/b]"),
        pool("resource: a/-b"),
        pool("resource: -a/b"),
        pool("resource: A/b"),
        pool("resource: a..b/c"),
        pool(&format!("resource: a/{name}x")),
        pool(&format!("resource: {domain}.cd/x")),
        pool("resource: x.kubernetes.io/gpu"),
        pool("resource: requests.a/b"),
        pool("backend:"),
        pool("cdi:"),
        pool("cdi: on"),
        pool("backend: legasy"),
        pool("backend: [legacy]"),
        pool("busy: ~"),
        pool("busy: maybe"),
        pool("busy_allocate:"),
        pool("busy_allocate: swap"),
        pool("offer:"),
        pool("offer: DRA"),
        pool("alias:"),
        pool("alias: [a]"),
        pool("alias: {2330: }"),
        pool("alias: {2330: \"a b\"}"),
        pool("alias: {2330: -1}"),
        pool(&format!("alias: {{2330: {name}x}}")),
        pool("resource: a/b\n    alias: {2330: x}"),
        selector("~"),
        selector("[]"),
        selector("{vendr: 10de}"),
        selector("{vendor: }"),
        selector("{vendor: nvidia}"),
        selector("{vendor: \"\"}"),
        selector("{vendor: -1}"),
        selector("{vendor: 99999}"),
        selector("{vendor: [10de]}"),
        selector("{device: 10de0}"),
        selector("{device: ~}"),
        selector("{class: 0302001a}"),
        selector("{class: \"0x\"}"),
        selector("{class: }"),
        selector("{driver: }"),
        selector("{driver: \"\"}"),
        selector("{driver: \"a b\"}"),
        selector("{address: \"3b:00.0\"}"),
        selector("{address: \"0001abcd:3b:00.0\"}"),
        selector("{address: \"0000:3b:20.0\"}"),
        selector("{address: \"0000:3b:00.8\"}"),
        selector("{address: 51}"),
        selector(&format!("{{address: {uuid}0}}")),
        selector(&format!("{{parent: {uuid}}}")),
        selector("{group: }"),
        selector("{group: -1}"),
        selector("{group: 4294967296}"),
        selector("{group: many}"),
        selector("{group: 1.5}"),
        selector("{vgpu_type: 0}"),
        selector("{vgpu_type: \"0\"}"),
        selector("{vgpu_type: \"\"}"),
        selector("{vgpu_type: }"),
        selector("{vgpu_type: GRID T4-1Q}"),
        selector("{vgpu_type: nvidia/222}"),
        selector("{numa_node: ~}"),
        selector("{numa_node: 65536}"),
        selector("{numa_node: -1}"),
    ];
    for (texts, accepted) in [(&good[..], true), (&bad[..], false)] {
        for text in texts {
            let read = pools_file::parse(text, OfferBy::default());
            assert_eq!(read.is_ok(), accepted, "the reader: {text}: {read:?}");
            let document: Value = serde_saphyr::from_str(text).unwrap();
            assert_eq!(fits(&schema, &document, &schema), accepted, "the schema: {text}: {document}");
        }
    }
}
