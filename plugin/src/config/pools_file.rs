//! The pools' file: YAML, read whole or not at all, with the place of each mistake.

use crate::config::pools_error::PoolsError;
#[cfg(test)]
use crate::config::schema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_saphyr::Spanned;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;
use vfio_plugin_policy::pools::backend::Backend;
use vfio_plugin_policy::pools::resource_name::{env_name, is_resource, of_one_variable};
use vfio_plugin_policy::pools::selector::{Selector, VgpuType};
use vfio_plugin_policy::pools::terms::{Busy, BusyAllocate, Cdi, Terms};
use vfio_plugin_policy::pools::{Pool, Pools, selector};
use vfio_probe::text::DriverName;
use vfio_probe::{DeviceId, GroupId, PciAddress};

/// More than any list of pools needs. Reading takes time by the length, and is done while devices are watched.
const MOST: u64 = 64 << 10;
/// The parser calls itself as deep as a document nests, which is deeper than a stack that was not made for it; a list of pools
/// nests to 5.
const STACK: usize = 4 << 20;
const DEPTH: usize = 16;
/// Pools of devices; the first that selects a device has it.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(super) struct PoolsFile {
    /// At least one.
    #[cfg_attr(test, schemars(with = "Vec<WrittenPool>", length(min = 1)))]
    pools: Vec<Spanned<WrittenPool>>,
}

/// Devices that are offered alike.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(
    test,
    schemars(extend("not" = {"required": ["resource", "alias"], "properties": {"alias": {"minProperties": 1}}}))
)]
#[serde(deny_unknown_fields)]
struct WrittenPool {
    /// The resource of all its devices, like nvidia.com/H100; left out, each model has its own.
    #[serde(default, deserialize_with = "said")]
    #[cfg_attr(test, schemars(schema_with = "schema::resource"))]
    resource: Option<Spanned<String>>,
    /// A device is in the pool if one of these fits.
    #[cfg_attr(test, schemars(length(min = 1)))]
    select: Vec<WrittenSelector>,
    /// By which device nodes a machine is given the devices.
    #[serde(default)]
    backend: Backend,
    /// What the kubelet is told of a held device; left out, what --busy says.
    #[serde(default, deserialize_with = "said")]
    #[cfg_attr(test, schemars(with = "Busy"))]
    busy: Option<Busy>,
    /// What Allocate does with a device that is held after all; left out, what --busy-allocate says.
    #[serde(default, deserialize_with = "said")]
    #[cfg_attr(test, schemars(with = "BusyAllocate"))]
    busy_allocate: Option<BusyAllocate>,
    /// Whether container runtimes find the devices by CDI too, and how they are told the names.
    #[serde(default)]
    cdi: Cdi,
    /// Other names for models: from the name that a model would have, or its hex id; of a vGPU's type, its folder or number.
    #[serde(default)]
    #[cfg_attr(test, schemars(schema_with = "schema::alias"))]
    alias: BTreeMap<String, Spanned<String>>,
}

/// What a device has to be like: all that is said must fit, and nothing said fits everything.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
struct WrittenSelector {
    /// PCI vendor id in hex.
    #[serde(default, deserialize_with = "pci_id")]
    #[cfg_attr(test, schemars(schema_with = "schema::pci_id"))]
    vendor: Option<u16>,
    /// PCI device id in hex.
    #[serde(default, deserialize_with = "pci_id")]
    #[cfg_attr(test, schemars(schema_with = "schema::pci_id"))]
    device: Option<u16>,
    /// Leading hex digits of the PCI class: 03 is every display controller.
    #[serde(default, deserialize_with = "class")]
    #[cfg_attr(test, schemars(schema_with = "schema::class"))]
    class: String,
    /// The VFIO driver; - and _ are the same in it.
    #[serde(default, deserialize_with = "driver")]
    #[cfg_attr(test, schemars(schema_with = "schema::driver"))]
    driver: Option<String>,
    /// PCI address or mdev uuid.
    #[serde(default, deserialize_with = "device_id")]
    #[cfg_attr(test, schemars(schema_with = "schema::device_id"))]
    address: Option<DeviceId>,
    /// IOMMU group.
    #[serde(default, deserialize_with = "group")]
    #[cfg_attr(test, schemars(schema_with = "schema::group"))]
    group: Option<GroupId>,
    /// PCI address of the physical function of a virtual one, or of a mediated device's parent.
    #[serde(default, deserialize_with = "pci_address")]
    #[cfg_attr(test, schemars(schema_with = "schema::pci_address"))]
    parent: Option<PciAddress>,
    /// NUMA node.
    #[serde(default, deserialize_with = "numa_node")]
    #[cfg_attr(test, schemars(schema_with = "schema::numa_node"))]
    numa_node: Option<u16>,
    /// Type of a vGPU: a mediated device's folder, like nvidia-222, or a virtual function's current_vgpu_type, like 1414.
    #[serde(default, deserialize_with = "vgpu_type")]
    #[cfg_attr(test, schemars(schema_with = "schema::vgpu_type"))]
    vgpu_type: Option<String>,
}

