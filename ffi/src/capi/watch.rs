//! The watch handle: events behind one pollable descriptor.

use super::record::{self, Record, Slots};
use super::root::{host, vfp_root};
use super::status::{
    Failure, Outcome, VFP_INVALID, VFP_NO_EVENT, VFP_NO_GROUP, VFP_OK, group_arguments, guard, guard_value,
    vfp_error, vfp_status,
};
use super::text;
use std::ffi::c_char;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use vfio_probe::{Event, Watch, monitor, watch};

/// A device was bound to a VFIO driver, or the watch found a bound device for the first time.
pub const VFP_EVENT_BOUND: i32 = 1;
/// A device is no longer bound to a VFIO driver.
pub const VFP_EVENT_UNBOUND: i32 = 2;
/// A group became held.
pub const VFP_EVENT_HELD: i32 = 3;
/// A group became free, or the watch found it free.
pub const VFP_EVENT_FREED: i32 = 4;
/// The device node, the members or the holders of a group changed, or the watch found the group
/// neither free nor held.
pub const VFP_EVENT_CHANGED: i32 = 5;
/// Events were lost: the kernel dropped some, or more than 1024 were queued during a wait. The
/// watch is up to date; read its state.
pub const VFP_EVENT_RESCAN: i32 = 6;
/// The watch has read everything once. Comes once, after the events of the devices and groups
/// that it found; without an event before it, no device is bound.
pub const VFP_EVENT_READY: i32 = 7;

/// The watch may probe groups: each group once at discovery, later only where a peek is not
/// conclusive. A VM that opens a free group during a probe gets EBUSY: pass groups that VMs may
/// be about to open to vfp_watch_set_assigned().
pub const VFP_WATCH_PROBE: u32 = 1;
/// Do not listen to kernel uevents. Bind and unbind are then found at the next interval.
pub const VFP_WATCH_NO_UEVENTS: u32 = 2;
/// Do not search for holders, and do not wait for their exits.
pub const VFP_WATCH_NO_HOLDERS: u32 = 4;

/// Settings of a watch. 0 in a field is its default.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfp_watch_options {
    /// Interval between two peeks in milliseconds; 0 means 1000.
    pub interval_ms: u32,
    /// Deadline of a probe in milliseconds; 0 means 1000.
    pub probe_deadline_ms: u32,
    /// VFP_WATCH_* flags, combined with `|`.
    pub flags: u32,
    /// Must be 0.
    pub reserved: u32,
}

const _: () = assert!(size_of::<vfp_watch_options>() == 16);

// SAFETY: repr(C), four numbers of the same size, so there is no padding.
unsafe impl Record for vfp_watch_options {}

/// An event of a watch.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfp_event {
    /// A VFP_EVENT_* value.
    pub kind: i32,
    /// The group of a held, freed or changed event, else VFP_NO_GROUP.
    pub group: u32,
    /// The device of a bound or unbound event, else "".
    pub device: [c_char; 40],
}

const _: () = assert!(size_of::<vfp_event>() == 48);

// SAFETY: repr(C); the fields add up to the size, so there is no padding.
unsafe impl Record for vfp_event {}

/// Watches all devices of a root. Its functions may be called from any thread; concurrent calls
/// wait for each other.
pub struct vfp_watch {
    watch: Mutex<Watch>,
    descriptor: watch::Descriptor,
}

impl vfp_watch {
    /// Locks the watch, also after a panic in another call: the next pass reads everything again.
    pub(super) fn lock(&self) -> MutexGuard<'_, Watch> {
        self.watch.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the descriptor to poll. Needs no lock.
    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.descriptor.as_fd()
    }
}

/// Reads the caller's options. Fields that an older header lacks are 0; a field of a newer header
/// that is not 0 is refused.
///
/// # Safety
/// `options` is NULL, or `size` bytes from it are readable.
unsafe fn options(size: usize, options: *const vfp_watch_options) -> Result<vfp_watch_options, Failure> {
    let mut known = vfp_watch_options { interval_ms: 0, probe_deadline_ms: 0, flags: 0, reserved: 0 };
    if options.is_null() {
        return Ok(known);
    }
    record::check_size::<vfp_watch_options>("size", size)?;
    // SAFETY: readable bytes by this function's contract.
    let bytes = unsafe { record::items(options.cast::<u8>(), "options", ("size", size)) }?;
    let (ours, newer) = bytes.split_at(size.min(size_of::<vfp_watch_options>()));
    if newer.iter().any(|&byte| byte != 0) {
        return Err(Failure::Unsupported("options"));
    }
    // SAFETY: at most the size of `known`, which has only integer fields.
    unsafe { std::ptr::copy_nonoverlapping(ours.as_ptr(), (&raw mut known).cast(), ours.len()) };
    if known.flags & !(VFP_WATCH_PROBE | VFP_WATCH_NO_UEVENTS | VFP_WATCH_NO_HOLDERS) != 0
        || known.reserved != 0
    {
        return Err(Failure::Unsupported("options.flags"));
    }
    Ok(known)
}

