//! Lists the members of an IOMMU group and judges whether the group is viable: whether the kernel
//! lets VFIO use it.

use crate::device::is_vfio_driver;
use crate::error::{Error, Result};
use crate::id::{DeviceId, GroupId};
use crate::root::{Buffer, Root, last_component};
use crate::text::{DriverName, Text};
use rustix::io::Errno;

/// One function (or other device) of an IOMMU group.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub struct Member {
    /// Its name in the group's directory: a PCI address, an mdev uuid, or the device name of
    /// another bus.
    pub name: Text<64>,
    /// The driver that it is bound to. None if it has no driver.
    pub driver: Option<DriverName>,
    /// Whether the driver is a VFIO driver.
    pub vfio: bool,
}

impl Member {
    /// Returns a member without a driver, for programs that make records by themselves. Set the other
    /// fields after it.
    #[must_use]
    pub fn new(name: Text<64>) -> Self {
        Self { name, driver: None, vfio: false }
    }

    /// Returns the member's device id. None if it is neither a PCI function nor a mediated device.
    #[must_use]
    pub fn id(&self) -> Option<DeviceId> {
        DeviceId::parse(self.name.as_bytes())
    }

    /// Returns whether the group can be viable with this member: it has no driver, a VFIO driver,
    /// or a driver that performs no DMA on behalf of the host (`driver_managed_dma`: besides the
    /// VFIO drivers, pci-stub and pcieport).
    #[must_use]
    pub fn keeps_group_viable(&self) -> bool {
        self.vfio || self.driver.is_none_or(|driver| matches!(driver.as_str(), "pci-stub" | "pcieport"))
    }
}

/// Whether a group can be used through VFIO (`VFIO_GROUP_FLAGS_VIABLE`,
/// `iommu_group_claim_dma_owner`).
///
/// Exhaustive, because the kernel knows no third answer.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Viability {
    /// VFIO can use the group.
    Viable,
    /// VFIO cannot use the group while `member` is bound to `driver`. More members may offend. An
    /// open of the group succeeds nevertheless.
    NotViable {
        /// The first offending member.
        member: Text<64>,
        /// The driver of the offending member.
        driver: DriverName,
    },
}

impl Viability {
    /// Judges a group by all its members. Names the first that offends; [`Viability::offenders`]
    /// returns all.
    #[must_use]
    pub fn of(members: &[Member]) -> Self {
        Self::offenders(members)
            .next()
            .and_then(|member| Some(Self::NotViable { member: member.name, driver: member.driver? }))
            .unwrap_or(Self::Viable)
    }

    /// Returns all members that keep their group from being viable, in the order of `members`.
    /// Allocates nothing.
    pub fn offenders(members: &[Member]) -> impl Iterator<Item = &Member> {
        members.iter().filter(|member| !member.keeps_group_viable())
    }

    /// Returns whether the group is viable.
    #[must_use]
    pub fn is_viable(self) -> bool {
        self == Self::Viable
    }
}

/// The viability of a group and the number of its members.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub struct GroupSummary {
    /// Number of members that could be read.
    pub members: u32,
    /// Number of members that could not be read. The viability is that of the others.
    pub unreadable: u32,
    /// Number of members that keep the group from being viable. [`Root::members`] lists them:
    /// [`Member::keeps_group_viable`] is false for each.
    pub offenders: u32,
    /// Whether VFIO can use the group.
    pub viability: Viability,
}

impl Root {
    /// Reads all members of a group and returns whether it is viable. Allocates nothing.
    ///
    /// # Errors
    /// The group does not exist, or cannot be listed.
    pub fn group(&self, group: GroupId, buffer: &mut Buffer) -> Result<GroupSummary> {
        let mut seen = GroupSummary { members: 0, unreadable: 0, offenders: 0, viability: Viability::Viable };
        self.members(group, buffer, |member| match member {
            Ok(member) => {
                seen.members += 1;
                seen.offenders += u32::from(!member.keeps_group_viable());
                if seen.viability.is_viable() {
                    seen.viability = Viability::of(&[member]);
                }
            }
            Err(_) => seen.unreadable += 1,
        })?;
        Ok(seen)
    }

    /// Calls `visit` with each member of a group. A member that cannot be read is passed as an
    /// error about itself.
    ///
    /// # Errors
    /// The group does not exist, or cannot be listed.
    pub fn members(
        &self,
        group: GroupId,
        buffer: &mut Buffer,
        visit: impl FnMut(Result<Member>),
    ) -> Result<()> {
        self.members_with(group, buffer, |_| None, visit)
    }

    /// Calls `visit` with each member of a group. Where `known` returns a VFIO driver for a
    /// member's name, that driver is used and not read from sysfs.
    pub(crate) fn members_with(
        &self,
        group: GroupId,
        buffer: &mut Buffer,
        known: impl Fn(&[u8]) -> Option<DriverName>,
        mut visit: impl FnMut(Result<Member>),
    ) -> Result<()> {
        const WHAT: &str = "devices";
        self.list(format_args!("sys/kernel/iommu_groups/{group}/devices"), buffer, |name| {
            let member = Text::new(name).ok_or_else(|| Error::malformed(WHAT).of_group(group).of_entry(name));
            visit(member.and_then(|member| match known(name) {
                Some(driver) => Ok(Member { name: member, driver: Some(driver), vfio: true }),
                None => self.member(group, member),
            }));
        })
        .map_err(|errno| {
            // Each group has this directory, so without it there is no group.
            Error::system(errno, if errno == Errno::NOENT { "" } else { WHAT }).of_group(group)
        })
    }

    /// Returns the driver of one member. None if it has no driver or is not a member of this group.
    /// Needs one system call.
    ///
    /// # Errors
    /// The link cannot be read, or has content that the kernel would not write.
    #[doc(hidden)]
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
        let about = |mut error: Error| match DeviceId::parse(name.as_bytes()) {
            Some(id) => error.of_group(group).of_device(id),
            None => {
                error.what = "devices";
                error.of_group(group).of_entry(name.as_bytes())
            }
        };
        let link = format_args!("sys/kernel/iommu_groups/{group}/devices/{name}/driver");
        let driver = match self.link(link, &mut buffer) {
            Ok(link) => {
                Some(DriverName::new(last_component(link)).ok_or_else(|| about(Error::malformed("driver")))?)
            }
            Err(Errno::NOENT) => None,
            Err(errno) => return Err(about(Error::system(errno, "driver"))),
        };
        // `vfio-dev/` is read only if the driver's name does not decide, as for a vendor's driver
        // like `nvidia`.
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
    fn host_driver_with_dma_makes_a_group_not_viable() {
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
            let viability = Viability::of(&[gpu, member("0000:3b:00.1", driver, vfio)]);
            assert_eq!(viability.is_viable(), viable, "{driver}");
            if let Viability::NotViable { member, driver: offender } = viability {
                assert_eq!((member.as_str(), offender.as_str()), ("0000:3b:00.1", driver));
            }
        }
    }
}
