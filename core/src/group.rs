//! Members of an IOMMU group, and whether the group is viable: whether the kernel would let VFIO use it at all.

use crate::device::is_vfio_driver;
use crate::error::{Error, Result};
use crate::id::{DeviceId, GroupId};
use crate::root::{Buffer, Root, last_component};
use crate::text::{DriverName, Text};
use rustix::io::Errno;

/// One function (or other device) of an IOMMU group.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Member {
    /// Its name in the group's folder: a PCI address, an mdev uuid, or what another bus calls its devices.
    pub name: Text<64>,
    /// The driver that it is bound to.
    pub driver: Option<DriverName>,
    /// Whether that driver is a VFIO driver.
    pub vfio: bool,
}

impl Member {
    /// The member as a device of ours, if it is a PCI function or a mediated device.
    #[must_use]
    pub fn id(&self) -> Option<DeviceId> {
        DeviceId::parse(self.name.as_bytes())
    }

    /// Whether this member leaves its group viable: without driver, on a VFIO driver, or on one that does no DMA of
    /// its own (`driver_managed_dma`: pci-stub and pcieport besides VFIO's).
    #[must_use]
    pub fn keeps_group_viable(&self) -> bool {
        self.vfio || self.driver.is_none_or(|driver| matches!(driver.as_str(), "pci-stub" | "pcieport"))
    }
}

/// Whether a group can be used through VFIO (`VFIO_GROUP_FLAGS_VIABLE`, `iommu_group_claim_dma_owner`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Viability {
    /// It can.
    Viable,
    /// It cannot as long as `member` is bound to `driver`. Opening the group succeeds all the same.
    NotViable {
        /// The offending function.
        member: Text<64>,
        /// Its driver.
        driver: DriverName,
    },
}

impl Viability {
    /// The verdict over all members: the first that offends, if any.
    #[must_use]
    pub fn of(members: &[Member]) -> Self {
        members
            .iter()
            .find(|member| !member.keeps_group_viable())
            .and_then(|member| Some(Self::NotViable { member: member.name, driver: member.driver? }))
            .unwrap_or(Self::Viable)
    }

    /// Whether it is viable.
    #[must_use]
    pub fn is_viable(self) -> bool {
        self == Self::Viable
    }
}

/// What a look at a whole group tells.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct GroupSummary {
    /// How many members could be read.
    pub members: u32,
    /// How many could not; viability is that of the others.
    pub unreadable: u32,
    /// Whether VFIO can use it.
    pub viability: Viability,
}

impl Root {
    /// Looks at all members of a group and tells whether it is viable. Allocates nothing.
    ///
    /// # Errors
    /// There is no such group, or it cannot be listed.
    pub fn group(&self, group: GroupId, buffer: &mut Buffer) -> Result<GroupSummary> {
        let mut seen = GroupSummary { members: 0, unreadable: 0, viability: Viability::Viable };
        self.members(group, buffer, |member| match member {
            Ok(member) => {
                seen.members += 1;
                if seen.viability.is_viable() {
                    seen.viability = Viability::of(&[member]);
                }
            }
            Err(_) => seen.unreadable += 1,
        })?;
        Ok(seen)
    }

    /// Calls `visit` with every member of the group.
    ///
    /// # Errors
    /// There is no such group, or it cannot be listed. A member that cannot be read is an error item about itself.
    pub fn members(
        &self,
        group: GroupId,
        buffer: &mut Buffer,
        visit: impl FnMut(Result<Member>),
    ) -> Result<()> {
        self.members_but(group, buffer, |_| None, visit)
    }

    /// The same without asking for VFIO drivers that `known` tells.
    pub(crate) fn members_but(
        &self,
        group: GroupId,
        buffer: &mut Buffer,
        known: impl Fn(&[u8]) -> Option<DriverName>,
        mut visit: impl FnMut(Result<Member>),
    ) -> Result<()> {
        const WHAT: &str = "iommu_groups/devices";
        self.list(format_args!("sys/kernel/iommu_groups/{group}/devices"), buffer, |name| {
            let member = Text::new(name).ok_or(Error::malformed(WHAT).of_group(group).of_entry(name));
            visit(member.and_then(|member| match known(name) {
                Some(driver) => Ok(Member { name: member, driver: Some(driver), vfio: true }),
                None => self.member(group, member),
            }));
        })
        .map_err(|errno| Error::system(errno, WHAT).of_group(group))
    }

    /// The driver of one member, by a single look; none if it has none, or is no member of this group.
    ///
    /// # Errors
    /// sysfs cannot be read, or holds what the kernel would not write.
    pub fn driver_in(&self, group: GroupId, id: DeviceId) -> Result<Option<DriverName>> {
        let mut buffer = [0; 512];
        match self.link(format_args!("sys/kernel/iommu_groups/{group}/devices/{id}/driver"), &mut buffer) {
            Ok(link) => DriverName::new(last_component(link))
                .map(Some)
                .ok_or(Error::malformed("driver").of_group(group).of_device(id)),
            Err(Errno::NOENT) => Ok(None),
            Err(errno) => Err(Error::system(errno, "driver").of_group(group).of_device(id)),
        }
    }

    fn member(&self, group: GroupId, name: Text<64>) -> Result<Member> {
        let mut buffer = [0; 512];
        // A device where it is one: an entry's name is cut where an mdev's uuid still goes on.
        let about = |error: Error| match DeviceId::parse(name.as_bytes()) {
            Some(id) => error.of_group(group).of_device(id),
            None => error.of_group(group).of_entry(name.as_bytes()),
        };
        let folder = format_args!("sys/kernel/iommu_groups/{group}/devices/{name}/driver");
        let driver = match self.link(folder, &mut buffer) {
            Ok(link) => {
                Some(DriverName::new(last_component(link)).ok_or_else(|| about(Error::malformed("driver")))?)
            }
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(about(Error::system(errno, "driver"))),
        };
        // `vfio-dev/` is asked only where the name does not tell: a vendor driver like `nvidia`.
        let vfio = driver.is_some_and(|driver| {
            is_vfio_driver(driver.as_bytes())
                || self.stat(format_args!("sys/kernel/iommu_groups/{group}/devices/{name}/vfio-dev")).is_ok()
        });
        Ok(Member { name, driver, vfio })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(name: &str, driver: &str, vfio: bool) -> Member {
        let driver = (!driver.is_empty()).then(|| DriverName::new(driver.as_bytes()).unwrap());
        Member { name: Text::new(name.as_bytes()).unwrap(), driver, vfio }
    }

    #[test]
    fn a_group_is_viable_unless_a_host_driver_does_dma() {
        let gpu = member("0000:3b:00.0", "vfio-pci", true);
        for (driver, vfio, viable) in [
            ("", false, true),
            ("pci-stub", false, true),
            ("pcieport", false, true),
            ("mlx5_vfio_pci", true, true),
            ("snd_hda_intel", false, false),
            ("nvidia", true, true),
            ("nvidia", false, false),
        ] {
            let verdict = Viability::of(&[gpu, member("0000:3b:00.1", driver, vfio)]);
            assert_eq!(verdict.is_viable(), viable, "{driver}");
            if let Viability::NotViable { member, driver: offender } = verdict {
                assert_eq!((member.as_str(), offender.as_str()), ("0000:3b:00.1", driver));
            }
        }
    }
}
