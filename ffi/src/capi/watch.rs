//! The watch handle: events behind one descriptor to poll.

use super::record::{self, Record, Slots};
use super::root::{host, vfp_root};
use super::status::{
    Failure, Outcome, VFP_INVALID, VFP_NO_GROUP, VFP_NOTHING, VFP_OK, guard, guard_value, vfp_error,
    vfp_status,
};
use super::text;
use std::ffi::c_char;
use std::os::fd::AsRawFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use vfio_probe::{Event, GroupId, Monitor, Watch, monitor, watch};

/// A device was bound to a VFIO driver, or is seen for the first time.
pub const VFP_EVENT_BOUND: i32 = 1;
/// A device is no longer bound.
pub const VFP_EVENT_UNBOUND: i32 = 2;
/// A group became held.
pub const VFP_EVENT_HELD: i32 = 3;
/// A group became free.
pub const VFP_EVENT_FREED: i32 = 4;
/// Something else about a group changed: its node, its members, its holders.
pub const VFP_EVENT_CHANGED: i32 = 5;
/// Kernel events were lost; everything was read anew.
pub const VFP_EVENT_RESCAN: i32 = 6;

/// The watch may open groups: once each at first sight, afterwards only where a look cannot tell. **A machine that opens a
/// free group in that moment gets EBUSY**; name the groups that machines are about to open with vfp_watch_set_owned().
pub const VFP_WATCH_PROBE: u32 = 1;
/// Do not listen to the kernel's uevents: what they tell at once is then found within the interval.
pub const VFP_WATCH_NO_UEVENTS: u32 = 2;
/// Do not look for holders, nor wait for their exits.
pub const VFP_WATCH_NO_HOLDERS: u32 = 4;

/// Settings of a watch; all 0 are the defaults.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfp_watch_options {
    /// Milliseconds between two looks, 0 for 1000.
    pub interval_ms: u32,
    /// Milliseconds that an open may take before it counts as unanswered, 0 for 1000.
    pub probe_deadline_ms: u32,
    /// VFP_WATCH_* added up.
    pub flags: u32,
    /// 0.
    pub reserved: u32,
}

/// What a watch tells.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct vfp_event {
    /// VFP_EVENT_*.
    pub kind: i32,
    /// The group that was held, freed or changed, or VFP_NO_GROUP.
    pub group: u32,
    /// The device that was bound or unbound, or "".
    pub device: [c_char; 40],
}

const _: () = assert!(size_of::<vfp_event>() == 48);

// SAFETY: repr(C); the sum of its fields is its size, so there is no padding.
unsafe impl Record for vfp_event {
    const LEAST: usize = size_of::<vfp_event>();
}

/// Follows all devices of a root. Its functions may be called from any thread; they wait for one another, never long.
pub struct vfp_watch(Mutex<Watch>);

impl vfp_watch {
    /// What a call that panicked left behind is whole enough: the next pass reads everything anew.
    pub(super) fn lock(&self) -> MutexGuard<'_, Watch> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The options behind a pointer: those of an older header are filled up with 0, what a newer one asks for is refused.
///
/// # Safety
/// `options` is NULL, or `size` bytes from it can be read.
unsafe fn options(size: usize, options: *const vfp_watch_options) -> Result<vfp_watch_options, Failure> {
    let mut known = vfp_watch_options { interval_ms: 0, probe_deadline_ms: 0, flags: 0, reserved: 0 };
    if options.is_null() {
        return Ok(known);
    }
    record::check_size("size", size, std::mem::offset_of!(vfp_watch_options, flags))?;
    // SAFETY: bytes that can be read, by this function's contract.
    let given = unsafe { record::items(options.cast::<u8>(), "options", ("size", size)) }?;
    let (ours, newer) = given.split_at(size.min(size_of::<vfp_watch_options>()));
    if newer.iter().any(|&byte| byte != 0) {
        return Err(Failure::Unsupported("options"));
    }
    // SAFETY: at most the size of `known`, whose every pattern of bytes is a value.
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

/// Begins to watch; NULL as `options` is the defaults, `size` their sizeof. Give it back with vfp_watch_close(); the root may
/// be closed before.
///
/// Nothing is read yet: the first vfp_watch_next() takes stock and tells every device as bound, every held group as held.
/// Sources that cannot be had (uevents in a user namespace, inotify without /dev/vfio) are done without: everything is found
/// all the same, only later. Fails when no descriptor can be had.
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
        record::given(out_watch, "out_watch")?;
        // SAFETY: the caller's record, by the header's conventions.
        let options = unsafe { self::options(size, options) }?;
        let usual = monitor::Options::default();
        let of_monitor = monitor::Options {
            interval: millis_or(options.interval_ms, usual.interval),
            probe: options.flags & VFP_WATCH_PROBE != 0,
            probe_deadline: millis_or(options.probe_deadline_ms, usual.probe_deadline),
            ..usual
        };
        let of_watch = watch::Options {
            uevents: options.flags & VFP_WATCH_NO_UEVENTS == 0,
            holders: options.flags & VFP_WATCH_NO_HOLDERS == 0,
        };
        let monitor = Monitor::new(Arc::clone(&host.root), Arc::clone(&host.prober), of_monitor)?;
        let watch = Box::new(vfp_watch(Mutex::new(Watch::new(monitor, of_watch)?)));
        // SAFETY: not NULL, and the caller's to be written.
        unsafe { out_watch.write(Box::into_raw(watch)) };
        Ok(VFP_OK)
    };
    // SAFETY: the caller's error record, by the header's conventions.
    unsafe { guard(out_error, call) }
}

