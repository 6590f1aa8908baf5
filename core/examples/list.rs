//! Prints each device that is bound to VFIO, and whether its group looks held.
//!
//! Usage: `list [ROOT]`. ROOT is the directory with `sys`, `dev` and `proc`; the default is `/`.
//! Opens no device node.

use vfio_probe::{Buffer, Detail, Root};

fn main() -> vfio_probe::Result<()> {
    let root = Root::open(std::env::args_os().nth(1).unwrap_or("/".into()))?;
    let mut devices = Vec::new();
    root.scan(Detail::Full, &mut Buffer::new(), |device| match device {
        Ok(device) => devices.push(device),
        Err(error) => eprintln!("skipped: {error}"),
    })?;
    for device in devices {
        let Some(group) = device.group else { continue };
        let peek = root.peek(group, &mut Buffer::new())?;
        println!("{} {:04x}:{:04x} group {group} {peek}", device.id, device.vendor, device.device);
    }
    Ok(())
}
