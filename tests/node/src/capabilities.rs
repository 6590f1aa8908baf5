//! Giving up CAP_SYS_ADMIN, for which the kernel lets an open pass an exclusive terminal (`tty_open`).

use rustix::thread::{CapabilitySet, capabilities, remove_capability_from_bounding_set, set_capabilities};

/// Drops CAP_SYS_ADMIN from this thread, and from what it and its children can get back by an exec as root.
///
/// Capabilities are per thread: call it before other threads start, or in each thread that opens groups. Quiet where the
/// capability was not there in the first place.
///
/// # Errors
/// The kernel refused, and the capability is still there.
pub fn drop_sys_admin() -> std::io::Result<()> {
    let mut sets = capabilities(None)?;
    if !sets.permitted.contains(CapabilitySet::SYS_ADMIN) {
        return Ok(());
    }
    // Without CAP_SETPCAP the bounding set stays; then only children exec'd as root get it back.
    let _ = remove_capability_from_bounding_set(CapabilitySet::SYS_ADMIN);
    sets.effective.remove(CapabilitySet::SYS_ADMIN);
    sets.permitted.remove(CapabilitySet::SYS_ADMIN);
    sets.inheritable.remove(CapabilitySet::SYS_ADMIN);
    Ok(set_capabilities(None, sets)?)
}
