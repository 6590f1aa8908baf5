//! Describes the holders of a device in words.

use std::fmt;
use vfio_probe::Holder;

/// Returns holders in words: `pid 4711 (qemu-system-x86), pod <uid>; pid 4712 (vfio-user)`.
///
/// The text is for people. A process chooses its command itself, so a program must not parse the text or compare it.
pub fn describe(holders: &[Holder]) -> String {
    in_words(holders.iter().map(|holder| (holder.pid, &holder.command, holder.container.pod_uid)))
}

/// Returns holders in words, from pid, command and the pod's uid.
pub fn in_words(
    holders: impl Iterator<Item = (u32, impl fmt::Display, Option<impl fmt::Display>)>,
) -> String {
    let mut words = String::new();
    // A String accepts every write.
    let _ = write_in_words(&mut words, holders);
    words
}

/// Writes holders in words, as [`in_words`] returns them. Without a holder it says that the process could not be found,
/// because a held device always has one.
///
/// # Errors
/// As `out` fails.
pub fn write_in_words(
    out: &mut impl fmt::Write,
    holders: impl Iterator<Item = (u32, impl fmt::Display, Option<impl fmt::Display>)>,
) -> fmt::Result {
    let mut separator = "";
    for (pid, command, pod_uid) in holders {
        write!(out, "{separator}pid {pid} ({command})")?;
        if let Some(uid) = pod_uid {
            write!(out, ", pod {uid}")?;
        }
        separator = "; ";
    }
    if separator.is_empty() {
        out.write_str("a process that could not be found")?;
    }
    Ok(())
}
