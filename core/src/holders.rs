//! Which processes have a group, or a device of it, open: told from /proc, never from names.

use crate::cgroup::{self, Container};
use crate::error::{Error, Result};
use crate::id::{DeviceId, GroupId};
use crate::root::{Buffer, PAGE, Root, last_component};
use crate::text::Text;
use rustix::fs::{FileType, makedev};
use rustix::io::Errno;

/// One descriptor of a process that holds a group.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Holder {
    /// The group held.
    pub group: GroupId,
    /// The process, as numbered in the root's /proc.
    pub pid: u32,
    /// Its start, in clock ticks after boot (proc(5), stat field 22): with the pid it names a process for ever.
    pub start_time: u64,
    /// Its command name, at most 15 characters, as the process chose it.
    pub command: Text<16>,
    /// By which kind of descriptor.
    pub via: Via,
    /// The pod and container of its cgroup.
    pub container: Container,
}

/// Kinds of descriptors that hold a group.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Via {
    /// The group's node.
    Group,
    /// A device obtained from the group.
    Device,
    /// A device's own node; open is not yet bound, but nothing else opens it.
    Cdev,
}

impl Via {
    /// `group`, `device` or `cdev`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Group => "group",
            Self::Device => "device",
            Self::Cdev => "cdev",
        }
    }
}

/// How far a look for holders reached. **"Not found" is never "nobody"** while one of the latter two is not 0.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct ScanCoverage {
    /// Processes seen.
    pub processes: u32,
    /// Of these, those whose descriptors could not be read: other users' without CAP_SYS_PTRACE.
    pub unreadable: u32,
    /// VFIO device descriptors whose device the kernel does not tell: before 6.18 fdinfo has no `vfio-device-syspath`.
    pub unattributed: u32,
}

/// What a group's descriptors look like.
struct Target {
    group: GroupId,
    /// Device numbers of the group's node and of its members' cdevs. Minors are reused: they hold for one look only.
    nodes: Vec<(u64, Via)>,
    members: Vec<DeviceId>,
}

impl Root {
    /// Calls `visit` with every holder of `groups` that can be seen, once a process and group.
    ///
    /// Descriptors are matched by device number (`st_rdev`): a container has its own node under any name. Reads /proc of
    /// all processes: milliseconds on a busy host, so ask when something changed. Opens no device. Allocates.
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
        let mut coverage = ScanCoverage::default();
        for pid in pids {
            coverage.processes += 1;
            self.look_at(pid, &targets, &mut buffer, &mut coverage, visit);
        }
        Ok(coverage)
    }

    fn target(&self, group: GroupId, buffer: &mut Buffer) -> Target {
        let mut nodes = Vec::new();
        let node = self
            .stat(format_args!("dev/vfio/{group}"))
            .or_else(|_| self.stat(format_args!("dev/vfio/noiommu-{group}")))
            .map(|stat| stat.st_rdev)
            .ok()
            .or_else(|| self.number_of(format_args!("sys/class/vfio/{group}/dev")))
            .or_else(|| self.number_of(format_args!("sys/class/vfio/noiommu-{group}/dev")));
        nodes.extend(node.map(|node| (node, Via::Group)));
        let mut members = Vec::new();
        let _ = self.members(group, buffer, |member| {
            members.extend(member.ok().and_then(|member| member.id()));
        });
        for &member in &members {
            if let Some(number) = self.vfio_number(member, buffer) {
                let node = self.stat(format_args!("dev/vfio/devices/vfio{number}")).map(|stat| stat.st_rdev);
                let folder = format_args!("sys/class/vfio-dev/vfio{number}/dev");
                nodes.extend(node.ok().or_else(|| self.number_of(folder)).map(|node| (node, Via::Cdev)));
            }
        }
        Target { group, nodes, members }
    }

    /// A node's number from sysfs, for a root that shows no /dev.
    fn number_of(&self, attribute: std::fmt::Arguments<'_>) -> Option<u64> {
        let mut buffer = [0; 64];
        let text = self.read(attribute, &mut buffer).ok()?;
        let (major, minor) = std::str::from_utf8(text).ok()?.split_once(':')?;
        Some(makedev(major.parse().ok()?, minor.parse().ok()?))
    }

    fn look_at(
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
                // Closed since the listing, or its process has ended.
                Err(Errno::NOENT | Errno::SRCH) => return,
                Err(_) => {
                    // Without CAP_SYS_PTRACE the listing works and every stat fails.
                    unreadable = true;
                    return;
                }
            };
            match FileType::from_raw_mode(stat.st_mode) {
                FileType::CharacterDevice => {
                    for target in targets {
                        let node = target.nodes.iter().find(|(number, _)| *number == stat.st_rdev);
                        found.extend(node.map(|(_, via)| (target.group, *via)));
                    }
                }
                // An anonymous inode has no type.
                FileType::Unknown => match self.device_of(pid, fd) {
                    DeviceFd::Other => {}
                    DeviceFd::Untold => unattributed += 1,
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
        let mut text = [0; PAGE];
        let container = self
            .read(format_args!("proc/{pid}/cgroup"), &mut text)
            .map(cgroup::container)
            .unwrap_or_default();
        for (group, via) in found {
            visit(Holder { group, pid, start_time, command, via, container });
        }
    }

    /// Which device an anonymous descriptor stands for, if it is VFIO's (`vfio_device_fops`, "[vfio-device]").
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
            .map_or(DeviceFd::Untold, DeviceFd::Of)
    }

    /// A process' command name and start time.
    pub(crate) fn process(&self, pid: u32) -> Option<(Text<16>, u64)> {
        let mut text = [0; PAGE];
        let stat = self.read(format_args!("proc/{pid}/stat"), &mut text).ok()?;
        parse_stat(stat)
    }
}

