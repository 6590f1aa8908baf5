//! The pools' file: YAML, read whole or not at all, with the place of each mistake.

use super::backend::Backend;
use super::selector::{self, Selector};
use super::{Pool, Pools};
use crate::resources::is_resource;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_saphyr::Spanned;
use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use vfio_probe::{DeviceId, GroupId, PciAddress};

/// More than any list of pools needs, and what a ConfigMap can hold.
const MOST: u64 = 1 << 20;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    pools: Vec<Spanned<WrittenPool>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenPool {
    resource: Option<Spanned<String>>,
    select: Vec<WrittenSelector>,
    #[serde(default)]
    backend: Backend,
    #[serde(default)]
    alias: BTreeMap<String, Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenSelector {
    #[serde(default, deserialize_with = "pci_id")]
    vendor: Option<u16>,
    #[serde(default, deserialize_with = "pci_id")]
    device: Option<u16>,
    #[serde(default, deserialize_with = "class")]
    class: String,
    driver: Option<String>,
    #[serde(default, deserialize_with = "device_id")]
    address: Option<DeviceId>,
    group: Option<u32>,
    #[serde(default, deserialize_with = "pci_address")]
    parent: Option<PciAddress>,
    numa_node: Option<u16>,
}

fn parsed<'de, D: Deserializer<'de>, T>(
    from: D,
    parse: impl Fn(&str) -> Option<T>,
    expected: &str,
) -> Result<T, D::Error> {
    let text = String::deserialize(from)?;
    parse(&text).ok_or_else(|| D::Error::custom(format!("{text:?}: expected {expected}")))
}

fn pci_id<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u16>, D::Error> {
    parsed(from, selector::hex, "up to 4 hex digits, like 10de").map(Some)
}

fn class<'de, D: Deserializer<'de>>(from: D) -> Result<String, D::Error> {
    parsed(from, selector::class, "up to 6 hex digits, like 03 or 030200")
}

fn device_id<'de, D: Deserializer<'de>>(from: D) -> Result<Option<DeviceId>, D::Error> {
    parsed(from, |text| text.parse().ok(), "a PCI address like 0000:3b:00.0 or an mdev uuid").map(Some)
}

fn pci_address<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PciAddress>, D::Error> {
    parsed(from, |text| PciAddress::parse(text.as_bytes()), "a PCI address like 0000:3b:00.0").map(Some)
}

/// What is wrong with a file, and where.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Mistake {
    /// 1 is the first line; 0 where it is about the whole file.
    line: u64,
    text: String,
}

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.line > 0 {
            write!(f, "line {}: ", self.line)?;
        }
        f.write_str(&self.text)
    }
}

impl std::error::Error for Mistake {}

/// Reads the file. Bounded: what is longer than 1 MiB is no list of pools.
///
/// # Errors
/// It cannot be read, or says something that is not understood: then nothing of it is taken.
pub(crate) fn read(path: &Path) -> Result<Pools, Mistake> {
    let whole = |text: String| Mistake { line: 0, text };
    let length = std::fs::metadata(path).map_err(|error| whole(error.to_string()))?;
    if !length.is_file() || length.len() > MOST {
        return Err(whole("expected a file of at most 1 MiB".to_owned()));
    }
    parse(&std::fs::read_to_string(path).map_err(|error| whole(error.to_string()))?)
}

/// Reads the text of a file.
pub(crate) fn parse(text: &str) -> Result<Pools, Mistake> {
    let options = serde_saphyr::options! { with_snippet: false };
    let file: File = serde_saphyr::from_str_with_options(text, options).map_err(|error| {
        let line = error.location().map_or(0, |location| location.line());
        Mistake { line, text: without_place(&error.to_string()) }
    })?;
    if file.pools.is_empty() {
        return Err(Mistake { line: 1, text: "expected at least one pool".to_owned() });
    }
    let mut names: Vec<String> = Vec::new();
    let mut pools = Vec::new();
    for written in file.pools {
        let line = written.defined.line();
        let WrittenPool { resource, select, backend, alias } = written.value;
        if select.is_empty() {
            let text = "expected `select` with at least one selector; `- {}` selects everything".to_owned();
            return Err(Mistake { line, text });
        }
        if let Some(resource) = &resource {
            check(resource, is_resource, "a resource that the kubelet takes, like nvidia.com/H100")?;
            if names.contains(&resource.value) {
                let text = format!(
                    "{:?}: a second pool of that resource; put its selectors into the first",
                    resource.value
                );
                return Err(Mistake { line: resource.defined.line(), text });
            }
            names.push(resource.value.clone());
        }
        for name in alias.values() {
            let usable = |name: &str| is_resource(&format!("nvidia.com/{name}"));
            check(name, usable, "letters, digits, - _ . with a letter or digit at both ends, at most 63")?;
        }
        pools.push(Pool {
            resource: resource.map(|resource| resource.value),
            select: select.into_iter().map(WrittenSelector::meant).collect(),
            backend,
            alias: alias.into_iter().map(|(model, name)| (model, name.value)).collect(),
        });
    }
    Ok(Pools::new(pools))
}

