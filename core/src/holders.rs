//! Finds the processes that have a group, or a device of a group, open.
//!
//! The source is /proc. Descriptors are matched by device number, never by file name.

use crate::cgroup::Container;
use crate::error::{Error, Result};
use crate::id::{DeviceId, GroupId};
use crate::pid_namespace::PidNamespace;
use crate::root::{Buffer, PAGE, Root, last_component};
use crate::text::Text;
use rustix::fs::{FileType, makedev};
use rustix::io::Errno;

/// A process that holds a group.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Holder {
    /// The group that the process holds.
    pub group: GroupId,
    /// The process id, as numbered in the root's /proc.
    pub pid: u32,
    /// Start time in clock ticks after boot (proc(5), stat field 22). Together with the pid it
    /// identifies one process, even after the kernel reuses the pid.
    pub start_time: u64,
    /// The command name, at most 15 characters. The process can choose it freely.
    pub command: Text<16>,
    /// The kind of descriptor.
    pub via: Via,
    /// The container and the pod that its cgroup names.
    pub container: Container,
}

/// Kinds of descriptors that hold a group.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
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

/// What identifies the descriptors of one group.
struct Target {
    group: GroupId,
    /// Device numbers of the group's node and of its members' own nodes. The kernel reuses minor
    /// numbers, so they are valid for one search only.
    numbers: Vec<(u64, Via)>,
    members: Vec<DeviceId>,
}

impl Root {
    /// Calls `visit` with each visible holder of `groups`, once for each process and group.
    ///
    /// Descriptors are matched by device number (`st_rdev`), because a container can have its own
    /// device node under any name. Reads /proc of all processes, which takes milliseconds on a busy
    /// host, so search only after a change. Opens no device node. Allocates.
    ///
    /// # Errors
    /// /proc cannot be listed.
    pub fn holders(&self, groups: &[GroupId], visit: &mut dyn FnMut(Holder)) -> Result<ScanCoverage> {
        let mut buffer = Buffer::new();
        let targets: Vec<Target> = groups.iter().map(|&group| self.target(group, &mut buffer)).collect();
        let mut pids = Vec::new();
        self.list(format_args!("proc"), &mut buffer, |name| {
            pids.extend(std::str::from_utf8(name).ok().and_then(|name| name.parse::<u32>().ok()));
        })
        .map_err(|errno| Error::system(errno, "proc"))?;
        let mut coverage = ScanCoverage { pid_namespace: self.pid_namespace(), ..ScanCoverage::default() };
        for pid in pids {
            coverage.processes += 1;
            self.search_process(pid, &targets, &mut buffer, &mut coverage, visit);
        }
        Ok(coverage)
    }

    /// Collects the device numbers and the members of a group.
    fn target(&self, group: GroupId, buffer: &mut Buffer) -> Target {
        let mut numbers = Vec::new();
        let node = self
            .stat(format_args!("dev/vfio/{group}"))
            .or_else(|_| self.stat(format_args!("dev/vfio/noiommu-{group}")))
            .map(|stat| stat.st_rdev)
            .ok()
            .or_else(|| self.number_of(format_args!("sys/class/vfio/{group}/dev")))
            .or_else(|| self.number_of(format_args!("sys/class/vfio/noiommu-{group}/dev")));
        numbers.extend(node.map(|number| (number, Via::Group)));
        let mut members = Vec::new();
        let _ = self.members(group, buffer, |member| {
            members.extend(member.ok().and_then(|member| member.id()));
        });
        for &member in &members {
            if let Some(number) = self.vfio_number(member, buffer) {
                let node = self.stat(format_args!("dev/vfio/devices/vfio{number}")).map(|stat| stat.st_rdev);
                let attribute = format_args!("sys/class/vfio-dev/vfio{number}/dev");
                let device = node.ok().or_else(|| self.number_of(attribute));
                numbers.extend(device.map(|number| (number, Via::Cdev)));
            }
        }
        Target { group, numbers, members }
    }