/// What may be left out, but not said to be nothing: a selector with `driver:` and no more would fit every device.
fn said<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
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

fn driver<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let name =
        |text: &str| DriverName::new(text.as_bytes()).filter(|name| !name.is_empty() && !text.contains(' '));
    parsed(from, |text| name(text).map(|name| name.to_string()), "a driver's name, like vfio-pci").map(Some)
}

fn vgpu_type<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let kind = |text: &str| {
        let valid = !text.is_empty() && text != "0" && !text.contains([' ', '/']);
        VgpuType::new(text.as_bytes()).filter(|_| valid).map(|kind| kind.to_string())
    };
    parsed(from, kind, "a type's folder or number, like nvidia-222 or 1414").map(Some)
}

fn group<'de, D: Deserializer<'de>>(from: D) -> Result<Option<GroupId>, D::Error> {
    parsed(from, |text| text.parse().ok(), "a group's number, like 51").map(Some)
}

fn numa_node<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u16>, D::Error> {
    parsed(from, |text| text.parse().ok(), "a node's number, like 0").map(Some)
}

fn device_id<'de, D: Deserializer<'de>>(from: D) -> Result<Option<DeviceId>, D::Error> {
    parsed(from, |text| text.parse().ok(), "a PCI address like 0000:3b:00.0 or an mdev uuid").map(Some)
}

fn pci_address<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PciAddress>, D::Error> {
    parsed(from, |text| PciAddress::parse(text.as_bytes()), "a PCI address like 0000:3b:00.0").map(Some)
}

/// Reads the file. Bounded: what is longer than 64 KiB is no list of pools. In a thread of its own, for its stack.
///
/// # Errors
/// It cannot be read, or says something that is not understood: then nothing of it is taken.
pub(crate) fn read(path: &Path) -> Result<Pools, PoolsError> {
    let file = std::fs::File::open(path).map_err(|error| PoolsError::whole(&error))?;
    let is_file = file.metadata().is_ok_and(|metadata| metadata.is_file());
    let mut text = String::new();
    let read = if is_file { file.take(MOST + 1).read_to_string(&mut text) } else { Ok(0) };
    read.map_err(|error| PoolsError::whole(&error))?;
    if !is_file || text.len() as u64 > MOST {
        return Err(PoolsError::whole(&"expected a file of at most 64 KiB"));
    }
    let thread = std::thread::Builder::new().name("pools".into()).stack_size(STACK);
    let reader = thread.spawn(move || parse(&text)).map_err(|error| PoolsError::whole(&error))?;
    reader.join().unwrap_or_else(|_panic| Err(PoolsError::whole(&"the parser failed")))
}

