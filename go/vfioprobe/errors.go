package vfioprobe

// #include "vfio_probe.h"
import "C"

import (
	"errors"
	"os"
	"sync"
	"syscall"
)

// Errors for [errors.Is]. Where the standard library has a suitable error, compare with that one: [os.ErrNotExist],
// [os.ErrPermission], or a [syscall.Errno].
var (
	// ErrHeld means that a process has the group or a device of it open. It matches [syscall.EBUSY] too.
	ErrHeld = errors.New("group is held")
	// ErrAbsent means that the group has no device node, or no device behind the node. It matches [os.ErrNotExist] too.
	ErrAbsent = errors.New("group is absent")
	// ErrUnknown means that the probe could not determine whether the group is held.
	ErrUnknown = errors.New("state of the group is unknown")
	// ErrTimedOut means that the probe did not return before its deadline. It matches [os.ErrDeadlineExceeded] too.
	ErrTimedOut = errors.New("probe timed out")
	// ErrMalformed means that the content of a file is not in the format that the kernel writes.
	ErrMalformed = errors.New("not in the format that the kernel writes")
	// ErrTooLong means that a text exceeds the kernel's limit for it.
	ErrTooLong = errors.New("exceeds the kernel's limit")
	// ErrInvalid means that an argument is invalid. It matches [os.ErrInvalid] too.
	ErrInvalid = errors.New("invalid argument")
	// ErrClosed means that the Root or Watch was closed before the call. It matches [os.ErrClosed] too.
	ErrClosed = errors.New("root or watch is closed")
)

// ErrorKind is the kind of an [Error].
type ErrorKind int32

// Kinds of [Error]. A newer library may return other kinds.
const (
	// ErrorInvalid is an invalid argument: [ErrInvalid].
	ErrorInvalid ErrorKind = C.VFP_INVALID
	// ErrorMissing is a device, group, file or directory that does not exist (ENOENT, ENODEV, ENXIO): [os.ErrNotExist].
	ErrorMissing ErrorKind = C.VFP_MISSING
	// ErrorDenied is an access that the kernel denied (EACCES, EPERM): [os.ErrPermission].
	ErrorDenied ErrorKind = C.VFP_DENIED
	// ErrorMalformed is content that is not in the format that the kernel writes: [ErrMalformed].
	ErrorMalformed ErrorKind = C.VFP_MALFORMED
	// ErrorTooLong is a text that exceeds the kernel's limit for it: [ErrTooLong].
	ErrorTooLong ErrorKind = C.VFP_TOO_LONG
	// ErrorSystem is any other errno.
	ErrorSystem ErrorKind = C.VFP_SYSTEM
	// ErrorPanic is a panic in the C library, which is a bug. The library caught it.
	ErrorPanic ErrorKind = C.VFP_PANIC
	// ErrorUnsupported is an option that only a newer C library supports: [errors.ErrUnsupported].
	ErrorUnsupported ErrorKind = C.VFP_UNSUPPORTED
)

// Error describes why a call failed, or why one device or group member could not be read.
type Error struct {
	// Kind is the kind of error.
	Kind ErrorKind `json:"kind"`
	// Errno is the kernel's errno, or 0 if no system call failed.
	Errno syscall.Errno `json:"errno"`
	// Device is the id of the device concerned, or "".
	Device string `json:"device"`
	// Group is the group concerned, or [NoGroup].
	Group GroupID `json:"group"`
	// Path is the file or directory concerned, or "". A path that the caller passed is as it was, as in an [os.PathError]. Any
	// other is relative to the root, as in sys/bus/pci/devices/0000:3b:00.0/numa_node.
	Path string `json:"path"`
	// Text is the message for people. It includes the device or the group, or the path that the caller passed.
	Text string `json:"text"`
}

// Error returns the text with the prefix "vfio-probe: ".
func (e *Error) Error() string {
	return "vfio-probe: " + e.Text
}

// Unwrap returns the errors that [errors.Is] compares with: the errno, if there is one, and the error of the kind.
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

// errorRecords is a pool of error records. Each has 8 KB, so a new one for each call would cost more than many a call does.
var errorRecords = sync.Pool{New: func() any { return new(C.vfp_error) }}

// lendError returns an error record for one call. It has the texts of an earlier error: C writes it only if the call fails. Put
// it back.
func lendError() *C.vfp_error {
	return errorRecords.Get().(*C.vfp_error)
}

// failure copies the error record of a failed call.
func failure(from *C.vfp_error) *Error {
	return &Error{
		Kind:   ErrorKind(from.status),
		Errno:  syscall.Errno(from.os_errno),
		Device: text(from.device[:]),
		Group:  GroupID(from.group),
		Path:   text(from.path[:]),
		Text:   text(from.text[:]),
	}
}

// invalid returns the error for an argument that is refused before the call of C.
func invalid(text string) *Error {
	return &Error{Kind: ErrorInvalid, Group: NoGroup, Text: text}
}

// closed is the error of a call after Close.
type closed struct{ what string }

func (c closed) Error() string { return "vfio-probe: " + c.what + " is closed" }

func (closed) Unwrap() []error { return []error{ErrClosed, os.ErrClosed} }
