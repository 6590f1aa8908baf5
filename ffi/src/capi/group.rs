//! IOMMU groups: their viability and their members.

use super::record::{self, Record, Slots};
use super::root::{host, vfp_root};
use super::status::{Outcome, VFP_OK, group_argument, guard, status_of, vfp_error, vfp_status};
use super::text;
use std::ffi::c_char;
use vfio_probe::{Error, Member, Viability};

/// An IOMMU group as sysfs describes it.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfp_group {
    /// Group number.
    pub group: u32,
    /// Number of members that could be read.
    pub members: u32,
    /// Number of members that could not be read. `viable` is computed without them.
    pub unreadable: u32,
    /// 1 if VFIO can use the group (VFIO_GROUP_FLAGS_VIABLE), else 0. The group can be opened in
    /// both cases.
    pub viable: i32,
    /// First member with a driver that makes the group not viable, else "".
    pub offender: [c_char; 72],
    /// Driver of `offender`, else "".
    pub offender_driver: [c_char; 40],
    /// Number of members that make the group not viable. vfp_members() lists them: `offends` is
    /// 1.
    pub offenders: u32,
}

const _: () = assert!(size_of::<vfp_group>() == 132);

// SAFETY: repr(C); the fields add up to the size, so there is no padding.
unsafe impl Record for vfp_group {}

/// A member of a group: a PCI function, a mediated device, or a device of another bus.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfp_member {
    /// Name in the group's `devices` directory: a PCI address, an mdev UUID, ...
    pub name: [c_char; 72],
    /// VFP_OK, or the reason why the member could not be read. In that case only `name`,
    /// `os_errno`, `error_text` and `error_path` are set.
    pub status: vfp_status,
    /// The kernel's errno if the member could not be read, else 0.
    pub os_errno: i32,
    /// 1 if `driver` is a VFIO driver, else 0.
    pub vfio: i32,
    /// Driver name, or "" for none.
    pub driver: [c_char; 40],
    /// Error message if the member could not be read, else "".
    pub error_text: [c_char; 320],
    /// As `path` of vfp_error, if the member could not be read, else "".
    pub error_path: [c_char; 320],
    /// 1 if the member makes the group not viable, else 0.
    pub offends: i32,
}

const _: () = assert!(size_of::<vfp_member>() == 72 + 12 + 40 + 2 * 320 + 4);

// SAFETY: repr(C); the fields add up to the size, so there is no padding.
unsafe impl Record for vfp_member {}

/// Converts a viability to the fields of a C record: 1 or 0, the offending member, its driver.
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
            error_text: [0; 320],
            error_path: [0; 320],
            offends: i32::from(!member.keeps_group_viable()),
        }
    }
}

impl From<&Error> for vfp_member {
    fn from(error: &Error) -> Self {
        Self {
            name: match (error.device, error.entry()) {
                (Some(id), _) => text::shown(&id),
                (None, entry) => text::shown(&entry.unwrap_or_default().to_string_lossy()),
            },
            status: status_of(error.kind),
            os_errno: error.errno,
            vfio: 0,
            driver: [0; 40],
            error_text: text::shown(error),
            error_path: text::path(error),
            offends: 0,
        }
    }
}

/// Reads a group: the number of its members and whether VFIO can use it. Opens no device and
/// needs no privilege.
///
/// Returns VFP_MISSING if there is no such group.
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
        let id = group_argument(group)?;
        // SAFETY: the caller's record, by the header's conventions.
        let mut slot = unsafe { Slots::one(("size", size), out_group, "out_group") }?;
        let read = host.with_buffer(|root, buffer| root.group(id, buffer))?;
        let (viable, offender, offender_driver) = viability(read.viability);
        let (members, unreadable, offenders) = (read.members, read.unreadable, read.offenders);
        slot.push(&vfp_group { group, members, unreadable, viable, offender, offender_driver, offenders });
        Ok(VFP_OK)
    };
    // SAFETY: the caller's error record, by the header's conventions.
    unsafe { guard(out_error, call) }
}

/// Lists the members of a group, in no particular order. Writes the first `capacity` records and
/// sets `*out_count` to the number of members. Opens no device and needs no privilege.
///
/// Returns VFP_MISSING if there is no such group, and VFP_TRUNCATED as vfp_scan() does.
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
        let id = group_argument(group)?;
        record::require(out_count, "out_count")?;
        // SAFETY: the caller's array, by the header's conventions.
        let mut slots = unsafe { Slots::new(size, capacity, out_members, "out_members") }?;
        host.with_buffer(|root, buffer| {
            root.members(id, buffer, |member| {
                slots.push(&match &member {
                    Ok(member) => vfp_member::from(member),
                    Err(error) => vfp_member::from(error),
                });
            })
        })?;
        // SAFETY: `require` checked `out_count` above.
        Ok(unsafe { slots.finish(out_count) })
    };
    // SAFETY: the caller's error record, by the header's conventions.
    unsafe { guard(out_error, call) }
}
