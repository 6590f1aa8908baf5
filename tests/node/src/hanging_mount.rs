//! A file system whose server never answers, so that reads hang in the kernel.

use crate::not_tested;
use rustix::mount::{MountFlags, mount};
use std::ffi::CString;
use std::fs::File;
use std::io::Result;
use std::os::fd::AsRawFd;
use std::path::Path;

/// Mounts a FUSE file system whose server never answers. Calls that hang end when the returned file is closed. Returns none for a
/// user other than root, see [`not_tested`].
///
/// # Errors
/// Root cannot mount it. A test that goes on would show nothing.
pub fn mount_without_answers(at: &Path) -> Result<Option<File>> {
    if !rustix::process::geteuid().is_root() {
        not_tested("only root mounts a file system that hangs");
        return Ok(None);
    }
    let server = File::options().read(true).write(true).open("/dev/fuse")?;
    let options = format!("fd={},rootmode=40000,user_id=0,group_id=0", server.as_raw_fd());
    let options = CString::new(options)?;
    mount("test", at, "fuse", MountFlags::empty(), options.as_c_str())?;
    Ok(Some(server))
}
