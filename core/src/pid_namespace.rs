//! Finds out whether a root's /proc shows the host's pid namespace.
//!
//! A mount of procfs shows the processes of one pid namespace and of the namespaces below it. A
//! search in the /proc of a container therefore finds no process of the host, and nothing in the
//! listing says so.

use crate::holders::parse_stat;
use crate::root::{PAGE, Root};
use rustix::io::Errno;

/// Inode number of the initial pid namespace: `PROC_PID_INIT_INO` in include/linux/proc_ns.h
/// (`PID_NS_INIT_INO` in include/uapi/linux/nsfs.h from Linux 6.18).
const INITIAL: u64 = 0xEFFF_FFFC;
/// Flag of a kernel thread, in field 9 of /proc/PID/stat: `PF_KTHREAD` in include/linux/sched.h.
const PF_KTHREAD: u64 = 0x0020_0000;

/// The pid namespace that a root's /proc shows.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum PidNamespace {
    /// The initial pid namespace. It contains every process of this kernel.
    Host,
    /// Another pid namespace, as in a container without `hostPID`. Processes outside are invisible.
    Foreign,
    /// /proc does not show it. A mount with `hidepid=invisible` hides processes of other users, and
    /// a test's directory has no namespaces.
    #[default]
    Unknown,
}

impl PidNamespace {
    /// Returns `host`, `foreign` or `unknown`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Foreign => "foreign",
            Self::Unknown => "unknown",
        }
    }
}

/// What /proc shows about its pid namespace.
#[derive(Clone, Copy, Default, Debug)]
struct Evidence {
    /// The namespace of process 1. None if it cannot be read.
    first: Option<u64>,
    /// /proc has an entry for process 1. A mount that hides other users' processes has none.
    first_is_visible: bool,
    /// Process 2 is a kernel thread (kthreadd). Kernel threads exist in the initial namespace only.
    second_is_kernel_thread: Option<bool>,
    /// The namespace of this process. None if /proc does not show this process.
    own: Option<u64>,
    /// Count of this process's pids, from the namespace of /proc down to its own (`NSpid`).
    own_pids: usize,
}

impl Evidence {
    /// Process 1 of a namespace always runs in it, so its namespace is the one of /proc. Without
    /// permission to read that, the host's is proven by a kernel thread, or by this process: it is
    /// visible in /proc, so its own namespace is the one of /proc or lies below it.
    fn judge(self) -> PidNamespace {
        let foreign_itself = self.own.is_some_and(|own| own != INITIAL) || self.own_pids > 1;
        match self.first {
            Some(INITIAL) => PidNamespace::Host,
            Some(_) => PidNamespace::Foreign,
            None if self.first_is_visible && self.second_is_kernel_thread == Some(true) => PidNamespace::Host,
            None if foreign_itself => PidNamespace::Foreign,
            None if !self.first_is_visible => PidNamespace::Unknown,
            None if self.own == Some(INITIAL) => PidNamespace::Host,
            None if self.second_is_kernel_thread == Some(false) => PidNamespace::Foreign,
            None => PidNamespace::Unknown,
        }
    }
}

impl Root {
    /// Returns which pid namespace the root's /proc shows.
    ///
    /// Reads at most five files of /proc and needs no privilege. Never blocks, opens no device node
    /// and allocates nothing.
    #[must_use]
    pub fn pid_namespace(&self) -> PidNamespace {
        let mut evidence = Evidence { first: self.namespace_of("1").ok(), ..Evidence::default() };
        if evidence.first.is_none() {
            evidence.first_is_visible = self.stat(format_args!("proc/1")).is_ok();
            evidence.second_is_kernel_thread = self.is_kernel_thread("2");
            evidence.own = self.namespace_of("self").ok();
            evidence.own_pids = self.pids_of("self");
        }
        evidence.judge()
    }

    /// Returns the inode number of a process's pid namespace (`ns_get_name`: `pid:[4026531836]`).
    fn namespace_of(&self, process: &str) -> Result<u64, Errno> {
        let mut text = [0; 64];
        let link = self.link(format_args!("proc/{process}/ns/pid"), &mut text)?;
        let inode = link.strip_prefix(b"pid:[").and_then(|rest| rest.strip_suffix(b"]"));
        inode.and_then(number).ok_or(Errno::INVAL)
    }

    fn is_kernel_thread(&self, process: &str) -> Option<bool> {
        let mut text = [0; PAGE];
        let stat = self.read(format_args!("proc/{process}/stat"), &mut text).ok()?;
        Some(parse_stat(stat)?.flags & PF_KTHREAD != 0)
    }