fn check(text: &Spanned<String>, fits: impl Fn(&str) -> bool, expected: &str) -> Result<(), Mistake> {
    if fits(&text.value) {
        return Ok(());
    }
    Err(Mistake { line: text.defined.line(), text: format!("{:?}: expected {expected}", text.value) })
}

/// The parser's own words, without the place that we put before them.
fn without_place(text: &str) -> String {
    let text = text.lines().next().unwrap_or_default();
    let text = text.strip_prefix("error: ").unwrap_or(text);
    match text.split_once(": ") {
        Some((place, rest)) if place.starts_with("line ") => rest.to_owned(),
        _ => text.split(" at line ").next().unwrap_or(text).to_owned(),
    }
}

impl WrittenSelector {
    fn meant(self) -> Selector {
        let Self { vendor, device, class, driver, address, group, parent, numa_node } = self;
        Selector { vendor, device, class, driver, address, group: group.map(GroupId), parent, numa_node }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read() {
        let pools = parse(
            "# GPUs by name, what else there is by its own\n\
             pools:\n\
             \x20 - resource: nvidia.com/H100\n\
             \x20   select:\n\
             \x20     - {vendor: 10de, device: 2330}\n\
             \x20     - {vendor: 10de, device: 0123, class: 0302, driver: vfio-pci, numa_node: 1}\n\
             \x20   backend: both\n\
             \x20 - select:\n\
             \x20     - {address: \"0000:3b:00.0\", group: 51, parent: \"0000:3b:00.1\"}\n\
             \x20   alias: {2331: H200}\n",
        )
        .unwrap();
        let selector = |text: &str| text.parse::<Selector>().unwrap();
        let expected = Pools::new(vec![
            Pool {
                resource: Some("nvidia.com/H100".into()),
                select: vec![
                    selector("10de:2330"),
                    Selector {
                        driver: Some("vfio-pci".into()),
                        numa_node: Some(1),
                        ..selector("10de:0123/0302")
                    },
                ],
                backend: Backend::Both,
                alias: BTreeMap::new(),
            },
            Pool {
                select: vec![Selector {
                    address: "0000:3b:00.0".parse().ok(),
                    group: Some(GroupId(51)),
                    parent: PciAddress::parse(b"0000:3b:00.1"),
                    ..Selector::default()
                }],
                alias: BTreeMap::from([("2331".into(), "H200".into())]),
                ..Pool::default()
            },
        ]);
        assert_eq!(pools, expected);
        assert!(pools.need_parents());
    }

    #[test]
    fn each_mistake_has_its_line_and_what_was_expected() {
        let pool = |text: &str| format!("pools:\n  - select: [{{}}]\n    {text}\n");
        let selector = |text: &str| format!("pools:\n  - select:\n      - {text}\n");
        for (text, expected) in [
            (String::new(), "line 1: unexpected end of input"),
            ("pools: []\n".into(), "line 1: expected at least one pool"),
            ("pools: 3\n".into(), "line 1: expected sequence start"),
            ("pool: []\n".into(), "line 1: unknown field `pool`"),
            (pool("resourc: a/b"), "line 3: unknown field `resourc`, expected one of"),
            (pool("backend: legasy"), "line 3: "),
            (pool("resource: GPU"), "line 3: \"GPU\": expected a resource that the kubelet takes"),
            (pool("resource: nvidia.com/-"), "line 3: \"nvidia.com/-\": expected a resource"),
            (pool("resource: kubernetes.io/gpu"), "line 3: \"kubernetes.io/gpu\": expected a resource"),
            (pool("alias: {2330: \"a b\"}"), "line 3: \"a b\": expected letters, digits"),
            (selector("{vendor: nvidia}"), "line 3: \"nvidia\": expected up to 4 hex digits"),
            (selector("{class: 0302001}"), "line 3: \"0302001\": expected up to 6 hex digits"),
            (selector("{address: 3b:00.0}"), "line 3: \"3b:00.0\": expected a PCI address"),
            (selector("{parent: x}"), "line 3: \"x\": expected a PCI address"),
            (selector("{group: many}"), "line 3: "),
            (selector("{numa_node: -1}"), "line 3: "),
            ("pools:\n  - select: []\n".into(), "line 2: expected `select` with at least one selector"),
            ("pools:\n  - resource: a.b/c\n".into(), "line 2: missing field `select`"),
            (
                "pools:\n  - {resource: a.b/c, select: [{}]}\n  - {resource: a.b/c, select: [{}]}\n".into(),
                "line 3: \"a.b/c\": a second pool of that resource",
            ),
            ("pools: [\n".into(), "line 1: "),
        ] {
            let mistake = parse(&text).unwrap_err().to_string();
            assert!(
                mistake.starts_with(expected) && mistake.len() < 200,
                "{text:?}: {mistake:?}, not {expected:?}"
            );
            assert!(mistake.len() > "line 3: ".len() && !mistake.contains('\n'), "{mistake:?}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text: String) {
            let _ = parse(&text);
        }
    }
}
