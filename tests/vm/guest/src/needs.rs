//! Lists what tests need of the kernel and of QEMU. If something is missing, the test is reported and not counted.

use crate::host;
use std::fs;
use std::path::Path;

/// One feature that not every kernel or QEMU has.
#[derive(Clone, Copy)]
pub(crate) struct Need {
    what: &'static str,
    is_present: fn() -> bool,
}

/// `vfio_group_init` creates this class.
pub(crate) const GROUP_NODES: Need =
    Need { what: "device nodes of groups (CONFIG_VFIO_GROUP)", is_present: || exists("/sys/class/vfio") };
/// The first bound function creates the directory, and some functions are always bound.
pub(crate) const IOMMUFD: Need = Need {
    what: "IOMMUFD with cdevs (CONFIG_IOMMUFD, CONFIG_VFIO_DEVICE_CDEV)",
    is_present: || exists("/dev/iommu") && exists("/dev/vfio/devices"),
};
pub(crate) const MTTY: Need = Need {
    what: "modules mdev.ko and mtty.ko (CONFIG_SAMPLE_VFIO_MDEV_MTTY) beside vmlinuz",
    is_present: || exists("/modules/mdev.ko") && exists("/modules/mtty.ko"),
};
pub(crate) const FAKEID: Need =
    Need { what: "module fakeid.ko beside vmlinuz", is_present: || exists("/modules/fakeid.ko") };
pub(crate) const SRIOV_NIC: Need =
    Need { what: "SR-IOV NIC igb (QEMU 8.0 or later)", is_present: || host::sriov_nic().is_some() };
pub(crate) const IGB_DRIVER: Need =
    Need { what: "driver igb in the kernel", is_present: || exists("/sys/bus/pci/drivers/igb") };
pub(crate) const VFIO_SRIOV: Need = Need {
    what: "parameter enable_sriov of vfio-pci (CONFIG_PCI_IOV)",
    is_present: || exists("/sys/module/vfio_pci/parameters/enable_sriov"),
};
pub(crate) const SECOND_NUMA_NODE: Need = Need {
    what: "second NUMA node (CONFIG_NUMA)",
    is_present: || fs::read_dir("/sys/devices/system/node/node1").is_ok(),
};

fn exists(path: &str) -> bool {
    Path::new(path).exists()
}

/// Returns the missing features as a text; `None` if all are present.
pub(crate) fn missing(needs: &[Need]) -> Option<String> {
    let missing: Vec<&str> = needs.iter().filter(|need| !(need.is_present)()).map(|need| need.what).collect();
    (!missing.is_empty()).then(|| format!("no {}", missing.join(", no ")))
}