/// Reads the text of a file.
pub(super) fn parse(text: &str) -> Result<Pools, PoolsError> {
    let options = serde_saphyr::options! {
        with_snippet: false,
        budget: serde_saphyr::budget! { max_depth: DEPTH },
    };
    let file: PoolsFile =
        serde_saphyr::from_str_with_options(text, options).map_err(|error| PoolsError::of_parser(&error))?;
    if file.pools.is_empty() {
        return Err(PoolsError::at(1, "expected at least one pool"));
    }
    let mut names: Vec<String> = Vec::new();
    let mut pools = Vec::new();
    for written in file.pools {
        let line = written.defined.line();
        let WrittenPool { resource, select, backend, busy, busy_allocate, cdi, alias } = written.value;
        if select.is_empty() {
            let text = "expected `select` with at least one selector; `- {}` selects everything";
            return Err(PoolsError::at(line, text));
        }
        if let Some(resource) = &resource {
            check(resource, is_resource, "a resource that the kubelet takes, like nvidia.com/H100")?;
            if names.contains(&resource.value) {
                let text = format!(
                    "{:?}: a second pool of that resource; put its selectors into the first",
                    resource.value
                );
                return Err(PoolsError::at(resource.defined.line(), text));
            }
            names.push(resource.value.clone());
            if let Some((first, second)) = of_one_variable(names.iter().map(String::as_str)).next() {
                let text = format!(
                    "{second:?}: expected a name that differs from {first} in more than case, _ and .: addresses of both would be in {}",
                    env_name(second, false)
                );
                return Err(PoolsError::at(resource.defined.line(), text));
            }
        }
        if let (Some(resource), Some((_, name))) = (&resource, alias.first_key_value()) {
            let text = format!(
                "expected no `alias` beside `resource: {}`, which names all devices of the pool",
                resource.value
            );
            return Err(PoolsError::at(name.defined.line(), text));
        }
        let mut ids: BTreeMap<u16, &str> = BTreeMap::new();
        for (key, name) in &alias {
            if let Some(first) = selector::hex(key).and_then(|id| ids.insert(id, key)) {
                let text = format!("{key:?}: the same id as {first:?}; expected one of them");
                return Err(PoolsError::at(name.defined.line(), text));
            }
            let usable = |name: &str| is_resource(&format!("nvidia.com/{name}"));
            check(name, usable, "letters, digits, - _ . with a letter or digit at both ends, at most 63")?;
        }
        pools.push(Pool {
            resource: resource.map(|resource| resource.value.into()),
            select: select.into_iter().map(WrittenSelector::meant).collect(),
            terms: Terms { backend, busy, busy_allocate, cdi },
            alias: alias.into_iter().map(|(model, name)| (model, name.value)).collect(),
        });
    }
    Ok(Pools::new(pools))
}

fn check(text: &Spanned<String>, fits: impl Fn(&str) -> bool, expected: &str) -> Result<(), PoolsError> {
    if fits(&text.value) {
        return Ok(());
    }
    Err(PoolsError::at(text.defined.line(), format!("{:?}: expected {expected}", text.value)))
}