enum DeviceFd {
    Other,
    Untold,
    Of(DeviceId),
}

/// Reads proc(5)'s `pid (comm) state ...`. The command may hold anything, parentheses too: the last one ends it.
fn parse_stat(stat: &[u8]) -> Option<(Text<16>, u64)> {
    let open = stat.iter().position(|&byte| byte == b'(')?;
    let close = stat.iter().rposition(|&byte| byte == b')')?;
    let command = Text::lossy(stat.get(open + 1..close)?);
    // Field 22, counted from the state, field 3.
    let field = stat.get(close + 2..)?.split(|&byte| byte == b' ').nth(19)?;
    Some((command, std::str::from_utf8(field).ok()?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_may_hold_anything() {
        let fields = "S 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 4242 20";
        let (command, start) = parse_stat(format!("77 (CPU 0/KVM) {fields}").as_bytes()).unwrap();
        assert_eq!((command.as_str(), start), ("CPU 0/KVM", 4242));
        let (command, start) = parse_stat(format!("77 (a) b) {fields}").as_bytes()).unwrap();
        assert_eq!((command.as_str(), start), ("a) b", 4242));
        assert_eq!(parse_stat(b"77 (x"), None);
        assert_eq!(parse_stat(b")("), None);
    }

    #[test]
    fn finds_this_process_by_device_number_under_another_name() {
        let folder = tempfile::tempdir().unwrap();
        let vfio = folder.path().join("dev/vfio");
        std::fs::create_dir_all(&vfio).unwrap();
        std::os::unix::fs::symlink("/proc", folder.path().join("proc")).unwrap();
        std::os::unix::fs::symlink("/dev/full", vfio.join("51")).unwrap();
        let _held = std::fs::File::open("/dev/full").unwrap();
        let mut holders = Vec::new();
        let root = Root::open(folder.path()).unwrap();
        let coverage = root.holders(&[GroupId(51), GroupId(52)], &mut |holder| holders.push(holder)).unwrap();
        let ours = holders.iter().find(|holder| holder.pid == std::process::id()).unwrap();
        assert_eq!((ours.group, ours.via), (GroupId(51), Via::Group));
        assert!(ours.start_time > 0 && coverage.processes > 0);
    }
}
