//! Decides why a PCI function is not bound to a VFIO driver, and whether the host can do without it.
//!
//! The plugin reads [`FunctionFacts`] from sysfs; `doctor` puts the result into words. No advice is better than advice that takes
//! the host's boot disk or its only network interface away.

pub mod host_use;

use host_use::{Need, Use, shortened};
use vfio_probe::PciAddress;
use vfio_probe::device::is_vfio_driver;

/// Domains above this one are created by the kernel, such as those of Intel VMD (`vmd_find_free_domain` starts at 0x10000).
const LAST_FIRMWARE_DOMAIN: u32 = 0xffff;
/// Classes and subclasses of the bridges that have no normal header: PCI-to-PCI, CardBus and semi-transparent.
const BRIDGES: [u32; 3] = [0x0604, 0x0607, 0x0609];

/// Names of modules that no driver has: the driver of the module vfio_pci is `vfio-pci`. As an override they match nothing.
const MODULES: [&str; 3] = ["vfio", "vfio_pci", "vfio_pci_core"];

/// What sysfs shows of a function.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FunctionFacts {
    /// The function.
    pub address: PciAddress,
    /// Its class, 24 bits.
    pub class: u32,
    /// The driver that it is bound to.
    pub driver: Option<String>,
    /// Its `driver_override`. None if it is not set.
    pub driver_override: Option<String>,
    /// Whether the driver that `driver_override` names is registered. False without one.
    pub override_is_registered: bool,
    /// Whether the function has an IOMMU group.
    pub has_group: bool,
    /// Whether any function of the host has an IOMMU group.
    pub others_have_groups: bool,
    /// PCI domains whose root bus lies below the function.
    pub domains_below: Vec<u32>,
    /// What the host has through the function.
    pub uses: Vec<Use>,
    /// Whether the host's mounts could be read. If not, a disk may be mounted.
    pub mounts_known: bool,
}

/// Why a function is not bound to a VFIO driver.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Cause {
    /// It is a bridge to another bus. vfio-pci refuses it (`vfio_pci_probe` wants a normal header).
    Bridge,
    /// It is the parent of PCI domains of its own, as a VMD controller is: all devices there would disappear.
    DomainParent,
    /// No function of the host has an IOMMU group.
    IommuOff,
    /// Other functions have an IOMMU group, and this one has none: vfio-pci refuses it (`vfio_group_find_or_alloc`).
    NoGroup {
        /// Whether it is in a domain that the kernel created, as functions behind a VMD controller are.
        is_behind_vmd: bool,
    },
    /// `driver_override` names a VFIO driver that is not registered: its module is not loaded.
    DriverNotLoaded {
        /// The VFIO driver.
        driver: String,
    },
    /// `driver_override` names a VFIO driver that is registered, and the function is bound to no driver.
    ProbeFailed {
        /// The VFIO driver.
        driver: String,
    },
    /// `driver_override` names a VFIO driver, and the function is bound to another driver since before.
    OverrideNotApplied {
        /// The VFIO driver.
        wanted: String,
        /// The driver that the function is bound to.
        driver: String,
    },
    /// It is bound to another driver.
    OtherDriver {
        /// The driver.
        driver: String,
    },
    /// It is bound to no driver, and no VFIO driver was chosen for it.
    NoDriver,
}

impl FunctionFacts {
    /// Returns why the function is not bound to a VFIO driver.
    pub fn cause(&self) -> Cause {
        if BRIDGES.contains(&(self.class >> 8)) {
            return Cause::Bridge;
        }
        if self.driver.as_deref() == Some("vmd") || !self.domains_below.is_empty() {
            return Cause::DomainParent;
        }
        if !self.others_have_groups && !self.has_group {
            return Cause::IommuOff;
        }
        if !self.has_group {
            return Cause::NoGroup { is_behind_vmd: self.address.domain > LAST_FIRMWARE_DOMAIN };
        }
        let is_driver = |name: &String| {
            is_vfio_driver(name.as_bytes())
                && (self.override_is_registered || !MODULES.contains(&name.as_str()))
        };
        let wanted = self.driver_override.clone().filter(is_driver);
        match (wanted, self.driver.clone()) {
            (Some(driver), _) if !self.override_is_registered => Cause::DriverNotLoaded { driver },
            (Some(wanted), Some(driver)) => Cause::OverrideNotApplied { wanted, driver },
            (Some(driver), None) => Cause::ProbeFailed { driver },
            (None, Some(driver)) => Cause::OtherDriver { driver },
            (None, None) => Cause::NoDriver,
        }
    }

