//! Gives up CAP_SYS_ADMIN. An opener with this capability may open an exclusive terminal (`tty_open`), and gets no
//! EBUSY.

use rustix::thread::{CapabilitySet, capabilities, remove_capability_from_bounding_set, set_capabilities};

/// Returns true if this thread has CAP_SYS_ADMIN in its effective set, with which it gets no EBUSY.
///
/// # Errors
/// The kernel does not report the capabilities.
pub fn has_sys_admin() -> std::io::Result<bool> {
    Ok(capabilities(None)?.effective.contains(CapabilitySet::SYS_ADMIN))
}

/// Drops CAP_SYS_ADMIN from this thread, and from the sets that its children can regain by an exec as root.
///
/// Capabilities are per thread: call this before other threads start, or in each thread that opens groups. Does
/// nothing if the thread does not have the capability.
///
/// # Errors
/// The kernel refused. The thread still has the capability.
pub fn drop_sys_admin() -> std::io::Result<()> {
    let mut sets = capabilities(None)?;
    if !sets.permitted.contains(CapabilitySet::SYS_ADMIN) {
        return Ok(());
    }
    // Without CAP_SETPCAP the bounding set stays. Only children that are exec'd as root then regain the capability.
    let _ = remove_capability_from_bounding_set(CapabilitySet::SYS_ADMIN);
    sets.effective.remove(CapabilitySet::SYS_ADMIN);
    sets.permitted.remove(CapabilitySet::SYS_ADMIN);
    sets.inheritable.remove(CapabilitySet::SYS_ADMIN);
    Ok(set_capabilities(None, sets)?)
}
