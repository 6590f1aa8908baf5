//! Checks whether the host itself uses the memory of an offered device: a boot framebuffer. `doctor` checks it whether or not
//! the check `framebuffer` is on.

use crate::commands::doctor::finding::{Code, Findings};
use crate::config::Config;
use crate::node::hardware::framebuffer;
use crate::node::sysfs;
use std::io::ErrorKind;
use vfio_plugin_policy::device::DeviceState;
use vfio_plugin_policy::health::reason::Reason;
use vfio_probe::DeviceId;

/// Base class of display controllers.
const DISPLAY: u32 = 0x03;

/// Adds the devices whose memory the host uses, or that this could not be checked.
pub(super) fn examine(config: &Config, devices: &[DeviceState], findings: &mut Findings) {
    let functions = || devices.iter().filter_map(|state| Some((state, state.device.id.pci()?)));
    let has_display = functions().any(|(state, _)| state.device.class >> 16 == DISPLAY);
    let users = match framebuffer::read(&config.root) {
        Ok(users) => users,
        // A tree without it is no host's /proc.
        Err(error) if error.kind() == ErrorKind::NotFound && !config.checks().framebuffer => return,
        Err(error) if has_display => {
            let what = format!("cannot be read, so boot framebuffers could not be checked: {error}");
            let advice = "Run as root; in a container, --root must have the host's proc.";
            return findings.warn(Code::FramebufferUnchecked, "/proc/iomem", what, advice);
        }
        Err(_) => return,
    };
    for (state, address) in functions() {
        let [user, more @ ..] = users.of(address) else { continue };
        let mut what = Reason::Framebuffer { user: *user }.to_string();
        for user in more {
            what += &format!(", {user}");
        }
        if is_boot_display(config, state.device.id) {
            what += " (the firmware's boot display)";
        }
        let advice = "vfio-pci cannot claim that memory, and a VM with the device does not work. Make another GPU the primary \
                      display in the firmware, or boot with initcall_blacklist=sysfb_init (before Linux 5.15: video=efifb:off,vesafb:off). \
                      The host then has no console on this device. With --checks framebuffer such a device is Unhealthy.";
        findings.warn(Code::Framebuffer, address.to_string(), what, advice);
    }
}

/// Returns whether the firmware used the function as its display (`boot_vga_show`).
fn is_boot_display(config: &Config, id: DeviceId) -> bool {
    let path = config.root.join(format!("sys/bus/pci/devices/{id}/boot_vga"));
    sysfs::attribute(&path).as_deref() == Some("1")
}