    /// Returns how much the host needs the function. A disk counts as in use while the mounts are unknown.
    pub fn need(&self) -> Need {
        let need = |used: &Use| match used {
            Use::Disk { .. } if !self.mounts_known => used.need().max(Need::InUse),
            _ => used.need(),
        };
        self.uses.iter().map(need).max().unwrap_or(Need::None)
    }

    /// Returns what the host would lose, in words. None if it has nothing through the function.
    pub fn losses(&self) -> Option<String> {
        let texts: Vec<String> = self.uses.iter().map(ToString::to_string).collect();
        (!texts.is_empty()).then(|| shortened(&texts, "; "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn facts() -> FunctionFacts {
        FunctionFacts {
            address: PciAddress::parse(b"0000:1b:00.0").unwrap(),
            class: 0x03_0200,
            driver: None,
            driver_override: None,
            override_is_registered: false,
            has_group: true,
            others_have_groups: true,
            domains_below: Vec::new(),
            uses: Vec::new(),
            mounts_known: true,
        }
    }

    fn driven(driver: Option<&str>, wanted: Option<&str>, override_is_registered: bool) -> FunctionFacts {
        FunctionFacts {
            driver: driver.map(Into::into),
            driver_override: wanted.map(Into::into),
            override_is_registered,
            ..facts()
        }
    }

    #[test]
    fn each_cause_follows_from_its_facts() {
        let nouveau = || "nouveau".to_owned();
        let vfio = || "vfio-pci".to_owned();
        let behind_vmd = PciAddress::parse(b"10000:e1:00.0").unwrap();
        for (facts, cause) in [
            (driven(None, None, false), Cause::NoDriver),
            (driven(Some("nouveau"), None, false), Cause::OtherDriver { driver: nouveau() }),
            // An override that names no VFIO driver chooses none.
            (driven(None, Some("none"), false), Cause::NoDriver),
            (driven(Some("nouveau"), Some("pci-stub"), true), Cause::OtherDriver { driver: nouveau() }),
            // The name of a module instead of its driver: to load the module would not help.
            (driven(None, Some("vfio_pci"), false), Cause::NoDriver),
            (driven(None, Some("vfio"), false), Cause::NoDriver),
            (driven(None, Some("vfio-pci"), false), Cause::DriverNotLoaded { driver: vfio() }),
            (driven(Some("nouveau"), Some("vfio-pci"), false), Cause::DriverNotLoaded { driver: vfio() }),
            (driven(None, Some("vfio-pci"), true), Cause::ProbeFailed { driver: vfio() }),
            (
                driven(None, Some("nvgrace_gpu_vfio_pci"), true),
                Cause::ProbeFailed { driver: "nvgrace_gpu_vfio_pci".to_owned() },
            ),
            (
                driven(Some("nouveau"), Some("vfio-pci"), true),
                Cause::OverrideNotApplied { wanted: vfio(), driver: nouveau() },
            ),
            // A missing group explains a failed probe.
            (
                FunctionFacts { has_group: false, ..driven(None, Some("vfio-pci"), true) },
                Cause::NoGroup { is_behind_vmd: false },
            ),
            (
                FunctionFacts { has_group: false, address: behind_vmd, ..facts() },
                Cause::NoGroup { is_behind_vmd: true },
            ),
            (FunctionFacts { has_group: false, others_have_groups: false, ..facts() }, Cause::IommuOff),
            (FunctionFacts { class: 0x06_0400, has_group: false, ..facts() }, Cause::Bridge),
            (FunctionFacts { class: 0x06_0700, ..driven(Some("yenta_cardbus"), None, false) }, Cause::Bridge),
            // NVSwitches have the class of other bridges and are passed through.
            (FunctionFacts { class: 0x06_8000, ..facts() }, Cause::NoDriver),
            (driven(Some("vmd"), None, false), Cause::DomainParent),
            (FunctionFacts { domains_below: vec![0x1_0000], ..facts() }, Cause::DomainParent),
        ] {
            assert_eq!(facts.cause(), cause, "{facts:?}");
        }
    }
}
