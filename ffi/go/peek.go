package vfioprobe

// #include <vfio_probe.h>
// #cgo noescape vfp_peek
// #cgo nocallback vfp_peek
// #cgo nocallback vfp_peek_text
import "C"

// Peek is what a look at a group tells without opening it.
type Peek int32

// Answers of [Root.Peek].
const (
	// PeekNone is that nobody has looked yet; only in a [WatchedGroup].
	PeekNone Peek = C.VFP_PEEK_NONE
	// LooksFree is that no function of the group is enabled. A holder that has the group open but no device of it looks
	// like this too.
	LooksFree Peek = C.VFP_PEEK_LOOKS_FREE
	// LooksHeld is that a function of the group is enabled: somebody has its device open, or left the count behind.
	LooksHeld Peek = C.VFP_PEEK_LOOKS_HELD
	// Blind is that there is no count to read, as for mediated devices and vendors' virtual functions.
	Blind Peek = C.VFP_PEEK_BLIND
)

// String returns looks-free, looks-held, blind or none.
func (p Peek) String() string { return C.GoString(C.vfp_peek_text(C.int32_t(p))) }

// HasGroupNodes tells whether the kernel has nodes for groups. On one without CONFIG_VFIO_GROUP a Probe of any group answers
// Absent, and a Peek is what tells. It opens nothing.
func (r *Root) HasGroupNodes() (bool, error) {
	h, err := r.use()
	if err != nil {
		return false, err
	}
	defer h.release()
	var has C.int32_t
	var failed C.vfp_error
	if C.vfp_has_group_nodes(h.c, &has, &failed) < 0 {
		return false, failure(&failed)
	}
	return has != 0, nil
}

// Peek looks at a group without opening it, by sysfs enable of its functions. It needs no device node and no privilege,
// and disturbs nobody. A single look knows no baseline: a count may be left over from before the bind; a [Watch] knows.
//
// The error is [os.ErrNotExist] when there is no such group.
func (r *Root) Peek(group GroupID) (Peek, error) {
	h, err := r.use()
	if err != nil {
		return Blind, err
	}
	defer h.release()
	var peek C.int32_t
	var failed C.vfp_error
	if C.vfp_peek(h.c, C.uint32_t(group), &peek, &failed) < 0 {
		return Blind, failure(&failed)
	}
	return Peek(peek), nil
}
