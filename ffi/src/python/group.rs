//! An IOMMU group and its members as frozen Python values.

use crate::python::values::push;
use pyo3::prelude::*;
use vfio_probe::{GroupId, Viability};

/// An IOMMU group as sysfs describes it.
#[pyclass(frozen, eq, hash, get_all, module = "vfio_probe")]
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Group {
    number: u32,
    members: u32,
    unreadable: u32,
    viable: bool,
    offender: Option<String>,
    offender_driver: Option<String>,
    offenders: u32,
}

impl Group {
    pub(crate) fn new(number: GroupId, group: vfio_probe::group::GroupSummary) -> Self {
        let (offender, offender_driver) = offender(group.viability);
        Self {
            number: number.0,
            members: group.members,
            unreadable: group.unreadable,
            viable: group.viability.is_viable(),
            offender,
            offender_driver,
            offenders: group.offenders,
        }
    }
}

#[pymethods]
impl Group {
    fn __repr__(&self) -> String {
        let mut text = format!("<Group {} members {}", self.number, self.members);
        text += if self.viable { " viable" } else { " not viable" };
        push(&mut text, "because of", self.offender.as_ref());
        push(&mut text, "on", self.offender_driver.as_ref());
        text + ">"
    }
}

/// A member of an IOMMU group: a PCI function, a mediated device, or a device of another bus.
#[pyclass(frozen, eq, hash, get_all, module = "vfio_probe")]
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Member {
    name: String,
    driver: Option<String>,
    vfio: bool,
    offends: bool,
}

impl From<&vfio_probe::Member> for Member {
    fn from(member: &vfio_probe::Member) -> Self {
        Self {
            name: member.name.to_string(),
            driver: member.driver.map(|driver| driver.to_string()),
            vfio: member.vfio,
            offends: !member.keeps_group_viable(),
        }
    }
}

#[pymethods]
impl Member {
    fn __repr__(&self) -> String {
        let mut text = format!("<Member {}", self.name);
        push(&mut text, "driver", self.driver.as_ref());
        text + ">"
    }
}

/// Returns the first member with a driver that makes the group not viable, and its driver.
pub(crate) fn offender(viability: Viability) -> (Option<String>, Option<String>) {
    match viability {
        Viability::Viable => (None, None),
        Viability::NotViable { member, driver } => (Some(member.to_string()), Some(driver.to_string())),
    }
}
