//! Reads what a device's record does not have.
use vfio_plugin_policy::device::DeviceState;
use vfio_plugin_policy::dra::attributes::DeviceFacts;
use vfio_probe::Root;
/// Reads facts.
#[derive(Clone, Debug)]
pub(crate) struct FactsReader {
    root: Root,
}
impl FactsReader {
    /// Returns a reader.
    pub(crate) fn new(root: Root) -> Self {
        Self { root }
    }
    /// Returns the facts of a device.
    pub(crate) fn facts(&mut self, state: &DeviceState) -> DeviceFacts {
        DeviceFacts {
            iommufd: self.root.has_iommufd() && state.device.cdev.is_some(),
            ..DeviceFacts::default()
        }
    }
}
