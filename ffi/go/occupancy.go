package vfioprobe

// #include <vfio_probe.h>
// #cgo nocallback vfp_state_text
// #cgo nocallback vfp_why_text
import "C"

import (
	"os"
	"syscall"
)

// State is whether somebody has a group.
type State int32

// States of a group.
const (
	// Unknown is that it could not be told: neither free nor held.
	Unknown State = C.VFP_STATE_UNKNOWN
	// Free is that nobody has the group.
	Free State = C.VFP_STATE_FREE
	// Held is that some process has the group or a device of it open: the kernel said EBUSY, and no other errno counts as
	// this. A [Watch] knows it by the enable counts, too: see [WatchedGroup].Evidence.
	Held State = C.VFP_STATE_HELD
	// Absent is that there is no node, or no device behind it.
	Absent State = C.VFP_STATE_ABSENT
)

// String returns free, held, absent or unknown.
func (s State) String() string { return C.GoString(C.vfp_state_text(C.int32_t(s))) }

// Why is why a state is [Unknown].
type Why int32

// Reasons of [Unknown].
const (
	// WhyNone is that of a state that is known.
	WhyNone Why = C.VFP_WHY_NONE
	// WhyDenied is that the open was denied: EPERM by the device cgroup, EACCES by the node's mode. It says nothing about
	// a holder.
	WhyDenied Why = C.VFP_WHY_DENIED
	// WhyLate is that there was no answer within the deadline.
	WhyLate Why = C.VFP_WHY_LATE
	// WhyErrno is another errno, in [Occupancy].Errno.
	WhyErrno Why = C.VFP_WHY_ERRNO
	// WhyNotAsked is that nobody has asked yet.
	WhyNotAsked Why = C.VFP_WHY_NOT_ASKED
)

// String returns none, denied, late, errno or not-asked.
func (w Why) String() string { return C.GoString(C.vfp_why_text(C.int32_t(w))) }

// Occupancy is whether somebody has a group, and if that is [Unknown], why.
type Occupancy struct {
	// Group is the group that it is about.
	Group GroupID
	// State is the answer.
	State State
	// Why is why it is [Unknown], else [WhyNone].
	Why Why
	// Errno is the errno of [WhyErrno], else 0.
	Errno syscall.Errno
}

// String returns the state, with the reason of an unknown one in parentheses: unknown (late).
func (o Occupancy) String() string {
	switch {
	case o.State != Unknown || o.Why == WhyNone:
		return o.State.String()
	case o.Why == WhyErrno:
		return o.State.String() + " (" + o.Errno.Error() + ")"
	default:
		return o.State.String() + " (" + o.Why.String() + ")"
	}
}

func occupancy(group GroupID, from *C.vfp_occupancy) Occupancy {
	return Occupancy{group, State(from.state), Why(from.why), syscall.Errno(from.os_errno)}
}

// Err returns nil for [Free] and for nothing else; otherwise an [*OccupancyError], for callers to which anything but
// free is a failure.
func (o Occupancy) Err() error {
	if o.State == Free {
		return nil
	}
	return &OccupancyError{o}
}

// OccupancyError is an [Occupancy] other than [Free] as an error. By [errors.Is] it is one of
//
//   - [ErrHeld], with [syscall.EBUSY];
//   - [ErrAbsent], with [os.ErrNotExist];
//   - [ErrUnknown], with [os.ErrPermission] if the open was denied, with [ErrLate] and [os.ErrDeadlineExceeded] if it
//     was late, with the [syscall.Errno] if it failed with another.
type OccupancyError struct{ Occupancy }

// Error names the group, and what [Occupancy.String] says of it.
func (e *OccupancyError) Error() string {
	return "vfio-probe: group " + e.Group.String() + " is " + e.Occupancy.String()
}

// Unwrap returns what [errors.Is] compares with.
func (e *OccupancyError) Unwrap() []error {
	switch {
	case e.State == Held:
		return []error{ErrHeld, syscall.EBUSY}
	case e.State == Absent:
		return []error{ErrAbsent, os.ErrNotExist}
	case e.Why == WhyDenied:
		return []error{ErrUnknown, os.ErrPermission}
	case e.Why == WhyLate:
		return []error{ErrUnknown, ErrLate, os.ErrDeadlineExceeded}
	case e.Why == WhyErrno:
		return []error{ErrUnknown, e.Errno}
	default:
		return []error{ErrUnknown}
	}
}
