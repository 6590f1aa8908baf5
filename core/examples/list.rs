//! Prints every device bound to VFIO on this host (or below the folder given) and whether its group looks held.

use vfio_probe::device::Detail;
use vfio_probe::{Buffer, Root};

fn main() -> vfio_probe::Result<()> {
    let root = Root::open(std::env::args_os().nth(1).unwrap_or("/".into()).as_ref())?;
    let mut devices = Vec::new();
    root.scan(Detail::Full, &mut Buffer::new(), |device| match device {
        Ok(device) => devices.push(device),
        Err(error) => eprintln!("left out: {error}"),
    })?;
    for device in devices {
        let Some(group) = device.group else { continue };
        let peek = root.peek(group, &mut Buffer::new())?;
        println!("{} {:04x}:{:04x} group {group}: {peek:?}", device.id, device.vendor, device.device);
    }
    Ok(())
}