fn millis_or(millis: u32, otherwise: Duration) -> Duration {
    if millis == 0 { otherwise } else { Duration::from_millis(millis.into()) }
}

/// Creates a watch. `size` is sizeof(vfp_watch_options); NULL as `options` means the defaults.
/// Close the watch with vfp_watch_close(). The root may be closed earlier.
///
/// Does not read anything. The first calls of vfp_watch_next() report every bound device as
/// bound, and every group as held, freed or changed; VFP_EVENT_READY follows. A source that is
/// not available (uevents in a user namespace, inotify without /dev/vfio) is left out; changes
/// are then found at the next interval. Fails if no file descriptor is available. Returns
/// VFP_UNSUPPORTED for unknown options.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfp_watch_open(
    root: *const vfp_root,
    size: usize,
    options: *const vfp_watch_options,
    out_watch: *mut *mut vfp_watch,
    out_error: *mut vfp_error,
) -> vfp_status {
    let call = || -> Outcome {
        // SAFETY: the caller's handle, by the header's conventions.
        let host = unsafe { host(root) }?;
        record::require(out_watch, "out_watch")?;
        // SAFETY: the caller's record, by the header's conventions.
        let options = unsafe { self::options(size, options) }?;
        let defaults = watch::Options::default();
        let watch_options = defaults
            .with_interval(millis_or(options.interval_ms, defaults.interval))
            .with_probe(options.flags & VFP_WATCH_PROBE != 0)
            .with_probe_deadline(millis_or(options.probe_deadline_ms, defaults.probe_deadline))
            .with_uevents(options.flags & VFP_WATCH_NO_UEVENTS == 0)
            .with_holders(options.flags & VFP_WATCH_NO_HOLDERS == 0);
        let watch = Watch::with_prober(host.root.clone(), Arc::clone(&host.prober), watch_options)?;
        let descriptor = watch.descriptor();
        let watch = Box::new(vfp_watch { watch: Mutex::new(watch), descriptor });
        // SAFETY: not NULL, and writable by the header's conventions.
        unsafe { out_watch.write(Box::into_raw(watch)) };
        Ok(VFP_OK)
    };
    // SAFETY: the caller's error record, by the header's conventions.
    unsafe { guard(out_error, call) }
}

/// Closes a watch and its descriptor and sets `*watch` to NULL, as vfp_root_close() does. Takes
/// up to about 20 ms, in which the kernel ends an inotify instance (fsnotify_destroy_group()).
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfp_watch_close(watch: *mut *mut vfp_watch) {
    guard_value((), || {
        if watch.is_null() {
            return;
        }
        // SAFETY: not NULL, so the caller's variable by the header's conventions.
        let handle = unsafe { watch.replace(std::ptr::null_mut()) };
        if !handle.is_null() {
            // SAFETY: not NULL, so from vfp_watch_open(), and the caller's variable was the only reference.
            drop(unsafe { Box::from_raw(handle) });
        }
    });
}

/// Returns the descriptor to poll: it is readable when vfp_watch_next() may return an event. The
/// descriptor belongs to the watch: do not read or close it. Returns VFP_INVALID for NULL.
///
/// News that the waits of other threads have taken in makes it readable too. It stays so until a
/// call of yours has taken in the news: vfp_watch_next() or vfp_watch_update(). So it is for one
/// thread; all others wait by vfp_watch_wait() and take events by vfp_watch_next_queued().
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfp_watch_fd(watch: *const vfp_watch) -> i32 {
    guard_value(VFP_INVALID, || {
        // SAFETY: the caller's handle, by the header's conventions.
        let watch = unsafe { self::watch(watch) };
        watch.map_or(VFP_INVALID, |watch| watch.fd().as_raw_fd())
    })
}

/// Returns the next event: VFP_OK with an event, or VFP_NO_EVENT. Call it until it returns
/// VFP_NO_EVENT before you poll the descriptor: events may be queued while the descriptor is not
/// readable.
///
/// Never waits for an event. A call may run one pass over all groups (about 20 system calls with
/// 8 devices); a thread of the watch searches for holders. The first call reads everything
/// once. Fails if the bound devices cannot be listed, once for each failed pass; the watch keeps
/// its state and continues.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfp_watch_next(
    watch: *mut vfp_watch,
    size: usize,
    out_event: *mut vfp_event,
    out_error: *mut vfp_error,
) -> vfp_status {
    let call = || -> Outcome {
        // SAFETY: the caller's handle, by the header's conventions.
        let watch = unsafe { self::watch(watch) }?;
        // SAFETY: the caller's record, by the header's conventions.
        let mut slot = unsafe { Slots::one(("size", size), out_event, "out_event") }?;
        let event = watch.lock().next().transpose()?;
        event.iter().for_each(|event| slot.push(&vfp_event::from(*event)));
        Ok(event.map_or(VFP_NO_EVENT, |_| VFP_OK))
    };
    // SAFETY: the caller's error record, by the header's conventions.
    unsafe { guard(out_error, call) }
}

