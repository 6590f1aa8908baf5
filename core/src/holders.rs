//! Finds the processes that have a group, or a device of a group, open.
//!
//! The source is /proc. Descriptors are matched by device number, never by file name.

use crate::cgroup::Container;
use crate::id::GroupId;
use crate::pid_namespace::PidNamespace;
use crate::root::{PAGE, Root};
use crate::text::Text;
use rustix::io::{Errno, read};
use std::time::{Duration, SystemTime};

/// A process that holds a group.
///
/// ```no_run
/// // Needs a host with a group 51.
/// use vfio_probe::{GroupId, Root};
///
/// # fn main() -> vfio_probe::Result<()> {
/// let coverage = Root::host()?.holders(&[GroupId(51)], &mut |holder| {
///     println!("pid {} {} by {}", holder.pid, holder.command, holder.via);
/// })?;
/// println!("{} of {} processes could not be read", coverage.unreadable, coverage.processes);
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub struct Holder {
    /// The group that the process holds.
    pub group: GroupId,
    /// The process id, as numbered in the root's /proc.
    pub pid: u32,
    /// Start time in clock ticks after boot (proc(5), stat field 22). Together with the pid it
    /// identifies one process, even after the kernel reuses the pid.
    pub start_time: u64,
    /// The effective user id, as /proc shows it in this process's user namespace. None if it could
    /// not be read.
    pub uid: Option<u32>,
    /// The command name, at most 15 characters. The process can choose it freely.
    pub command: Text<16>,
    /// The kind of descriptor.
    pub via: Via,
    /// The container and the pod that its cgroup names.
    pub container: Container,
}

/// Clock ticks per second in /proc (USER_HZ of include/asm-generic/param.h), on every architecture
/// that has VFIO.
const TICKS: u64 = 100;

impl Holder {
    /// Returns a record of a process that holds the group's device node, for programs that make records
    /// by themselves. Set the other fields after it.
    #[must_use]
    pub fn new(group: GroupId, pid: u32) -> Self {
        Self {
            group,
            pid,
            start_time: 0,
            uid: None,
            command: Text::lossy(b""),
            via: Via::Group,
            container: Container::default(),
        }
    }

    /// Returns when the process started, as a whole second of the wall clock. None if the clock cannot
    /// express it.
    ///
    /// It follows later corrections of the clock, as `ps` does. So two results for one process can
    /// differ; [`Holder::start_time`] never does.
    #[must_use]
    pub fn started(&self) -> Option<SystemTime> {
        let up = uptime()?;
        let booted = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?.checked_sub(up)?;
        let ticks = Duration::from_millis((self.start_time % TICKS) * (1000 / TICKS));
        let started = booted.checked_add(Duration::from_secs(self.start_time / TICKS))?.checked_add(ticks)?;
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(started.as_secs()))
    }
}

/// Returns the time since boot, from this process's own /proc/uptime: hundredths of a second.
///
/// rustix would read the clock through the vDSO, which valgrind has unmapped: a program that valgrind
/// runs would crash.
fn uptime() -> Option<Duration> {
    let text = std::fs::read_to_string("/proc/uptime").ok()?;
    // Parsed as integers: a program that links the static library needs no parser of floating point.
    let (seconds, hundredths) = text.split(' ').next()?.split_once('.')?;
    let hundredths: u16 = hundredths.parse().ok()?;
    Duration::from_secs(seconds.parse().ok()?).checked_add(Duration::from_millis(u64::from(hundredths) * 10))
}

/// Kinds of descriptors that hold a group.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Via {
    /// A descriptor of the group's device node.
    Group,
    /// A device descriptor, obtained from the group.
    Device,
    /// A descriptor of the device's own node. An open alone does not bind the device to the
    /// process, but only users of VFIO open this node.
    Cdev,
}

impl Via {
    /// Returns whether the kernel lets no other process open the group beside this descriptor
    /// (`vfio_group_fops_open`). The open of a device's own node is not exclusive.
    #[must_use]
    pub fn is_exclusive(self) -> bool {
        self != Self::Cdev
    }

    /// Returns `group`, `device` or `cdev`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Group => "group",
            Self::Device => "device",
            Self::Cdev => "cdev",
        }
    }
}

/// How much a search for holders could see.
///
/// **No holder found does not mean no holder** unless [`ScanCoverage::is_complete`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub struct ScanCoverage {
    /// Number of processes seen.
    pub processes: u32,
    /// Number of these processes whose descriptors could not be read, as those of other users
    /// without CAP_SYS_PTRACE.
    pub unreadable: u32,
    /// Number of VFIO device descriptors whose device is unknown, because fdinfo has no
    /// `vfio-device-syspath` before Linux 6.18.
    pub unattributed: u32,
    /// Number of processes that were not searched, because the budget of the search ended. 0 after
    /// a whole search.
    pub unsearched: u32,
    /// The pid namespace that was searched. Holders outside it are invisible.
    pub pid_namespace: PidNamespace,
}

impl ScanCoverage {
    /// Returns whether the search saw every process of the host and every descriptor of VFIO. Only
    /// then does an empty list of holders prove that no process holds the group.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        let missed = (self.unreadable, self.unattributed, self.unsearched);
        missed == (0, 0, 0) && self.pid_namespace == PidNamespace::Host
    }
}

impl Root {
    /// Returns the command name and the start time of a process.
    ///
    /// # Errors
    /// It has ended, or cannot be read.
    pub(crate) fn process(&self, pid: u32) -> Result<(Text<16>, u64), Errno> {
        let mut text = [0; PAGE];
        let stat = self.read(format_args!("proc/{pid}/stat"), &mut text)?;
        parse_stat(stat).map(|stat| (stat.command, stat.start_time)).ok_or(Errno::INVAL)
    }
}

