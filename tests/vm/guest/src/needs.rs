//! What a test needs of kernel and machine. Where that is missing the test is not possible, which is said and not counted.

use crate::host;
use std::fs;
use std::path::Path;

/// One thing that not every kernel or QEMU has.
#[derive(Clone, Copy)]
pub(crate) struct Need {
    what: &'static str,
    is_there: fn() -> bool,
}

/// The class that `vfio_group_init` makes.
pub(crate) const GROUP_NODES: Need =
    Need { what: "nodes of groups (CONFIG_VFIO_GROUP)", is_there: || exists("/sys/class/vfio") };
/// The folder comes with the first function that is bound, and some always are.
pub(crate) const IOMMUFD: Need = Need {
    what: "IOMMUFD with nodes of devices (CONFIG_IOMMUFD, CONFIG_VFIO_DEVICE_CDEV)",
    is_there: || exists("/dev/iommu") && exists("/dev/vfio/devices"),
};
pub(crate) const MTTY: Need = Need {
    what: "modules mdev.ko and mtty.ko (CONFIG_SAMPLE_VFIO_MDEV_MTTY) beside vmlinuz",
    is_there: || exists("/modules/mdev.ko") && exists("/modules/mtty.ko"),
};
pub(crate) const FAKEID: Need =
    Need { what: "module fakeid.ko beside vmlinuz", is_there: || exists("/modules/fakeid.ko") };
pub(crate) const SRIOV_NIC: Need =
    Need { what: "SR-IOV NIC igb in this QEMU (8.0 has it)", is_there: || host::sriov_nic().is_some() };
pub(crate) const IGB_DRIVER: Need =
    Need { what: "driver igb in this kernel", is_there: || exists("/sys/bus/pci/drivers/igb") };
pub(crate) const VFIO_SRIOV: Need = Need {
    what: "parameter enable_sriov of vfio-pci (CONFIG_PCI_IOV)",
    is_there: || exists("/sys/module/vfio_pci/parameters/enable_sriov"),
};
pub(crate) const SECOND_NUMA_NODE: Need = Need {
    what: "second NUMA node (CONFIG_NUMA)",
    is_there: || fs::read_dir("/sys/devices/system/node/node1").is_ok(),
};

fn exists(path: &str) -> bool {
    Path::new(path).exists()
}

/// What of it is not there.
pub(crate) fn missing(needs: &[Need]) -> Option<String> {
    let missing: Vec<&str> = needs.iter().filter(|need| !(need.is_there)()).map(|need| need.what).collect();
    (!missing.is_empty()).then(|| format!("no {}", missing.join(", no ")))
}
