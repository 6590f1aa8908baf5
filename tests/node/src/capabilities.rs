//! Gives up capabilities with which root sees another node than other users: CAP_SYS_ADMIN, with which an opener may open
//! an exclusive terminal (`tty_open`) and gets no EBUSY, and those that pass over the mode of a file.

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
    give_up(CapabilitySet::SYS_ADMIN)
}

/// Drops the capabilities with which root may read any file, as [`drop_sys_admin`] does. Afterwards a file of the same
/// user without any permission cannot be opened (EACCES).
///
/// # Errors
/// The kernel refused. The thread still has them.
pub fn obey_file_modes() -> std::io::Result<()> {
    give_up(CapabilitySet::DAC_OVERRIDE)?;
    give_up(CapabilitySet::DAC_READ_SEARCH)
}

fn give_up(capability: CapabilitySet) -> std::io::Result<()> {
    let mut sets = capabilities(None)?;
    if !sets.permitted.contains(capability) {
        return Ok(());
    }
    // Without CAP_SETPCAP the bounding set stays. Only children that are exec'd as root then regain the capability.
    let _ = remove_capability_from_bounding_set(capability);
    sets.effective.remove(capability);
    sets.permitted.remove(capability);
    sets.inheritable.remove(capability);
    Ok(set_capabilities(None, sets)?)
}