impl Root {
    /// Returns the effective user id of a process. None if it cannot be read.
    pub(crate) fn uid_of(&self, pid: u32) -> Option<u32> {
        // /proc/PID belongs to root if the process is not dumpable (`task_dump_owner`). The
        // line of the ids comes before the groups, which can need more than a page.
        let mut text = [0; 512];
        let file = self.open_attribute(format_args!("proc/{pid}/status")).ok()?;
        let length = read(&file, &mut text).ok()?;
        parse_uid(text.get(..length)?)
    }
}

/// Parses the second number of the line `Uid:` in the beginning of /proc/PID/status (proc(5)). The
/// kernel escapes a line feed in the command's name (`proc_task_name`).
fn parse_uid(status: &[u8]) -> Option<u32> {
    let line = status.split_inclusive(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(b"Uid:\t"))?;
    let uids = std::str::from_utf8(line).ok()?.strip_suffix('\n')?;
    uids.split('\t').nth(1)?.parse().ok()
}

/// What a search reads of /proc/PID/stat.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Stat {
    pub(crate) command: Text<16>,
    /// `PF_*` of include/linux/sched.h.
    pub(crate) flags: u64,
    pub(crate) start_time: u64,
}

/// Parses proc(5)'s `pid (comm) state ...`. The command may contain any byte. The last closing
/// parenthesis ends it.
pub(crate) fn parse_stat(stat: &[u8]) -> Option<Stat> {
    let open = stat.iter().position(|&byte| byte == b'(')?;
    let close = stat.iter().rposition(|&byte| byte == b')')?;
    let command = Text::lossy(stat.get(open + 1..close)?);
    // The state is field 3, the flags are field 9, and the start time is field 22.
    let mut fields = stat.get(close + 2..)?.split(|&byte| byte == b' ').skip(6);
    let mut field = |skip: usize| std::str::from_utf8(fields.nth(skip)?).ok()?.parse().ok();
    Some(Stat { command, flags: field(0)?, start_time: field(12)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_may_contain_any_byte() {
        let fields = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20";
        for name in ["CPU 0/KVM", "a) b"] {
            let stat = parse_stat(format!("77 ({name}) {fields}").as_bytes()).unwrap();
            assert_eq!((stat.command.as_str(), stat.flags, stat.start_time), (name, 6, 4242));
        }
        assert_eq!(parse_stat(b"77 (x"), None);
        assert_eq!(parse_stat(b")("), None);
    }

    #[test]
    fn uid_is_the_effective_one() {
        let status = b"Name:\ta\\nUid:\t9\t9\nUmask:\t0022\nUid:\t1000\t107\t0\t0\nGid:\t1\n";
        assert_eq!(parse_uid(status), Some(107));
        for damaged in [&b""[..], b"Uid:\t1", b"Uid:\t1\n", b"Uid:\t1\t-2\t3\n", b"Uid:\t1\t99999999999\t3\n"]
        {
            assert_eq!(parse_uid(damaged), None);
        }
        let root = Root::host().unwrap();
        assert_eq!(root.uid_of(std::process::id()), Some(rustix::process::geteuid().as_raw()));
        assert_eq!(root.uid_of(0), None);
    }

    #[test]
    fn start_is_a_second_of_the_wall_clock() {
        let root = Root::host().unwrap();
        let second = |time: SystemTime| time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs();
        let before = second(SystemTime::now());
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let after = second(SystemTime::now());
        let (command, start_time) = root.process(child.id()).unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let (uid, container) = (None, Container::default());
        let holder = Holder {
            group: GroupId(1),
            pid: child.id(),
            start_time,
            uid,
            command,
            via: Via::Group,
            container,
        };
        let started = second(holder.started().unwrap());
        // A tick before the boundary belongs to the second before.
        assert!((before - 1..=after).contains(&started), "{before} {started} {after}");
    }

    #[test]
    fn only_a_whole_search_of_the_host_is_complete() {
        let whole =
            ScanCoverage { processes: 9, pid_namespace: PidNamespace::Host, ..ScanCoverage::default() };
        assert!(whole.is_complete());
        for partial in [
            ScanCoverage { unreadable: 1, ..whole },
            ScanCoverage { unattributed: 1, ..whole },
            ScanCoverage { unsearched: 1, ..whole },
            ScanCoverage { pid_namespace: PidNamespace::Foreign, ..whole },
            ScanCoverage { pid_namespace: PidNamespace::Unknown, ..whole },
            ScanCoverage::default(),
        ] {
            assert!(!partial.is_complete(), "{partial:?}");
        }
    }

    #[test]
    fn holder_is_found_by_device_number_not_by_name() {
        let directory = tempfile::tempdir().unwrap();
        let vfio = directory.path().join("dev/vfio");
        std::fs::create_dir_all(&vfio).unwrap();
        std::os::unix::fs::symlink("/proc", directory.path().join("proc")).unwrap();
        std::os::unix::fs::symlink("/dev/full", vfio.join("51")).unwrap();
        let _held = std::fs::File::open("/dev/full").unwrap();
        let mut holders = Vec::new();
        let root = Root::open(directory.path()).unwrap();
        let coverage = root.holders(&[GroupId(51), GroupId(52)], &mut |holder| holders.push(holder)).unwrap();
        let ours = holders.iter().find(|holder| holder.pid == std::process::id()).unwrap();
        assert_eq!((ours.group, ours.via), (GroupId(51), Via::Group));
        assert!(ours.start_time > 0 && coverage.processes > 0);
    }
}