impl WrittenSelector {
    fn meant(self) -> Selector {
        let Self { vendor, device, class, driver, address, group, parent, numa_node, vgpu_type } = self;
        Selector { vendor, device, class, driver, address, group, parent, numa_node, vgpu_type }
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
             \x20   busy: unhealthy\n\
             \x20   busy_allocate: substitute\n\
             \x20   cdi: annotations\n\
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
                terms: Terms {
                    backend: Backend::Both,
                    busy: Some(Busy::Unhealthy),
                    busy_allocate: Some(BusyAllocate::Substitute),
                    cdi: Cdi::Annotations,
                },
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
            (String::new(), "line 1: the file ends: expected `pools:`"),
            ("pools: []\n".into(), "line 1: expected at least one pool"),
            ("pools: 3\n".into(), "line 1: expected a list"),
            ("pool: []\n".into(), "line 1: unknown field `pool`"),
            (pool("resourc: a/b"), "line 3: unknown field `resourc`, expected one of"),
            (pool("backend: legasy"), "line 3: \"legasy\": expected one of legacy, iommufd, both, auto"),
            (pool("backend:"), "line 3: \"~\": expected one of legacy"),
            (pool("backend: [auto]"), "line 3: expected one value, neither a list nor keys"),
            (pool("busy: maybe"), "line 3: \"maybe\": expected one of attributed, unhealthy, advertise"),
            (pool("busy_allocate: swap"), "line 3: \"swap\": expected one of reject, substitute"),
            (pool("resource:"), "line 3: there is no value: expected one, or the key left out, too"),
            (pool("resource: {a: b}"), "line 3: expected one value"),
            (pool("select: [{}]"), "line 3: \"select\" is there twice: expected each key once"),
            (pool("alias: x"), "line 3: expected keys with their values"),
            (pool("cdi: on"), "line 3: \"on\": expected one of none, devices, annotations"),
            (pool("resource: GPU"), "line 3: \"GPU\": expected a resource that the kubelet takes"),
            (pool("resource: nvidia.com/-"), "line 3: \"nvidia.com/-\": expected a resource"),
            (pool("resource: kubernetes.io/gpu"), "line 3: \"kubernetes.io/gpu\": expected a resource"),
            (
                "pools:\n  - {resource: a.b/c, alias: {2330: d}, select: [{}]}\n".into(),
                "line 2: expected no `alias` beside `resource: a.b/c`",
            ),
            (selector("{class: \"\"}"), "line 3: \"\": expected up to 6 hex digits"),
            (selector("{class: 0x}"), "line 3: \"0x\": expected up to 6 hex digits"),
            (pool("alias: {2330: \"a b\"}"), "line 3: \"a b\": expected letters, digits"),
            (
                pool("alias: {20b0: a, 0x20B0: b}"),
                "line 3: \"20b0\": the same id as \"0x20B0\"; expected one",
            ),
            (selector("{vendor: nvidia}"), "line 3: \"nvidia\": expected up to 4 hex digits"),
            (selector("{class: 0302001}"), "line 3: \"0302001\": expected up to 6 hex digits"),
            (selector("{address: 3b:00.0}"), "line 3: \"3b:00.0\": expected a PCI address"),
            (selector("{parent: x}"), "line 3: \"x\": expected a PCI address"),
            (selector("{group: many}"), "line 3: \"many\": expected a group's number, like 51"),
            (selector("{vgpu_type: 0}"), "line 3: \"0\": expected a type's folder or number"),
            (selector("{numa_node: -1}"), "line 3: \"-1\": expected a node's number, like 0"),
            (selector("{driver: }"), "line 3: there is no value: expected one"),
            (selector("{driver: \"\"}"), "line 3: \"\": expected a driver's name, like vfio-pci"),
            (selector("x"), "line 3: expected keys with their values, like `vendor: 10de`"),
            (selector("{vendr: 1}"), "line 3: unknown field `vendr`, expected one of vendor, device, class"),
            ("pools:\n\t- select: [{}]\n".into(), "line 2: a tab before the text: expected spaces"),
            (
                "pools: [{select: [{}]}]\n---\npools: []\n".into(),
                "line 3: another document begins: expected one",
            ),
            ("pools:\n  - select: []\n".into(), "line 2: expected `select` with at least one selector"),
            ("pools:\n  - resource: a.b/c\n".into(), "line 2: missing field `select`: expected"),
            (
                "pools:\n  - {resource: a.b/c, select: [{}]}\n  - {resource: a.b/c, select: [{}]}\n".into(),
                "line 3: \"a.b/c\": a second pool of that resource",
            ),
            (
                "pools:\n  - {resource: a.b/c.d, select: [{}]}\n  - {resource: a.b/C_d, select: [{}]}\n"
                    .into(),
                "line 3: \"a.b/C_d\": expected a name that differs from a.b/c.d in more than case",
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

    /// What nests deeper than the parser's stack, and what is valid and nests by merging.
    #[test]
    fn no_nesting_ends_the_program() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("pools.yaml");
        let deep =
            |begin: &str, end: &str, times: usize| format!("{}{}", begin.repeat(times), end.repeat(times));
        for text in [
            format!("<<: {}", deep("{a: ", "}", 990)),
            format!("pools: {}", deep("[", "]", 20_000)),
            format!("pools: {}", deep("{<<: ", "}", 58)),
            "- ".repeat(30_000),
        ] {
            std::fs::write(&path, &text).unwrap();
            // Where the watching of devices would read it.
            let thread = std::thread::Builder::new().stack_size(256 * 1024);
            let path = path.clone();
            let mistake = thread.spawn(move || read(&path)).unwrap().join().unwrap().unwrap_err().to_string();
            assert!(mistake.len() < 250, "{mistake}");
        }
        std::fs::write(&path, "#".repeat(70_000)).unwrap();
        assert_eq!(read(&path).unwrap_err().to_string(), "expected a file of at most 64 KiB");
    }

    proptest::proptest! {
        #[test]
        fn no_text_panics(text: String) {
            let _ = parse(&text);
        }
    }
}
