//! Waits on a watch for a state or an event, without its lock.

use super::status::{
    Failure, Outcome, VFP_ALL_GROUPS, VFP_OK, VFP_TIMED_OUT, group_argument, guard, vfp_error, vfp_status,
};
use super::watch::{vfp_watch, watch};
use std::time::Duration;
use vfio_probe::watch::{Deadline, Wait};
use vfio_probe::{GroupId, Occupancy};

/// Until the group is known to be free. A group without a bound device is not free.
pub const VFP_WAIT_FREE: i32 = 1;
/// Until the group is known to be held.
pub const VFP_WAIT_HELD: i32 = 2;
/// Until there is an event. `group` is VFP_ALL_GROUPS.
pub const VFP_WAIT_EVENT: i32 = 3;

/// As `timeout_ms` of vfp_watch_wait(): without a limit.
pub const VFP_NO_TIMEOUT: u32 = u32::MAX;

/// What a call waits for.
enum Condition {
    State(GroupId, Occupancy),
    Event,
}

fn condition(number: i32, group: u32) -> Result<Condition, Failure> {
    match number {
        VFP_WAIT_FREE => Ok(Condition::State(group_argument(group)?, Occupancy::Free)),
        VFP_WAIT_HELD => Ok(Condition::State(group_argument(group)?, Occupancy::Held)),
        VFP_WAIT_EVENT if group == VFP_ALL_GROUPS => Ok(Condition::Event),
        VFP_WAIT_EVENT => Err(Failure::Argument("group", "must be VFP_ALL_GROUPS for VFP_WAIT_EVENT")),
        _ => Err(Failure::Argument("condition", "must be a VFP_WAIT_* value")),
    }
}

/// Waits until a condition is true: VFP_OK, or until `timeout_ms` milliseconds have passed:
/// VFP_TIMED_OUT. `condition` is a VFP_WAIT_* value. A timeout of 0 checks without a wait,
/// VFP_NO_TIMEOUT waits without a limit.
///
/// The condition is checked when the watch is ready, and then after each event. The call reads
/// the host as vfp_watch_next() does. Events stay queued for vfp_watch_next(); if there are more
/// than 1024, one VFP_EVENT_RESCAN takes their place. After VFP_WAIT_EVENT the next
/// vfp_watch_next() returns the event, unless another thread has taken it.
///
/// Other threads may use the watch during the wait, and wait themselves: whichever call reads a
/// change first, all waits check their conditions at once, and vfp_watch_fd() becomes readable.
/// After a wait for events, take them by vfp_watch_next_queued(). Do not close the watch while a
/// call waits: let the call end first, for example by a short timeout.
///
/// The first wait creates two more descriptors, and so does each further wait at the same time. If
/// the process has none left, the call polls vfp_watch_fd(), as only one thread can. A call with a
/// timeout of 0 is no wait: it takes the news of vfp_watch_fd(), as vfp_watch_next() does.
///
/// Fails as vfp_watch_next() does, for a pass that could not list the bound devices; call again
/// to wait on. Returns VFP_SYSTEM with EINTR in `os_errno` if a signal handler has run during the
/// call's poll(2). A signal just before it is missed, so a program that ends by a handler waits
/// with a timeout, or polls vfp_watch_fd() beside a signalfd.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn vfp_watch_wait(
    watch: *mut vfp_watch,
    condition: i32,
    group: u32,
    timeout_ms: u32,
    out_error: *mut vfp_error,
) -> vfp_status {
    let call = || -> Outcome {
        // SAFETY: the caller's handle, by the header's conventions.
        let watch = unsafe { self::watch(watch) }?;
        let condition = self::condition(condition, group)?;
        let timeout = (timeout_ms != VFP_NO_TIMEOUT).then(|| Duration::from_millis(timeout_ms.into()));
        wait(watch, &condition, timeout)
    };
    // SAFETY: the caller's error record, by the header's conventions.
    unsafe { guard(out_error, call) }
}

fn wait(watch: &vfp_watch, condition: &Condition, timeout: Option<Duration>) -> Outcome {
    let (mut wait, deadline) = (Wait::within(timeout), Deadline::after(timeout));
    loop {
        let is_true = match condition {
            Condition::Event => wait.has_event(&mut watch.lock())?,
            Condition::State(group, state) => {
                wait.step(&mut watch.lock(), |watch| watch.occupancy(*group) == Some(*state))?
            }
        };
        if is_true {
            return Ok(VFP_OK);
        }
        if !deadline.poll_or_signal(wait.fd().unwrap_or(watch.fd()))? {
            return Ok(VFP_TIMED_OUT);
        }
    }
}
