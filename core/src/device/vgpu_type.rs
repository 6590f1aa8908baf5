//! Reads the vGPU type of a device: its number and the name that the vendor's driver has for it.

use crate::device::record::optional;
use crate::device::{Device, Kind};
use crate::error::{Error, Result};
use crate::id::{DeviceId, PciAddress};
use crate::root::{PAGE, Root};
use crate::text::Text;

/// Returns the name that follows a number in lines like `1414 : NVIDIA H200X-1-18C`.
fn listed_type(text: &[u8], number: &[u8]) -> Option<Text<64>> {
    text.split(|&byte| byte == b'\n').find_map(|line| {
        let colon = line.iter().position(|&byte| byte == b':')?;
        let (listed, name) = (line.get(..colon)?.trim_ascii(), line.get(colon + 1..)?.trim_ascii());
        if listed == number && !name.is_empty() { Text::new(name) } else { None }
    })
}

impl Root {
    /// Returns the name of a device's vGPU type: `GRID T4-1Q` of a mediated device, `NVIDIA
    /// H200X-141C` of a virtual function. Reads one attribute.
    ///
    /// Returns none for other devices, and if the driver reports no name. The driver lists the
    /// types that can be created now, and a type in use need not be one of them.
    ///
    /// # Errors
    /// The attribute cannot be read, or its content is no name.
    pub fn vgpu_type_name(&self, device: &Device) -> Result<Option<Text<64>>> {
        let mut buffer = [0; PAGE];
        match (device.kind, device.id, device.vgpu_type) {
            (Kind::Mdev, id, _) => {
                const WHAT: &str = "mdev_type/name";
                let path = format_args!("sys/bus/mdev/devices/{id}/mdev_type/name");
                let text = self.attribute(path, &mut buffer, WHAT).map_err(|error| error.of_device(id))?;
                text.filter(|text| !text.is_empty())
                    .map(|text| Text::new(text).ok_or(Error::malformed(WHAT).of_device(id)))
                    .transpose()
            }
            (Kind::VendorVf, id @ DeviceId::Pci(address), Some(number)) => {
                let path = format_args!("sys/bus/pci/devices/{address}/nvidia/creatable_vgpu_types");
                let text = self
                    .attribute(path, &mut buffer, "nvidia/creatable_vgpu_types")
                    .map_err(|error| error.of_device(id))?;
                Ok(text.and_then(|text| listed_type(text, number.as_bytes())))
            }
            _ => Ok(None),
        }
    }

    fn attribute<'b>(
        &self,
        path: std::fmt::Arguments<'_>,
        buffer: &'b mut [u8],
        what: &'static str,
    ) -> Result<Option<&'b [u8]>> {
        optional(self.read(path, buffer)).map_err(|errno| Error::system(errno, what))
    }

    /// Returns the vGPU type number of a vendor's virtual function. None if it has no vGPU.
    pub(super) fn vgpu_type(&self, address: PciAddress) -> Result<Option<Text<64>>> {
        let mut buffer = [0; 64];
        let path = format_args!("sys/bus/pci/devices/{address}/nvidia/current_vgpu_type");
        let text = optional(self.read(path, &mut buffer))
            .map_err(|errno| Error::system(errno, "nvidia/current_vgpu_type"))?;
        match text {
            None | Some(b"0") => Ok(None),
            Some(text) => Text::new(text).map(Some).ok_or(Error::malformed("nvidia/current_vgpu_type")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn type_name_is_found_by_its_number() {
        let text = b"ID    : vGPU Name\n1428 : NVIDIA H200X-141C\n  1414  :  NVIDIA H200X-1-18C \n7 :\nbad\n9 : \xff\n";
        let name = |number: &str| listed_type(text, number.as_bytes()).map(|name| name.to_string());
        assert_eq!(name("1428").as_deref(), Some("NVIDIA H200X-141C"));
        assert_eq!(name("1414").as_deref(), Some("NVIDIA H200X-1-18C"));
        for number in ["142", "7", "9", "0", ""] {
            assert_eq!(name(number), None, "{number}");
        }
    }
}