/// Takes in what has changed, as vfp_watch_next() does, but takes no event: VFP_OK. The events stay
/// queued; if there are more than 1024, one VFP_EVENT_RESCAN takes their place.
///
/// With vfp_watch_news() this is the step of a wait for anything: after it, evaluate your own
/// condition if the count has changed, then poll vfp_watch_fd(). Fails as vfp_watch_next() does.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfp_watch_update(watch: *mut vfp_watch, out_error: *mut vfp_error) -> vfp_status {
    let call = || -> Outcome {
        // SAFETY: the caller's handle, by the header's conventions.
        unsafe { self::watch(watch) }?.lock().update()?;
        Ok(VFP_OK)
    };
    // SAFETY: the caller's error record, by the header's conventions.
    unsafe { guard(out_error, call) }
}

/// Returns the next event that is queued: VFP_OK with an event, or VFP_NO_EVENT. As
/// vfp_watch_next(), but reads nothing of the host, so it reports no failed pass either.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfp_watch_next_queued(
    watch: *mut vfp_watch,
    size: usize,
    out_event: *mut vfp_event,
    out_error: *mut vfp_error,
) -> vfp_status {
    let call = || -> Outcome {
        // SAFETY: the caller's handle, by the header's conventions.
        let watch = unsafe { self::watch(watch) }?;
        // SAFETY: the caller's record, by the header's conventions.
        let mut slot = unsafe { Slots::one(("size", size), out_event, "out_event") }?;
        let event = watch.lock().next_queued();
        event.iter().for_each(|event| slot.push(&vfp_event::from(*event)));
        Ok(event.map_or(VFP_NO_EVENT, |_| VFP_OK))
    };
    // SAFETY: the caller's error record, by the header's conventions.
    unsafe { guard(out_error, call) }
}

/// Returns the number of events that the watch has queued so far, taken or not. While it stays the
/// same, so does everything that an event reports. Reads nothing of the host. Returns 0 for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfp_watch_news(watch: *const vfp_watch) -> u64 {
    guard_value(0, || {
        // SAFETY: the caller's handle, by the header's conventions.
        let watch = unsafe { self::watch(watch) };
        watch.map_or(0, |watch| watch.lock().news())
    })
}

/// Returns 1 if the watch has read everything once, so that vfp_watch_groups() and the others
/// list all of it, else 0. VFP_EVENT_READY is or was among the events then. Returns VFP_INVALID
/// for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfp_watch_is_ready(watch: *const vfp_watch) -> i32 {
    guard_value(VFP_INVALID, || {
        // SAFETY: the caller's handle, by the header's conventions.
        let watch = unsafe { self::watch(watch) };
        watch.map_or(VFP_INVALID, |watch| i32::from(watch.lock().is_ready()))
    })
}

/// Sets the groups that are assigned to VMs. The watch never probes them, whatever its options.
/// Replaces the previous set.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfp_watch_set_assigned(
    watch: *mut vfp_watch,
    groups: *const u32,
    group_count: usize,
    out_error: *mut vfp_error,
) -> vfp_status {
    let call = || -> Outcome {
        // SAFETY: the caller's numbers, by the header's conventions.
        let groups = unsafe { record::items(groups, "groups", ("group_count", group_count)) }?;
        let groups = group_arguments(groups)?.into_iter().collect();
        let assigned = monitor::Assigned { groups, ..Default::default() };
        // SAFETY: the caller's handle, by the header's conventions.
        unsafe { self::watch(watch) }?.lock().monitor_mut().set_assigned(assigned);
        Ok(VFP_OK)
    };
    // SAFETY: the caller's error record, by the header's conventions.
    unsafe { guard(out_error, call) }
}

/// Returns the watch behind a handle.
///
/// # Safety
/// `watch` is NULL or an open watch that is not closed while the result is in use.
pub(super) unsafe fn watch<'a>(watch: *const vfp_watch) -> Result<&'a vfp_watch, Failure> {
    // SAFETY: this function's contract.
    unsafe { watch.as_ref() }.ok_or(Failure::Argument("watch", "the handle is NULL or closed"))
}

impl From<Event> for vfp_event {
    fn from(event: Event) -> Self {
        let kind = match event {
            Event::Bound(_) => VFP_EVENT_BOUND,
            Event::Unbound(_) => VFP_EVENT_UNBOUND,
            Event::Held(_) => VFP_EVENT_HELD,
            Event::Freed(_) => VFP_EVENT_FREED,
            Event::Changed(_) => VFP_EVENT_CHANGED,
            Event::Ready => VFP_EVENT_READY,
            // Also for events that this library does not know yet: everything is to be read again.
            _ => VFP_EVENT_RESCAN,
        };
        let group = event.group().map_or(VFP_NO_GROUP, |group| group.0);
        Self { kind, group, device: text::shown_or_empty(event.device()) }
    }
}
