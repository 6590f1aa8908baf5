//! Describes one PCI function.

/// A PCI function of the tree.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Function {
    /// The PCI address, as in `0000:3b:00.0`.
    pub address: String,
    /// The vendor id.
    pub vendor: u16,
    /// The device id.
    pub device: u16,
    /// The class, 24 bits.
    pub class: u32,
    /// The subsystem's vendor and device ids.
    pub subsystem: (u16, u16),
    /// The NUMA node; -1 if it is unknown.
    pub numa_node: i32,
    /// The IOMMU group; `None` without an IOMMU.
    pub group: Option<u32>,
    /// The driver that the function is bound to.
    pub driver: Option<String>,
    /// The address of the physical function, if this is a virtual function.
    pub physfn: Option<String>,
    /// The number of enabled virtual functions; `None` without the SR-IOV capability.
    pub sriov_numvfs: Option<u16>,
}

impl Default for Function {
    fn default() -> Self {
        Self::new("0000:00:00.0", 0)
    }
}

impl Function {
    /// Creates a function without a driver in a group of its own: an Ethernet controller that no test selects.
    #[must_use]
    pub fn new(address: &str, group: u32) -> Self {
        Self {
            address: address.to_owned(),
            vendor: 0x8086,
            device: 0x10d3,
            class: 0x02_0000,
            subsystem: (0x8086, 0),
            numa_node: -1,
            group: Some(group),
            driver: None,
            physfn: None,
            sriov_numvfs: None,
        }
    }

    /// Creates an H100 bound to vfio-pci.
    #[must_use]
    pub fn gpu(address: &str, group: u32, numa_node: i32) -> Self {
        Self {
            vendor: 0x10de,
            device: 0x2330,
            class: 0x03_0200,
            subsystem: (0x10de, 0x16c1),
            numa_node,
            driver: Some("vfio-pci".to_owned()),
            ..Self::new(address, group)
        }
    }

    /// Changes the device id.
    #[must_use]
    pub fn with_device(self, device: u16) -> Self {
        Self { device, ..self }
    }

    /// Changes the driver; `None` leaves the function unbound.
    #[must_use]
    pub fn with_driver(self, driver: Option<&str>) -> Self {
        Self { driver: driver.map(str::to_owned), ..self }
    }

    /// Returns true if the driver is a VFIO driver: a variant of vfio-pci, or the vendor's own driver on a virtual
    /// function.
    #[must_use]
    pub fn has_vfio_driver(&self) -> bool {
        let vendor_vf = self.physfn.is_some();
        self.driver
            .as_ref()
            .is_some_and(|driver| driver.contains("vfio") || (vendor_vf && driver == "nvidia"))
    }

    /// Returns the text of the function's `uevent` file (`pci_uevent`, drivers/pci/pci-driver.c).
    #[must_use]
    pub fn uevent(&self) -> String {
        let driver = self.driver.as_ref().map(|driver| format!("DRIVER={driver}\n")).unwrap_or_default();
        format!(
            "{driver}PCI_CLASS={:04X}\nPCI_ID={:04X}:{:04X}\nPCI_SUBSYS_ID={:04X}:{:04X}\nPCI_SLOT_NAME={}\n\
             MODALIAS=pci:v{:08X}d{:08X}sv{:08X}sd{:08X}bc{:02X}sc{:02X}i{:02X}\n",
            self.class,
            self.vendor,
            self.device,
            self.subsystem.0,
            self.subsystem.1,
            self.address,
            self.vendor,
            self.device,
            self.subsystem.0,
            self.subsystem.1,
            self.class >> 16,
            self.class >> 8 & 0xff,
            self.class & 0xff,
        )
    }

    /// Returns the first registers of the configuration space: vendor, device, command, status. The first two
    /// registers of a virtual function read as all ones (PCIe 6.0, 9.3.4.1).
    #[must_use]
    pub fn config(&self) -> [u8; 64] {
        let (vendor, device) =
            if self.physfn.is_some() { (0xffff, 0xffff) } else { (self.vendor, self.device) };
        let mut config = [0; 64];
        for (place, register) in config.chunks_exact_mut(2).zip([vendor, device, 0x0406, 0x0010]) {
            place.copy_from_slice(&register.to_le_bytes());
        }
        config
    }
}
