package vfioprobe

// #include <vfio_probe.h>
// #cgo nocallback vfp_status_text
import "C"

import (
	"errors"
	"os"
	"syscall"
)

// Errors to compare with by [errors.Is]. What the standard library has an error for is compared with that one:
// [os.ErrNotExist], [os.ErrPermission], or a [syscall.Errno].
var (
	// ErrHeld is that some process has the group or a device of it open. Also [syscall.EBUSY], which the kernel said.
	ErrHeld = errors.New("group is held")
	// ErrAbsent is that a group has no node, or no device behind it. Also [os.ErrNotExist].
	ErrAbsent = errors.New("group is absent")
	// ErrUnknown is that it could not be told whether a group is held.
	ErrUnknown = errors.New("group is in an unknown state")
	// ErrLate is that an open did not answer in time. Also [os.ErrDeadlineExceeded].
	ErrLate = errors.New("no answer in time")
	// ErrMalformed is that something is there, but its content is not what the kernel writes.
	ErrMalformed = errors.New("not what the kernel writes")
	// ErrTooLong is that something is longer than the kernel's limit for it.
	ErrTooLong = errors.New("longer than the kernel's limit")
	// ErrInvalid is that an argument makes no sense. Also [os.ErrInvalid].
	ErrInvalid = errors.New("argument makes no sense")
	// ErrClosed is that the Root or Watch was closed before the call. Also [os.ErrClosed].
	ErrClosed = errors.New("root or watch is closed")
)

// ErrorKind is what kind of trouble an [Error] is.
type ErrorKind int32

// Kinds of [Error]. A newer library may have others.
const (
	// ErrorInvalid is an argument that makes no sense: [ErrInvalid].
	ErrorInvalid ErrorKind = C.VFP_INVALID
	// ErrorMissing is something that is not there, by ENOENT, ENODEV or ENXIO: [os.ErrNotExist].
	ErrorMissing ErrorKind = C.VFP_MISSING
	// ErrorDenied is that the kernel does not let us, by EACCES or EPERM: [os.ErrPermission].
	ErrorDenied ErrorKind = C.VFP_DENIED
	// ErrorMalformed is content that the kernel does not write: [ErrMalformed].
	ErrorMalformed ErrorKind = C.VFP_MALFORMED
	// ErrorTooLong is content longer than the kernel's limit for it: [ErrTooLong].
	ErrorTooLong ErrorKind = C.VFP_TOO_LONG
	// ErrorSystem is any other errno.
	ErrorSystem ErrorKind = C.VFP_SYSTEM
	// ErrorPanic is a defect of the C library, caught before it could do harm.
	ErrorPanic ErrorKind = C.VFP_PANIC
	// ErrorUnsupported is something that only a newer C library knows: [errors.ErrUnsupported].
	ErrorUnsupported ErrorKind = C.VFP_UNSUPPORTED
)

// String returns the word for the kind: missing, denied, malformed, too-long, system, and so on.
func (k ErrorKind) String() string {
	return C.GoString(C.vfp_status_text(C.vfp_status(k)))
}

// Error is why a call failed, or why one device or member could not be read. It is about one place, and never about
// more than that place.
type Error struct {
	// Kind is what kind of trouble.
	Kind ErrorKind
	// Errno is the kernel's errno, 0 where no system call failed.
	Errno syscall.Errno
	// Device is the id of the device that it is about, or "".
	Device string
	// Group is the group that it is about, or [NoGroup].
	Group GroupID
	// Text says what went wrong, for people; it names the device and the group already.
	Text string
}

// Error returns the text.
func (e *Error) Error() string {
	return "vfio-probe: " + e.Text
}

// Unwrap returns what [errors.Is] compares with: the errno, if there is one, and an error for the kind.
func (e *Error) Unwrap() []error {
	var all []error
	if e.Errno != 0 {
		all = append(all, e.Errno)
	}
	switch e.Kind {
	case ErrorInvalid:
		all = append(all, ErrInvalid, os.ErrInvalid)
	case ErrorMissing:
		all = append(all, os.ErrNotExist)
	case ErrorDenied:
		all = append(all, os.ErrPermission)
	case ErrorMalformed:
		all = append(all, ErrMalformed)
	case ErrorTooLong:
		all = append(all, ErrTooLong)
	case ErrorUnsupported:
		all = append(all, errors.ErrUnsupported)
	}
	return all
}

// failure copies the error that a call has written. It must be called only when the call failed.
func failure(from *C.vfp_error) *Error {
	return &Error{
		Kind:   ErrorKind(from.status),
		Errno:  syscall.Errno(from.os_errno),
		Device: text(from.device[:]),
		Group:  GroupID(from.group),
		Text:   text(from.text[:]),
	}
}

// invalid is an argument that is refused before C sees it.
func invalid(text string) *Error {
	return &Error{Kind: ErrorInvalid, Group: NoGroup, Text: text}
}

// closed is the error of a call after Close.
type closed struct{ what string }

func (c closed) Error() string { return "vfio-probe: " + c.what + " is closed" }

func (closed) Unwrap() []error { return []error{ErrClosed, os.ErrClosed} }
