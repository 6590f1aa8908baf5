package vfioprobe

// #include <vfio_probe.h>
// #cgo noescape vfp_watch_groups
// #cgo nocallback vfp_watch_groups
// #cgo noescape vfp_watch_devices
// #cgo nocallback vfp_watch_devices
// #cgo noescape vfp_watch_holders
// #cgo nocallback vfp_watch_holders
// #cgo noescape vfp_watch_set_owned
// #cgo nocallback vfp_watch_set_owned
// #cgo nocallback vfp_evidence_text
import "C"

import (
	"syscall"
	"time"
)

// Evidence is what a watched group's state rests on.
type Evidence int32

// Kinds of evidence.
const (
	// EvidenceNone is that it rests on nothing yet.
	EvidenceNone Evidence = C.VFP_EVIDENCE_NONE
	// EvidenceOpen is an open of the group's node.
	EvidenceOpen Evidence = C.VFP_EVIDENCE_OPEN
	// EvidenceEnable is the enable counts of the group's functions.
	EvidenceEnable Evidence = C.VFP_EVIDENCE_ENABLE
	// EvidenceNode is the presence of the node.
	EvidenceNode Evidence = C.VFP_EVIDENCE_NODE
)

// String returns none, open, enable or node.
func (e Evidence) String() string { return C.GoString(C.vfp_evidence_text(C.int32_t(e))) }

// WatchedGroup is a group as a [Watch] knows it.
type WatchedGroup struct {
	// ID is the group's number.
	ID GroupID
	// Occupancy is whether somebody has it.
	Occupancy Occupancy
	// Evidence is what that rests on.
	Evidence Evidence
	// Peek is the latest look without opening, [PeekNone] before the first.
	Peek Peek
	// For is how long it has been so, in steps of a millisecond.
	For time.Duration
	// Members is how many members the group has, bound to VFIO or not.
	Members int
	// Viable is whether VFIO can use the group.
	Viable bool
	// Offender is the member whose driver makes it not viable, else "".
	Offender string
	// OffenderDriver is that driver, else "".
	OffenderDriver string
}

// lentWatched are the arrays of Groups.
var lentWatched records[C.vfp_watched]

// Groups tells all groups that have a bound device, by number: what the latest event knew, and none before the first. It
// reads nothing of the node. The error is [ErrClosed] when the watch has ended.
func (w *Watch) Groups() ([]WatchedGroup, error) {
	h, err := w.use()
	if err != nil {
		return nil, err
	}
	defer h.release()
	var groups []WatchedGroup
	var failed C.vfp_error
	err = lentWatched.fill(&failed, func(first *C.vfp_watched, capacity C.size_t, count *C.size_t) C.vfp_status {
		return C.vfp_watch_groups(h.c, C.sizeof_vfp_watched, capacity, first, count, &failed)
	}, func(records []C.vfp_watched) {
		groups = make([]WatchedGroup, len(records))
		for i := range records {
			groups[i] = watched(&records[i])
		}
	})
	if err != nil {
		return nil, err
	}
	return groups, nil
}

func watched(from *C.vfp_watched) WatchedGroup {
	return WatchedGroup{
		ID:             GroupID(from.group),
		Occupancy:      Occupancy{GroupID(from.group), State(from.state), Why(from.why), syscall.Errno(from.os_errno)},
		Evidence:       Evidence(from.evidence),
		Peek:           Peek(from.peek),
		For:            time.Duration(from.for_ms) * time.Millisecond,
		Members:        int(from.members),
		Viable:         from.viable != 0,
		Offender:       text(from.offender[:]),
		OffenderDriver: text(from.offender_driver[:]),
	}
}

// Devices tells all bound devices, and those that could not be read, as [Root.Scan] does: what the latest event knew. It
// reads nothing of the node, and does not know SRIOV, VFs and a virtual function's Parent. The error is [ErrClosed] when the
// watch has ended.
func (w *Watch) Devices() (Scan, error) {
	h, err := w.use()
	if err != nil {
		return Scan{}, err
	}
	defer h.release()
	var scan Scan
	var failed C.vfp_error
	err = lentDevices.fill(&failed, func(first *C.vfp_device, capacity C.size_t, count *C.size_t) C.vfp_status {
		return C.vfp_watch_devices(h.c, C.sizeof_vfp_device, capacity, first, count, &failed)
	}, scan.take)
	if err != nil {
		return Scan{}, err
	}
	return scan, nil
}

// Holders tells the known holders of a held group, as [Root.Holders] does: what the latest event knew. It reads nothing of
// the node. No holder with Looked.Processes 0 is that nobody looked, or that the group is not held. The error is [ErrClosed]
// when the watch has ended.
func (w *Watch) Holders(group GroupID) (Holders, error) {
	h, err := w.use()
	if err != nil {
		return Holders{}, err
	}
	defer h.release()
	var holders Holders
	var looked C.vfp_looked
	var failed C.vfp_error
	err = lentHolders.fill(&failed, func(first *C.vfp_holder, capacity C.size_t, count *C.size_t) C.vfp_status {
		return C.vfp_watch_holders(h.c, C.uint32_t(group), C.sizeof_vfp_holder, capacity, first, count,
			C.sizeof_vfp_looked, &looked, &failed)
	}, holders.take)
	if err != nil {
		return Holders{}, err
	}
	holders.Looked = reach(&looked)
	return holders, nil
}

// SetOwned names all groups that are given to machines: those are never opened, whatever the options. It replaces the last
// such list. The error is [ErrClosed] when the watch has ended.
func (w *Watch) SetOwned(groups ...GroupID) error {
	h, err := w.use()
	if err != nil {
		return err
	}
	defer h.release()
	var failed C.vfp_error
	if C.vfp_watch_set_owned(h.c, numbers(groups), C.size_t(len(groups)), &failed) < 0 {
		return failure(&failed)
	}
	return nil
}
