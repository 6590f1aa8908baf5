//! Collects what identifies the descriptors of groups: device numbers and members.

use crate::error::Result;
use crate::holders::Via;
use crate::id::{DeviceId, GroupId, unique};
use crate::root::{Buffer, Root};
use rustix::fs::makedev;

/// What identifies the descriptors of some groups.
///
/// The kernel reuses minor numbers, so targets are valid until a device is bound or unbound.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Targets {
    /// Device numbers of the groups' nodes and of their members' own nodes, sorted.
    numbers: Vec<(u64, GroupId, Via)>,
    /// The members, sorted.
    members: Vec<(DeviceId, GroupId)>,
    /// Device numbers of /dev/vfio/vfio and /dev/iommu.
    shared: Vec<u64>,
}

impl Targets {
    /// Reads the targets of groups. A group that does not exist has none. Needs about ten system
    /// calls for each group. Allocates.
    ///
    /// # Errors
    /// This process has no descriptor left to read them with.
    pub fn of(root: &Root, groups: &[GroupId]) -> Result<Self> {
        let groups = &unique(groups);
        let mut buffer = Buffer::new();
        let mut members = Vec::new();
        for &group in groups {
            let first = members.len();
            let listed = root.members(group, &mut buffer, |member| {
                members.extend(member.ok().and_then(|member| Some((group, member.id()?, None))));
            });
            match listed {
                Err(error) if error.is_shortage() => return Err(error),
                // The group has gone.
                _ => {}
            }
            for (_, member, cdev) in members.get_mut(first..).unwrap_or_default() {
                *cdev = root.vfio_number(*member, &mut buffer);
            }
        }
        Ok(Self::of_known(root, groups, &members))
    }

    /// Reads the targets of groups whose members, with N of each one's `vfioN` entry, are known.
    /// Needs one or two system calls for each group.
    pub(crate) fn of_known(
        root: &Root,
        groups: &[GroupId],
        members: &[(GroupId, DeviceId, Option<u32>)],
    ) -> Self {
        let mut targets = Self::default();
        for &group in groups {
            let number = node_number(root, format_args!("dev/vfio/{group}"))
                .or_else(|| node_number(root, format_args!("dev/vfio/noiommu-{group}")))
                .or_else(|| attribute(root, format_args!("sys/class/vfio/{group}/dev")))
                .or_else(|| attribute(root, format_args!("sys/class/vfio/noiommu-{group}/dev")));
            targets.numbers.extend(number.map(|number| (number, group, Via::Group)));
        }
        for &(group, member, cdev) in members {
            targets.members.push((member, group));
            if let Some(number) = cdev {
                let number = node_number(root, format_args!("dev/vfio/devices/vfio{number}"))
                    .or_else(|| attribute(root, format_args!("sys/class/vfio-dev/vfio{number}/dev")));
                targets.numbers.extend(number.map(|number| (number, group, Via::Cdev)));
            }
        }
        targets.numbers.sort_unstable_by_key(|&(number, group, via)| (number, group, via as u8));
        targets.members.sort_unstable();
        for (node, class) in [("dev/vfio/vfio", "vfio"), ("dev/iommu", "iommu")] {
            let number = node_number(root, format_args!("{node}"))
                .or_else(|| attribute(root, format_args!("sys/class/misc/{class}/dev")));
            targets.shared.extend(number);
        }
        targets
    }

    /// Returns the groups whose node, or whose member's node, has this device number.
    pub(super) fn with_number(&self, number: u64) -> impl Iterator<Item = (GroupId, Via)> + '_ {
        let first = self.numbers.partition_point(|&(known, _, _)| known < number);
        let same = self.numbers.iter().skip(first).take_while(move |&&(known, _, _)| known == number);
        same.map(|&(_, group, via)| (group, via))
    }

    /// Returns the group of a member.
    pub(super) fn group_of(&self, member: DeviceId) -> Option<GroupId> {
        let place = self.members.binary_search_by_key(&member, |&(known, _)| known).ok()?;
        self.members.get(place).map(|&(_, group)| group)
    }

    /// Returns whether this is the device number of /dev/vfio/vfio or /dev/iommu.
    pub(super) fn is_shared(&self, number: u64) -> bool {
        self.shared.contains(&number)
    }
}

fn node_number(root: &Root, node: std::fmt::Arguments<'_>) -> Option<u64> {
    root.stat(node).map(|stat| stat.st_rdev).ok()
}

/// Returns a node's device number from sysfs, for a root without /dev.
fn attribute(root: &Root, path: std::fmt::Arguments<'_>) -> Option<u64> {
    let mut buffer = [0; 64];
    let text = root.read(path, &mut buffer).ok()?;
    let (major, minor) = std::str::from_utf8(text).ok()?.split_once(':')?;
    Some(makedev(major.parse().ok()?, minor.parse().ok()?))
}
