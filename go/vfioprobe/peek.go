package vfioprobe

// #include "vfio_probe.h"
// #cgo noescape vfp_peek
// #cgo nocallback vfp_peek
import "C"

// Peek is the result of [Root.Peek].
type Peek int32

// Results of [Root.Peek].
const (
	// PeekNone means that the watch has not peeked at the group yet. Only a [WatchedGroup] has it.
	PeekNone Peek = C.VFP_PEEK_NONE
	// LooksFree means that no function of the group is enabled. A process that has the group open but no device of it is
	// not visible to a peek.
	LooksFree Peek = C.VFP_PEEK_LOOKS_FREE
	// LooksHeld means that a function of the group is enabled: a process has the device open, or the enable count is
	// left over from a previous driver.
	LooksHeld Peek = C.VFP_PEEK_LOOKS_HELD
	// PeekUnavailable means that the group has no enable count: mediated devices and vendor virtual functions.
	PeekUnavailable Peek = C.VFP_PEEK_UNAVAILABLE
)

// HasGroupNodes reports whether the kernel has device nodes for groups. Without CONFIG_VFIO_GROUP it has none: every probe
// then returns [Absent]; use [Root.Peek] instead. HasGroupNodes opens no device.
func (r *Root) HasGroupNodes() (bool, error) {
	h, err := r.use()
	if err != nil {
		return false, err
	}
	defer h.release()
	var has C.int32_t
	failed := lendError()
	defer errorRecords.Put(failed)
	if C.vfp_has_group_nodes(h.c, &has, failed) < 0 {
		return false, failure(failed)
	}
	return has != 0, nil
}

// Peek reads the sysfs attribute enable of the group's functions. It opens no device, needs no device node and no
// privilege, and disturbs no other process. A single peek has no baseline, so a count that is left over from before the
// bind looks held. A [Watch] keeps baselines.
//
// The error is [os.ErrNotExist] if there is no such group.
func (r *Root) Peek(group GroupID) (Peek, error) {
	h, err := r.use()
	if err != nil {
		return PeekUnavailable, err
	}
	defer h.release()
	var peek C.int32_t
	failed := lendError()
	defer errorRecords.Put(failed)
	if C.vfp_peek(h.c, C.uint32_t(group), &peek, failed) < 0 {
		return PeekUnavailable, failure(failed)
	}
	return Peek(peek), nil
}
