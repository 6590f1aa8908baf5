package vfioprobe

// #include "vfio_probe.h"
import "C"

import (
	"os"
	"syscall"
)

// State is the occupancy state of a group.
type State int32

// States of a group.
const (
	// Unknown means that the state could not be determined. It is neither free nor held.
	Unknown State = C.VFP_STATE_UNKNOWN
	// Free means that no process has the group open.
	Free State = C.VFP_STATE_FREE
	// Held means that a process has the group or a device of it open. A probe returns it for EBUSY only. A [Watch] also
	// derives it from the enable counts: see [WatchedGroup].Evidence.
	Held State = C.VFP_STATE_HELD
	// Absent means that the group has no device node, or no device behind the node (ENOENT, ENXIO, ENODEV).
	Absent State = C.VFP_STATE_ABSENT
)

// UnknownReason is the reason for the state [Unknown].
type UnknownReason int32

// Reasons for the state [Unknown].
const (
	// UnknownNone means that the state is not [Unknown].
	UnknownNone UnknownReason = C.VFP_UNKNOWN_NONE
	// UnknownDenied means that the kernel denied the open: EPERM from the device cgroup, EACCES from the file mode. The
	// group may be free or held.
	UnknownDenied UnknownReason = C.VFP_UNKNOWN_DENIED
	// UnknownTimedOut means that the open did not return before the deadline.
	UnknownTimedOut UnknownReason = C.VFP_UNKNOWN_TIMED_OUT
	// UnknownErrno means that the open failed with another errno: see [Occupancy].Errno.
	UnknownErrno UnknownReason = C.VFP_UNKNOWN_ERRNO
	// UnknownNotProbed means that the watch has not probed the group yet.
	UnknownNotProbed UnknownReason = C.VFP_UNKNOWN_NOT_PROBED
)

// Occupancy is the occupancy of a group, such as the result of a probe.
type Occupancy struct {
	// Group is the group.
	Group GroupID `json:"group"`
	// State is the state of the group.
	State State `json:"state"`
	// UnknownReason is the reason for the state [Unknown], else [UnknownNone].
	UnknownReason UnknownReason `json:"unknown_reason"`
	// Errno is the errno for [UnknownErrno], else 0.
	Errno syscall.Errno `json:"errno"`
}

// String returns the state, followed by the reason for an unknown state: "unknown (timed-out)".
func (o Occupancy) String() string {
	switch {
	case o.State != Unknown || o.UnknownReason == UnknownNone:
		return o.State.String()
	case o.UnknownReason == UnknownErrno:
		return o.State.String() + " (" + o.Errno.Error() + ")"
	default:
		return o.State.String() + " (" + o.UnknownReason.String() + ")"
	}
}

func occupancy(group GroupID, from *C.vfp_occupancy) Occupancy {
	return Occupancy{group, State(from.state), UnknownReason(from.unknown_reason), syscall.Errno(from.os_errno)}
}

// Err returns nil if the state is [Free], and an [*OccupancyError] otherwise. It is for callers that treat every other
// state as a failure.
func (o Occupancy) Err() error {
	if o.State == Free {
		return nil
	}
	return &OccupancyError{o}
}

// OccupancyError is the error for an [Occupancy] that is not [Free]. With [errors.Is] it matches
//
//   - [ErrHeld] and [syscall.EBUSY] for a held group;
//   - [ErrAbsent] and [os.ErrNotExist] for an absent group;
//   - [ErrUnknown] for an unknown state, and [os.ErrPermission] if the open was denied, [ErrTimedOut] and
//     [os.ErrDeadlineExceeded] if it timed out, or the [syscall.Errno] of another failure.
type OccupancyError struct{ Occupancy }

// Error returns the group and its state: "vfio-probe: group 51 is held".
func (e *OccupancyError) Error() string {
	return "vfio-probe: group " + e.Group.String() + " is " + e.Occupancy.String()
}

// Unwrap returns the errors that [errors.Is] compares with.
func (e *OccupancyError) Unwrap() []error {
	switch {
	case e.State == Held:
		return []error{ErrHeld, syscall.EBUSY}
	case e.State == Absent:
		return []error{ErrAbsent, os.ErrNotExist}
	case e.UnknownReason == UnknownDenied:
		return []error{ErrUnknown, os.ErrPermission}
	case e.UnknownReason == UnknownTimedOut:
		return []error{ErrUnknown, ErrTimedOut, os.ErrDeadlineExceeded}
	case e.UnknownReason == UnknownErrno:
		return []error{ErrUnknown, e.Errno}
	default:
		return []error{ErrUnknown}
	}
}
