//! Holders of a device in words.

use std::fmt;
use vfio_probe::Holder;

/// Holders in words: `pid 4711 (qemu-system-x86), pod <uid>`.
pub fn describe(holders: &[Holder]) -> String {
    in_words(holders.iter().map(|holder| (holder.pid, &holder.command, holder.container.pod_uid)))
}

/// Holders in words, from pid, command and pod.
pub fn in_words(
    holders: impl Iterator<Item = (u32, impl fmt::Display, Option<impl fmt::Display>)>,
) -> String {
    let mut words = Vec::new();
    for (pid, command, pod) in holders {
        let pod = pod.map(|pod| format!(", pod {pod}")).unwrap_or_default();
        words.push(format!("pid {pid} ({command}){pod}"));
    }
    if words.is_empty() {
        return "a process that could not be found".to_owned();
    }
    words.join("; ")
}