    /// Returns a node's device number from sysfs, for a root without /dev.
    fn number_of(&self, attribute: std::fmt::Arguments<'_>) -> Option<u64> {
        let mut buffer = [0; 64];
        let text = self.read(attribute, &mut buffer).ok()?;
        let (major, minor) = std::str::from_utf8(text).ok()?.split_once(':')?;
        Some(makedev(major.parse().ok()?, minor.parse().ok()?))
    }

    /// Searches the descriptors of one process.
    fn search_process(
        &self,
        pid: u32,
        targets: &[Target],
        buffer: &mut Buffer,
        coverage: &mut ScanCoverage,
        visit: &mut dyn FnMut(Holder),
    ) {
        let mut found: Vec<(GroupId, Via)> = Vec::new();
        let mut unreadable = false;
        let mut unattributed = 0;
        let listed = self.list(format_args!("proc/{pid}/fd"), buffer, |name| {
            let Ok(fd) = std::str::from_utf8(name) else { return };
            let stat = match self.stat(format_args!("proc/{pid}/fd/{fd}")) {
                Ok(stat) => stat,
                // The descriptor was closed after the listing, or the process has ended.
                Err(Errno::NOENT | Errno::SRCH) => return,
                Err(_) => {
                    // Without CAP_SYS_PTRACE the listing succeeds and each stat fails.
                    unreadable = true;
                    return;
                }
            };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::CharacterDevice => {
                    for target in targets {
                        let node = target.numbers.iter().find(|(number, _)| *number == stat.st_rdev);
                        found.extend(node.map(|(_, via)| (target.group, *via)));
                    }
                }
                // An anonymous inode has no file type.
                FileType::Unknown => match self.device_of(pid, fd) {
                    DeviceFd::Other => {}
                    DeviceFd::Unattributed => unattributed += 1,
                    DeviceFd::Of(device) => {
                        let target = targets.iter().find(|target| target.members.contains(&device));
                        found.extend(target.map(|target| (target.group, Via::Device)));
                    }
                },
                _ => {}
            }
        });
        coverage.unattributed += unattributed;
        let gone = matches!(listed, Err(Errno::NOENT | Errno::SRCH));
        coverage.unreadable += u32::from(unreadable || (listed.is_err() && !gone));
        found.sort_by_key(|(group, via)| (*group, *via as u8));
        found.dedup_by_key(|(group, _)| *group);
        let Some((command, start_time)) = (if found.is_empty() { None } else { self.process(pid) }) else {
            return;
        };
        let container = self.container_of(pid);
        for (group, via) in found {
            visit(Holder { group, pid, start_time, command, via, container });
        }
    }

    /// Returns the device of an anonymous descriptor, if it is one of VFIO's (`vfio_device_fops`,
    /// `[vfio-device]`).
    fn device_of(&self, pid: u32, fd: &str) -> DeviceFd {
        let mut text = [0; PAGE];
        match self.link(format_args!("proc/{pid}/fd/{fd}"), &mut text) {
            Ok(b"anon_inode:[vfio-device]") => {}
            _ => return DeviceFd::Other,
        }
        let info = self.read(format_args!("proc/{pid}/fdinfo/{fd}"), &mut text).unwrap_or_default();
        info.split(|&byte| byte == b'\n')
            .find_map(|line| line.strip_prefix(b"vfio-device-syspath:"))
            .and_then(|path| DeviceId::parse(last_component(path.trim_ascii())))
            .map_or(DeviceFd::Unattributed, DeviceFd::Of)
    }

    /// Returns the command name and the start time of a process. None if it has ended or cannot be
    /// read.
    pub(crate) fn process(&self, pid: u32) -> Option<(Text<16>, u64)> {
        let mut text = [0; PAGE];
        let stat = self.read(format_args!("proc/{pid}/stat"), &mut text).ok()?;
        parse_stat(stat).map(|stat| (stat.command, stat.start_time))
    }
}

/// An anonymous descriptor.
enum DeviceFd {
    /// It is not VFIO's.
    Other,
    /// It is a VFIO device, and the kernel does not report which.
    Unattributed,
    /// It is this device.
    Of(DeviceId),
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
