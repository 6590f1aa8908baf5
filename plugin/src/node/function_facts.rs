//! Reads the facts from which the policy finds out why a function is not bound to a VFIO driver.

use crate::node::host_uses::HostUses;
use crate::node::sysfs::{attribute, link_name};
use std::path::{Path, PathBuf};
use vfio_plugin_policy::unbound::FunctionFacts;
use vfio_plugin_policy::unbound::host_use::Use;
use vfio_probe::{PciAddress, PidNamespace, Root};

/// Classes and subclasses of the chipset's own bridges: to the CPU, and to ISA, EISA and MCA, or LPC in their place.
const CHIPSET: std::ops::RangeInclusive<u32> = 0x0600..=0x0603;

/// Reads facts of functions. What they share is read once.
#[derive(Debug)]
pub(crate) struct FactsReader {
    pci: PathBuf,
    uses: HostUses,
    /// Whether any function of the host has an IOMMU group.
    any_group: bool,
}

impl FactsReader {
    /// Reads what all functions share. `path` is the root's directory.
    pub(crate) fn new(root: &Root, path: &Path) -> Self {
        let pci = path.join("sys/bus/pci");
        let entries = std::fs::read_dir(pci.join("devices")).into_iter().flatten().flatten();
        let any_group = entries.into_iter().any(|entry| entry.path().join("iommu_group").exists());
        let mut uses = HostUses::read(path);
        // The /proc of a container shows the container's mounts.
        uses.mounts_known &= root.pid_namespace() != PidNamespace::Foreign;
        Self { uses, any_group, pci }
    }

    /// Reads the facts of a function. What cannot be read is missing. None if the function does not exist.
    pub(crate) fn read(&self, address: PciAddress) -> Option<FunctionFacts> {
        // The canonical path, because the search below it follows no links.
        let directory = self.pci.join(format!("devices/{address}")).canonicalize().ok()?;
        let class = attribute(&directory.join("class")).unwrap_or_default();
        let class = u32::from_str_radix(class.trim_start_matches("0x"), 16).unwrap_or(0);
        // sysfs prints `(null)` for an override that is not set (`driver_override_show`).
        let driver_override =
            attribute(&directory.join("driver_override")).filter(|name| !name.is_empty() && name != "(null)");
        let is_name = |name: &&String| !name.contains('/') && !name.starts_with('.');
        let registered = |name: &String| self.pci.join("drivers").join(name).is_dir();
        let is_bridge = class >> 16 == 0x06;
        // What lies below a bridge belongs to other functions.
        let (mut uses, domains_below) =
            if is_bridge { Default::default() } else { self.uses.below(&directory) };
        if CHIPSET.contains(&(class >> 8)) {
            uses.push(Use::Chipset);
        }
        let enabled = attribute(&directory.join("sriov_numvfs")).and_then(|count| count.parse().ok());
        uses.extend(enabled.filter(|count| *count > 0).map(Use::VirtualFunctions));
        Some(FunctionFacts {
            address,
            class,
            driver: link_name(&directory.join("driver")),
            override_is_registered: driver_override.as_ref().filter(is_name).is_some_and(registered),
            driver_override,
            has_group: directory.join("iommu_group").exists(),
            others_have_groups: self.any_group,
            domains_below,
            uses,
            mounts_known: self.uses.mounts_known,
        })
    }
}
