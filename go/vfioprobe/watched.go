package vfioprobe

// #include "vfio_probe.h"
// #cgo noescape vfp_watch_is_ready
// #cgo nocallback vfp_watch_is_ready
// #cgo noescape vfp_watch_groups
// #cgo nocallback vfp_watch_groups
// #cgo noescape vfp_watch_group
// #cgo nocallback vfp_watch_group
// #cgo noescape vfp_watch_devices
// #cgo nocallback vfp_watch_devices
// #cgo noescape vfp_watch_holders
// #cgo nocallback vfp_watch_holders
// #cgo noescape vfp_watch_set_assigned
// #cgo nocallback vfp_watch_set_assigned
import "C"

import (
	"syscall"
	"time"
)

// Evidence is the observation that the state of a group is based on.
type Evidence int32

// Kinds of evidence.
const (
	// EvidenceNone means that there is no evidence yet.
	EvidenceNone Evidence = C.VFP_EVIDENCE_NONE
	// EvidenceOpen is a probe: an open of the group's device node.
	EvidenceOpen Evidence = C.VFP_EVIDENCE_OPEN
	// EvidenceEnable is a peek: the enable counts of the group's functions.
	EvidenceEnable Evidence = C.VFP_EVIDENCE_ENABLE
	// EvidenceNode is the presence or absence of the device node.
	EvidenceNode Evidence = C.VFP_EVIDENCE_NODE
	// EvidenceHolder is a process in proc that has the group or a device of it open.
	EvidenceHolder Evidence = C.VFP_EVIDENCE_HOLDER
)

// WatchedGroup is the state of a group as a [Watch] knows it.
type WatchedGroup struct {
	// ID is the group number.
	ID GroupID `json:"id"`
	// Occupancy is the occupancy of the group.
	Occupancy Occupancy `json:"occupancy"`
	// Evidence is the observation that Occupancy is based on.
	Evidence Evidence `json:"evidence"`
	// Peek is the latest peek, or [PeekNone] before the first.
	Peek Peek `json:"peek"`
	// StateAge is the time since the group entered this state, in whole milliseconds.
	StateAge time.Duration `json:"state_age_ns"`
	// Members is the number of members, bound to a VFIO driver or not.
	Members int `json:"members"`
	// Viable reports whether VFIO can use the group.
	Viable bool `json:"viable"`
	// Offender is the first member with a driver that makes the group not viable, else "".
	Offender string `json:"offender"`
	// OffenderDriver is the driver of Offender, else "".
	OffenderDriver string `json:"offender_driver"`
	// Offenders is the number of members that make the group not viable: [Root.Members] marks them.
	Offenders int `json:"offenders"`
}

// groupArrays are the arrays of Groups.
var groupArrays records[C.vfp_watched_group]

// Groups lists the groups that have a bound device, ordered by number, in the state of the latest event. The list is empty
// before the first event. Groups reads nothing of the host. The error is [ErrClosed] if the watch has ended.
func (w *Watch) Groups() ([]WatchedGroup, error) {
	h, err := w.use()
	if err != nil {
		return nil, err
	}
	defer h.release()
	var groups []WatchedGroup
	failed := lendError()
	defer errorRecords.Put(failed)
	err = groupArrays.fill(failed, func(first *C.vfp_watched_group, capacity C.size_t, count *C.size_t) C.vfp_status {
		return C.vfp_watch_groups(h.c, C.sizeof_vfp_watched_group, capacity, first, count, failed)
	}, func(records []C.vfp_watched_group) {
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

// Group returns the state of one group, as [Watch.Groups] does, and false if the watch does not list it. It reads nothing of
// the host. The error is [ErrClosed] if the watch has ended.
func (w *Watch) Group(id GroupID) (WatchedGroup, bool, error) {
	h, err := w.use()
	if err != nil {
		return WatchedGroup{}, false, err
	}
	defer h.release()
	var record C.vfp_watched_group
	failed := lendError()
	defer errorRecords.Put(failed)
	switch status := C.vfp_watch_group(h.c, C.uint32_t(id), C.sizeof_vfp_watched_group, &record, failed); {
	case status == C.VFP_MISSING:
		return WatchedGroup{}, false, nil
	case status < 0:
		return WatchedGroup{}, false, failure(failed)
	}
	return watched(&record), true, nil
}

// Ready reports whether the watch has read everything once. [EventReady] is the event of it. It is false for a watch that has
// ended.
func (w *Watch) Ready() bool {
	h, err := w.use()
	if err != nil {
		return false
	}
	defer h.release()
	return C.vfp_watch_is_ready(h.c) > 0
}

func watched(from *C.vfp_watched_group) WatchedGroup {
	return WatchedGroup{
		ID:             GroupID(from.group),
		Occupancy:      Occupancy{GroupID(from.group), State(from.state), UnknownReason(from.unknown_reason), syscall.Errno(from.os_errno)},
		Evidence:       Evidence(from.evidence),
		Peek:           Peek(from.peek),
		StateAge:       time.Duration(from.state_age_ms) * time.Millisecond,
		Members:        int(from.members),
		Viable:         from.viable != 0,
		Offender:       text(from.offender[:]),
		OffenderDriver: text(from.offender_driver[:]),
		Offenders:      int(from.offenders),
	}
}

// Devices lists the bound devices and those that could not be read, as [Root.Scan] does, in the state of the latest event.
// It reads nothing of the host. SRIOV, VFs and the Parent of a virtual function are not set. The error is [ErrClosed] if
// the watch has ended.
func (w *Watch) Devices() (Scan, error) {
	h, err := w.use()
	if err != nil {
		return Scan{}, err
	}
	defer h.release()
	var scan Scan
	failed := lendError()
	defer errorRecords.Put(failed)
	err = deviceArrays.fill(failed, func(first *C.vfp_device, capacity C.size_t, count *C.size_t) C.vfp_status {
		return C.vfp_watch_devices(h.c, C.sizeof_vfp_device, capacity, first, count, failed)
	}, scan.take)
	if err != nil {
		return Scan{}, err
	}
	return scan, nil
}

// Holders lists the known holders of a held group, as [Root.Holders] does, in the state of the latest event. It reads
// nothing of the host. If Coverage.Processes is 0, the group is not held or was not searched for holders. The error is
// [ErrClosed] if the watch has ended.
func (w *Watch) Holders(group GroupID) (Holders, error) {
	h, err := w.use()
	if err != nil {
		return Holders{}, err
	}
	defer h.release()
	var holders Holders
	var record C.vfp_scan_coverage
	failed := lendError()
	defer errorRecords.Put(failed)
	err = holderArrays.fill(failed, func(first *C.vfp_holder, capacity C.size_t, count *C.size_t) C.vfp_status {
		return C.vfp_watch_holders(h.c, C.uint32_t(group), C.sizeof_vfp_holder, capacity, first, count,
			C.sizeof_vfp_scan_coverage, &record, failed)
	}, holders.take)
	if err != nil {
		return Holders{}, err
	}
	holders.Coverage = coverage(&record)
	return holders, nil
}

// SetAssigned sets the groups that are assigned to VMs. The watch never probes them, whatever its options. It replaces the
// previous set. The error is [ErrClosed] if the watch has ended.
func (w *Watch) SetAssigned(groups ...GroupID) error {
	h, err := w.use()
	if err != nil {
		return err
	}
	defer h.release()
	failed := lendError()
	defer errorRecords.Put(failed)
	if C.vfp_watch_set_assigned(h.c, numbers(groups), C.size_t(len(groups)), failed) < 0 {
		return failure(failed)
	}
	return nil
}