/// Closes a watch with its descriptor and makes `*watch` NULL, as vfp_root_close(). Can take some 20 ms, in which the kernel
/// ends an inotify instance.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfp_watch_close(watch: *mut *mut vfp_watch) {
    guard_value((), || {
        if watch.is_null() {
            return;
        }
        // SAFETY: not NULL, so the caller's variable.
        let handle = unsafe { watch.replace(std::ptr::null_mut()) };
        if !handle.is_null() {
            // SAFETY: not NULL, so from vfp_watch_open(), and nobody else has it any more.
            drop(unsafe { Box::from_raw(handle) });
        }
    });
}

/// The descriptor to poll: readable when vfp_watch_next() may have news. Do not read or close it; it belongs to the watch.
/// VFP_INVALID for NULL.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfp_watch_fd(watch: *const vfp_watch) -> i32 {
    guard_value(VFP_INVALID, || {
        // SAFETY: the caller's handle, by the header's conventions.
        let watch = unsafe { self::watch(watch) };
        watch.map_or(VFP_INVALID, |watch| watch.lock().fd().as_raw_fd())
    })
}

/// Tells the next event: VFP_OK with one, VFP_NOTHING when there is none for now (then poll the descriptor). Call it until
/// then, since events may wait here while the descriptor is not readable.
///
/// Never waits. It may look at everything once (some 20 system calls with 8 devices) and, where a group became held, at all
/// processes; the first call, which takes stock, reads everything once. Fails when the bound devices cannot be listed, once for each look that could not; the watch goes on, and what
/// was known stays.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfp_watch_next(
    watch: *mut vfp_watch,
    size: usize,
    out_event: *mut vfp_event,
    out_error: *mut vfp_error,
) -> vfp_status {
    let call = || -> Outcome {
        // SAFETY: the caller's handle, by the header's conventions.
        let mut watch = unsafe { self::watch(watch) }?.lock();
        // SAFETY: the caller's record, by the header's conventions.
        let mut slot = unsafe { Slots::one(("size", size), out_event, "out_event") }?;
        if let Some(event) = watch.next() {
            slot.push(&vfp_event::from(event));
            return Ok(VFP_OK);
        }
        watch.take_failure().map_or(Ok(VFP_NOTHING), |error| Err(error.into()))
    };
    // SAFETY: the caller's error record, by the header's conventions.
    unsafe { guard(out_error, call) }
}

/// Names all groups that are given to machines: those are never opened, whatever the options. Replaces the last such list.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfp_watch_set_owned(
    watch: *mut vfp_watch,
    groups: *const u32,
    group_count: usize,
    out_error: *mut vfp_error,
) -> vfp_status {
    let call = || -> Outcome {
        // SAFETY: the caller's numbers, by the header's conventions.
        let groups = unsafe { record::items(groups, "groups", ("group_count", group_count)) }?;
        let owned =
            monitor::Assigned { groups: groups.iter().copied().map(GroupId).collect(), ..Default::default() };
        // SAFETY: the caller's handle, by the header's conventions.
        unsafe { self::watch(watch) }?.lock().monitor_mut().set_assigned(owned);
        Ok(VFP_OK)
    };
    // SAFETY: the caller's error record, by the header's conventions.
    unsafe { guard(out_error, call) }
}

/// The watch behind a handle.
///
/// # Safety
/// `watch` is NULL or an open watch that nobody closes meanwhile.
pub(super) unsafe fn watch<'a>(watch: *const vfp_watch) -> Result<&'a vfp_watch, Failure> {
    // SAFETY: this function's contract.
    unsafe { watch.as_ref() }.ok_or(Failure::Argument("watch", "is NULL, or closed"))
}

impl From<Event> for vfp_event {
    fn from(event: Event) -> Self {
        let kind = match event {
            Event::Bound(_) => VFP_EVENT_BOUND,
            Event::Unbound(_) => VFP_EVENT_UNBOUND,
            Event::Held(_) => VFP_EVENT_HELD,
            Event::Freed(_) => VFP_EVENT_FREED,
            Event::Changed(_) => VFP_EVENT_CHANGED,
            Event::Rescan => VFP_EVENT_RESCAN,
        };
        let group = event.group().map_or(VFP_NO_GROUP, |group| group.0);
        Self { kind, group, device: text::shown_or_empty(event.device()) }
    }
}
