//! The pools file as it is written, with the line of each value that is checked later.

#[cfg(test)]
use crate::config::schema;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use serde_saphyr::Spanned;
use std::collections::BTreeMap;
use vfio_plugin_policy::pools::backend::Backend;
use vfio_plugin_policy::pools::selector;
use vfio_plugin_policy::pools::selector::VgpuType;
use vfio_plugin_policy::pools::terms::{Busy, BusyAllocate, Cdi, OfferBy};
use vfio_probe::text::DriverName;
use vfio_probe::{DeviceId, GroupId, PciAddress};

// The comments of the types and fields are the descriptions in deploy/pools.schema.json.

/// Pools of devices. The first pool that selects a device offers it.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(deny_unknown_fields)]
pub(in crate::config) struct PoolsFile {
    /// The pools, at least one.
    #[cfg_attr(test, schemars(with = "Vec<RawPool>", length(min = 1)))]
    pub(super) pools: Vec<Spanned<RawPool>>,
}

/// Devices that are offered alike.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(
    test,
    schemars(
        rename = "Pool",
        extend("not" = {"required": ["resource", "alias"], "properties": {"alias": {"minProperties": 1}}})
    )
)]
#[serde(deny_unknown_fields)]
pub(super) struct RawPool {
    /// The name of the resource, like nvidia.com/H100. Without it, each model is a resource of its own.
    #[serde(default, deserialize_with = "not_null")]
    #[cfg_attr(test, schemars(schema_with = "schema::resource"))]
    pub(super) resource: Option<Spanned<String>>,
    /// The pool selects a device if one of these selectors does.
    #[cfg_attr(test, schemars(length(min = 1)))]
    pub(super) select: Vec<RawSelector>,
    /// How the devices are offered. The default is --offer.
    #[serde(default, deserialize_with = "not_null")]
    #[cfg_attr(test, schemars(with = "OfferBy"))]
    pub(super) offer: Option<OfferBy>,
    /// Which device nodes a container receives.
    #[serde(default)]
    pub(super) backend: Backend,
    /// Health that the kubelet receives for a held device. The default is --busy.
    #[serde(default, deserialize_with = "not_null")]
    #[cfg_attr(test, schemars(with = "Busy"))]
    pub(super) busy: Option<Busy>,
    /// What Allocate does with a held device. The default is --busy-allocate.
    #[serde(default, deserialize_with = "not_null")]
    #[cfg_attr(test, schemars(with = "BusyAllocate"))]
    pub(super) busy_allocate: Option<BusyAllocate>,
    /// Whether container runtimes find the devices by CDI name too, and where they read the names.
    #[serde(default)]
    pub(super) cdi: Cdi,
    /// Other names for models, in a pool without `resource`. A key is the name that a model would have, its hex id, or a vGPU type by
    /// its name, directory or number.
    #[serde(default)]
    #[cfg_attr(test, schemars(schema_with = "schema::alias"))]
    pub(super) alias: BTreeMap<String, Spanned<String>>,
}

/// Selects the devices that match all of its keys. Without keys it selects every device.
#[derive(Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[cfg_attr(test, schemars(rename = "Selector"))]
#[serde(deny_unknown_fields)]
pub(super) struct RawSelector {
    /// PCI vendor id in hex.
    #[serde(default, deserialize_with = "pci_id")]
    #[cfg_attr(test, schemars(schema_with = "schema::pci_id"))]
    pub(super) vendor: Option<u16>,
    /// PCI device id in hex.
    #[serde(default, deserialize_with = "pci_id")]
    #[cfg_attr(test, schemars(schema_with = "schema::pci_id"))]
    pub(super) device: Option<u16>,
    /// Leading hex digits of the PCI class: 03 is every display controller.
    #[serde(default, deserialize_with = "class")]
    #[cfg_attr(test, schemars(schema_with = "schema::class"))]
    pub(super) class: String,
    /// The VFIO driver's name; - and _ are the same in it.
    #[serde(default, deserialize_with = "driver")]
    #[cfg_attr(test, schemars(schema_with = "schema::driver"))]
    pub(super) driver: Option<String>,
    /// PCI address or mdev uuid.
    #[serde(default, deserialize_with = "device_id")]
    #[cfg_attr(test, schemars(schema_with = "schema::device_id"))]
    pub(super) address: Option<DeviceId>,
    /// IOMMU group number, which a reboot may change.
    #[serde(default, deserialize_with = "group")]
    #[cfg_attr(test, schemars(schema_with = "schema::group"))]
    pub(super) group: Option<GroupId>,
    /// PCI address of a virtual function's physical function, or of a mediated device's parent.
    #[serde(default, deserialize_with = "pci_address")]
    #[cfg_attr(test, schemars(schema_with = "schema::pci_address"))]
    pub(super) parent: Option<PciAddress>,
    /// NUMA node. A device without a known node does not match.
    #[serde(default, deserialize_with = "numa_node")]
    #[cfg_attr(test, schemars(schema_with = "schema::numa_node"))]
    pub(super) numa_node: Option<u16>,
    /// A vGPU's type: a mediated device's directory, like nvidia-222, or a virtual function's current_vgpu_type, like 1414.
    #[serde(default, deserialize_with = "vgpu_type")]
    #[cfg_attr(test, schemars(schema_with = "schema::vgpu_type"))]
    pub(super) vgpu_type: Option<String>,
}

/// Deserializes a value that may be missing but not null: a selector with `driver:` alone would match every device.
fn not_null<'de, D: Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

/// Deserializes a text and parses it; `expected` is for the error.
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
    parsed(from, |text| name(text).map(|name| name.to_string()), "a driver name, like vfio-pci").map(Some)
}

fn vgpu_type<'de, D: Deserializer<'de>>(from: D) -> Result<Option<String>, D::Error> {
    let number = |text: &str| {
        let valid = !text.is_empty() && text != "0" && !text.contains([' ', '/']);
        VgpuType::new(text.as_bytes()).filter(|_| valid).map(|number| number.to_string())
    };
    parsed(from, number, "a vGPU type's directory or number, like nvidia-222 or 1414").map(Some)
}

fn group<'de, D: Deserializer<'de>>(from: D) -> Result<Option<GroupId>, D::Error> {
    parsed(from, |text| text.parse().ok(), "an IOMMU group number, like 51").map(Some)
}

fn numa_node<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u16>, D::Error> {
    parsed(from, |text| text.parse().ok(), "a NUMA node number, like 0").map(Some)
}

fn device_id<'de, D: Deserializer<'de>>(from: D) -> Result<Option<DeviceId>, D::Error> {
    parsed(from, |text| text.parse().ok(), "a PCI address like 0000:3b:00.0 or an mdev uuid").map(Some)
}

fn pci_address<'de, D: Deserializer<'de>>(from: D) -> Result<Option<PciAddress>, D::Error> {
    parsed(from, |text| PciAddress::parse(text.as_bytes()), "a PCI address like 0000:3b:00.0").map(Some)
}
