//! IOMMU groups: viability and members.

use super::record::{self, Record, Slots};
use super::root::{host, vfp_root};
use super::status::{Outcome, VFP_OK, guard, status_of, vfp_error, vfp_status};
use super::text;
use std::ffi::c_char;
use vfio_probe::{Error, GroupId, Member, Viability};

/// What a look at all members of a group tells.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfp_group {
    /// The group's number.
    pub group: u32,
    /// How many members could be read.
    pub members: u32,
    /// How many could not; viability is that of the others.
    pub unreadable: u32,
    /// 1 if VFIO can use the group (VFIO_GROUP_FLAGS_VIABLE), else 0. An open of it succeeds either way.
    pub viable: i32,
    /// The member whose driver makes it not viable, else "".
    pub offender: [c_char; 72],
    /// That driver, else "".
    pub offender_driver: [c_char; 40],
}

const _: () = assert!(size_of::<vfp_group>() == 128);

// SAFETY: repr(C); the sum of its fields is its size, so there is no padding.
unsafe impl Record for vfp_group {
    const LEAST: usize = std::mem::offset_of!(vfp_group, offender);
}

/// A member of a group: one function, or what another bus calls its devices.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfp_member {
    /// Its name in the group's folder: a PCI address, an mdev uuid, ...
    pub name: [c_char; 72],
    /// VFP_OK, or why it could not be read: then only `name`, `os_errno` and `problem` say anything.
    pub status: vfp_status,
    /// The kernel's errno for a broken member, else 0.
    pub os_errno: i32,
    /// 1 if its driver is a VFIO driver, else 0.
    pub vfio: i32,
    /// Its driver, or "".
    pub driver: [c_char; 40],
    /// Of a broken member what is wrong, for people; else "".
    pub problem: [c_char; 160],
}

const _: () = assert!(size_of::<vfp_member>() == 72 + 12 + 40 + 160);

// SAFETY: repr(C); the sum of its fields is its size, so there is no padding.
unsafe impl Record for vfp_member {
    const LEAST: usize = std::mem::offset_of!(vfp_member, driver);
}

/// A viability as C has it: 1 or 0, the offender, its driver.
pub(super) fn viability(viability: Viability) -> (i32, [c_char; 72], [c_char; 40]) {
    match viability {
        Viability::Viable => (1, [0; 72], [0; 40]),
        Viability::NotViable { member, driver } => (0, text::shown(&member), text::shown(&driver)),
    }
}

impl From<&Member> for vfp_member {
    fn from(member: &Member) -> Self {
        Self {
            name: text::shown(&member.name),
            status: VFP_OK,
            os_errno: 0,
            vfio: i32::from(member.vfio),
            driver: text::shown_or_empty(member.driver),
            problem: [0; 160],
        }
    }
}

impl From<&Error> for vfp_member {
    fn from(error: &Error) -> Self {
        Self {
            name: error.device.map_or_else(|| text::shown(&error.entry), |id| text::shown(&id)),
            status: status_of(error.kind),
            os_errno: error.errno,
            vfio: 0,
            driver: [0; 40],
            problem: text::shown(error),
        }
    }
}

/// Looks at a group's members and tells whether VFIO can use it. Opens no device, needs no privilege.
///
/// Fails with VFP_MISSING when there is no such group.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfp_group_read(
    root: *const vfp_root,
    group: u32,
    size: usize,
    out_group: *mut vfp_group,
    out_error: *mut vfp_error,
) -> vfp_status {
    let call = || -> Outcome {
        // SAFETY: the caller's handle, by the header's conventions.
        let host = unsafe { host(root) }?;
        // SAFETY: the caller's record, by the header's conventions.
        let mut slot = unsafe { Slots::one(("size", size), out_group, "out_group") }?;
        let seen = host.with_buffer(|root, buffer| root.group(GroupId(group), buffer))?;
        let (viable, offender, offender_driver) = viability(seen.viability);
        let (members, unreadable) = (seen.members, seen.unreadable);
        slot.push(&vfp_group { group, members, unreadable, viable, offender, offender_driver });
        Ok(VFP_OK)
    };
    // SAFETY: the caller's error record, by the header's conventions.
    unsafe { guard(out_error, call) }
}

/// Tells all members of a group, in no particular order: the first `capacity` of them are written, all are counted.
///
/// Fails with VFP_MISSING when there is no such group; VFP_MORE as vfp_scan().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfp_members(
    root: *const vfp_root,
    group: u32,
    size: usize,
    capacity: usize,
    out_members: *mut vfp_member,
    out_count: *mut usize,
    out_error: *mut vfp_error,
) -> vfp_status {
    let call = || -> Outcome {
        // SAFETY: the caller's handle, by the header's conventions.
        let host = unsafe { host(root) }?;
        record::given(out_count, "out_count")?;
        // SAFETY: the caller's array, by the header's conventions.
        let mut slots = unsafe { Slots::new(size, capacity, out_members, "out_members") }?;
        host.with_buffer(|root, buffer| {
            root.members(GroupId(group), buffer, |member| {
                slots.push(&match &member {
                    Ok(member) => vfp_member::from(member),
                    Err(error) => vfp_member::from(error),
                });
            })
        })?;
        // SAFETY: looked at above.
        Ok(unsafe { slots.finish(out_count) })
    };
    // SAFETY: the caller's error record, by the header's conventions.
    unsafe { guard(out_error, call) }
}
