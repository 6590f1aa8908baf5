//! The description of one PCI function.

/// A PCI function to put into the tree.
#[derive(Clone, Debug, serde::Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Function {
    /// `0000:3b:00.0`.
    pub address: String,
    /// Vendor id.
    pub vendor: u16,
    /// Device id.
    pub device: u16,
    /// Class, 24 bits.
    pub class: u32,
    /// Subsystem vendor and device.
    pub subsystem: (u16, u16),
    /// NUMA node, -1 for unknown.
    pub numa_node: i32,
    /// IOMMU group.
    pub group: Option<u32>,
    /// The driver that it is bound to.
    pub driver: Option<String>,
    /// Its physical function, if it is a virtual one.
    pub physfn: Option<String>,
    /// How many virtual functions it has on; none if it has no SR-IOV.
    pub sriov_numvfs: Option<u16>,
}

impl Default for Function {
    fn default() -> Self {
        Self::new("0000:00:00.0", 0)
    }
}

impl Function {
    /// A function without driver in a group of its own; an Ethernet controller nobody is interested in.
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

    /// An H100 bound to vfio-pci.
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

    /// The same with another device id.
    #[must_use]
    pub fn with_device(self, device: u16) -> Self {
        Self { device, ..self }
    }

    /// The same bound to another driver, or to none.
    #[must_use]
    pub fn with_driver(self, driver: Option<&str>) -> Self {
        Self { driver: driver.map(str::to_owned), ..self }
    }

    /// Whether it is bound to a VFIO driver: a variant of vfio-pci, or the vendor's own on a virtual function.
    #[must_use]
    pub fn has_vfio_driver(&self) -> bool {
        let vendor_vf = self.physfn.is_some();
        self.driver
            .as_ref()
            .is_some_and(|driver| driver.contains("vfio") || (vendor_vf && driver == "nvidia"))
    }

    /// What its `uevent` file says (`pci_uevent`, drivers/pci/pci-driver.c).
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

    /// The first registers of its configuration space: vendor, device, command, status. A virtual function's first two read
    /// all ones (PCIe 6.0, 9.3.4.1).
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