    /// Counts the pids in a process's `NSpid` line (`task_state` in fs/proc/array.c).
    fn pids_of(&self, process: &str) -> usize {
        let mut text = [0; PAGE];
        let status = self.read(format_args!("proc/{process}/status"), &mut text).unwrap_or_default();
        let line = status.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"NSpid:"));
        line.unwrap_or_default().split(u8::is_ascii_whitespace).filter(|pid| !pid.is_empty()).count()
    }
}

fn number(text: &[u8]) -> Option<u64> {
    std::str::from_utf8(text).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    const HOST: &str = "pid:[4026531836]";
    const OTHER: &str = "pid:[4026532178]";
    const KTHREADD: &str = "2 (kthreadd) S 0 0 0 0 -1 2129984 0 0 0 0 0 0 0 0 20 0 1 0 12 0";
    const SHELL: &str = "2 (sh) S 1 2 2 0 -1 4194560 0 0 0 0 0 0 0 0 20 0 1 0 12 0";

    /// Judges a tree with these files: (path below proc, text of the link or of the file).
    fn judge(entries: &[(&str, &str)]) -> PidNamespace {
        let directory = tempfile::tempdir().unwrap();
        for (path, text) in entries {
            let path = directory.path().join("proc").join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            if path.ends_with("ns/pid") {
                symlink(text, path).unwrap();
            } else {
                fs::write(path, text).unwrap();
            }
        }
        Root::open(directory.path()).unwrap().pid_namespace()
    }

    #[test]
    fn first_process_decides_whatever_else_is_there() {
        assert_eq!(judge(&[("1/ns/pid", HOST)]), PidNamespace::Host);
        assert_eq!(judge(&[("1/ns/pid", OTHER)]), PidNamespace::Foreign);
        // The host's /proc, mounted into a container with a pid namespace of its own.
        let mounted = [("1/ns/pid", HOST), ("self/ns/pid", OTHER), ("self/status", "NSpid:\t4711\t7\n")];
        assert_eq!(judge(&mounted), PidNamespace::Host);
        // The /proc of a container, seen from the host.
        assert_eq!(judge(&[("1/ns/pid", OTHER), ("self/ns/pid", HOST)]), PidNamespace::Foreign);
    }

    #[test]
    fn without_privilege_kthreadd_or_this_process_decides() {
        let first = ("1/stat", "1 (init)");
        assert_eq!(judge(&[first, ("2/stat", KTHREADD)]), PidNamespace::Host);
        assert_eq!(judge(&[first, ("2/stat", KTHREADD), ("self/ns/pid", OTHER)]), PidNamespace::Host);
        assert_eq!(judge(&[first, ("2/stat", SHELL)]), PidNamespace::Foreign);
        assert_eq!(judge(&[first, ("self/ns/pid", HOST)]), PidNamespace::Host);
        assert_eq!(judge(&[first, ("self/ns/pid", OTHER)]), PidNamespace::Foreign);
        assert_eq!(judge(&[first, ("self/status", "NSpid:\t4711\t7\n")]), PidNamespace::Foreign);
    }

    #[test]
    fn nothing_is_claimed_without_evidence() {
        assert_eq!(judge(&[]), PidNamespace::Unknown);
        assert_eq!(judge(&[("4711/stat", "4711 (qemu)")]), PidNamespace::Unknown);
        assert_eq!(judge(&[("1/stat", "1 (init)")]), PidNamespace::Unknown);
        for damaged in
            ["pid:[]", "pid:[4026531836", "4026531836", "mnt:[4026531836]", "pid:[99999999999999999999]"]
        {
            assert_eq!(judge(&[("1/ns/pid", damaged)]), PidNamespace::Unknown, "{damaged}");
        }
    }

    #[test]
    fn mount_that_hides_the_first_process_is_unknown() {
        // hidepid=invisible: this process is in the host's namespace and sees its own user only.
        let own = [("self/ns/pid", HOST), ("self/status", "NSpid:\t4711\n")];
        assert_eq!(judge(&own), PidNamespace::Unknown);
    }

    #[test]
    fn answer_fits_the_namespace_of_the_real_proc() {
        let inode = fs::read_link("/proc/1/ns/pid").or_else(|_| fs::read_link("/proc/self/ns/pid")).unwrap();
        let expected = if inode == Path::new(HOST) { PidNamespace::Host } else { PidNamespace::Foreign };
        assert_eq!(Root::host().unwrap().pid_namespace(), expected);
    }
}
