//! The pools file as the schema shows it. The comments of the types and fields are the descriptions in
//! deploy/pools.schema.json. The reader is in config/pools_file.

#![allow(dead_code, reason = "only their schema is used")]

use schemars::JsonSchema;
use std::collections::BTreeMap;
use vfio_plugin_policy::pools::backend::Backend;
use vfio_plugin_policy::pools::terms::{Busy, BusyAllocate, Cdi, OfferBy};

/// Pools of devices. The first pool that selects a device offers it.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
pub(super) struct PoolsFile {
    /// The pools, at least one.
    #[schemars(length(min = 1))]
    pools: Vec<Pool>,
}

/// Devices that are offered alike.
#[derive(JsonSchema)]
#[schemars(
    deny_unknown_fields,
    extend("not" = {"required": ["resource", "alias"], "properties": {"alias": {"minProperties": 1}}})
)]
struct Pool {
    /// The name of the resource, like nvidia.com/H100. Without it, each model is a resource of its own.
    #[schemars(default, schema_with = "super::resource")]
    resource: Option<String>,
    /// The pool selects a device if one of these selectors does.
    #[schemars(length(min = 1))]
    select: Vec<Selector>,
    /// How the devices are offered. The default is --offer.
    #[schemars(default, with = "OfferBy")]
    offer: Option<OfferBy>,
    /// Which device nodes a container receives.
    #[schemars(default)]
    backend: Backend,
    /// Health that the kubelet receives for a held device. The default is --busy.
    #[schemars(default, with = "Busy")]
    busy: Option<Busy>,
    /// What Allocate does with a held device. The default is --busy-allocate.
    #[schemars(default, with = "BusyAllocate")]
    busy_allocate: Option<BusyAllocate>,
    /// Whether container runtimes find the devices by CDI name too, and where they read the names.
    #[schemars(default)]
    cdi: Cdi,
    /// Other names for models, in a pool without `resource`. A key is the name that a model would have, its hex id, or a vGPU type by
    /// its name, directory or number.
    #[schemars(default, schema_with = "super::alias")]
    alias: BTreeMap<String, String>,
}

/// Selects the devices that match all of its keys. Without keys it selects every device.
#[derive(JsonSchema)]
#[schemars(deny_unknown_fields)]
struct Selector {
    /// PCI vendor id in hex.
    #[schemars(default, schema_with = "super::pci_id")]
    vendor: Option<String>,
    /// PCI device id in hex.
    #[schemars(default, schema_with = "super::pci_id")]
    device: Option<String>,
    /// Leading hex digits of the PCI class: 03 is every display controller.
    #[schemars(default, schema_with = "super::class")]
    class: Option<String>,
    /// The VFIO driver's name; - and _ are the same in it.
    #[schemars(default, schema_with = "super::driver")]
    driver: Option<String>,
    /// PCI address or mdev uuid.
    #[schemars(default, schema_with = "super::device_id")]
    address: Option<String>,
    /// IOMMU group number, which a reboot may change.
    #[schemars(default, schema_with = "super::group")]
    group: Option<String>,
    /// PCI address of a virtual function's physical function, or of a mediated device's parent.
    #[schemars(default, schema_with = "super::pci_address")]
    parent: Option<String>,
    /// NUMA node. A device without a known node does not match.
    #[schemars(default, schema_with = "super::numa_node")]
    numa_node: Option<String>,
    /// A vGPU's type: a mediated device's directory, like nvidia-222, or a virtual function's current_vgpu_type, like 1414.
    #[schemars(default, schema_with = "super::vgpu_type")]
    vgpu_type: Option<String>,
}
