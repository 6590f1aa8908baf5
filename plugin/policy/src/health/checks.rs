//! Selects the checks that make a device Unhealthy, beside being held.

/// The selected checks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Checks {
    /// A missing device node makes a device Unhealthy.
    pub node: bool,
    /// A device that has fallen off the bus is Unhealthy.
    pub lost: bool,
    /// Fatal PCIe errors (AER) since the first check make a device Unhealthy.
    pub aer: bool,
    /// A user of the device's memory besides VFIO, such as a boot framebuffer, makes it Unhealthy.
    pub framebuffer: bool,
}
