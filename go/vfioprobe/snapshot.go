package vfioprobe

// #include "vfio_probe.h"
// #cgo noescape vfp_snapshot_take
// #cgo nocallback vfp_snapshot_take
// #cgo noescape vfp_snapshot_close
// #cgo nocallback vfp_snapshot_close
// #cgo noescape vfp_snapshot_devices
// #cgo nocallback vfp_snapshot_devices
// #cgo noescape vfp_snapshot_groups
// #cgo nocallback vfp_snapshot_groups
// #cgo noescape vfp_snapshot_holders
// #cgo nocallback vfp_snapshot_holders
import "C"

import (
	"cmp"
	"slices"
	"time"
)

// Snapshot is the result of [Root.Snapshot]: all bound devices at one moment, with their groups and holders.
type Snapshot struct {
	// Devices are the devices that could be read, ordered by ID.
	Devices []Device `json:"devices"`
	// Groups are the groups of the devices, ordered by ID.
	Groups []GroupSnapshot `json:"groups"`
	// Coverage is the coverage of the scan for holders.
	Coverage ScanCoverage `json:"coverage"`
	// Errors holds one error for each device, member of a group or directory that could not be read.
	Errors []*Error `json:"errors"`
}

// GroupSnapshot is the state of a group at one moment. StateAge is 0.
type GroupSnapshot struct {
	WatchedGroup
	// Holders are the processes that were found, ordered by PID. An empty list means nothing unless the Coverage of the
	// snapshot is complete.
	Holders []Holder `json:"holders"`
}

// Group returns a group of the snapshot, and false if it has none with this number.
func (s Snapshot) Group(id GroupID) (GroupSnapshot, bool) {
	place, found := slices.BinarySearchFunc(s.Groups, id, func(group GroupSnapshot, id GroupID) int {
		return cmp.Compare(group.ID, id)
	})
	if !found {
		return GroupSnapshot{}, false
	}
	return s.Groups[place], true
}

// Snapshot reads all bound devices with their groups and the holders of these. It opens no device and needs no privilege. A
// process in proc that has a group open shows that it is held ([EvidenceHolder]); otherwise a peek decides
// ([EvidenceEnable]). It reads proc of all processes, which takes milliseconds on a busy host.
//
// Snapshot fails if the bound devices cannot be listed.
func (r *Root) Snapshot() (Snapshot, error) { return r.snapshot(0) }

// SnapshotWithProbes does the same, and probes each group after the scan for holders, as [Root.ProbeWithin] does with a
// timeout of at least 1 ms. **While a probe has a free group open, the open of another process fails with EBUSY.**
//
// The error is [ErrInvalid] for a negative timeout.
func (r *Root) SnapshotWithProbes(timeout time.Duration) (Snapshot, error) {
	if timeout < 0 {
		return Snapshot{}, invalid("timeout: must not be negative")
	}
	return r.snapshot(C.uint32_t(max(milliseconds(timeout), 1)))
}

func (r *Root) snapshot(probeTimeout C.uint32_t) (Snapshot, error) {
	h, err := r.use()
	if err != nil {
		return Snapshot{}, err
	}
	defer h.release()
	var c *C.vfp_snapshot
	failed := lendError()
	defer errorRecords.Put(failed)
	if C.vfp_snapshot_take(h.c, probeTimeout, &c, failed) < 0 {
		return Snapshot{}, failure(failed)
	}
	defer C.vfp_snapshot_close(&c)
	var scan Scan
	var snapshot Snapshot
	var holders Holders
	var record C.vfp_scan_coverage
	err = cmp.Or(
		deviceArrays.fill(failed, func(first *C.vfp_device, capacity C.size_t, count *C.size_t) C.vfp_status {
			return C.vfp_snapshot_devices(c, C.sizeof_vfp_device, capacity, first, count, failed)
		}, scan.take),
		groupArrays.fill(failed, func(first *C.vfp_watched_group, capacity C.size_t, count *C.size_t) C.vfp_status {
			return C.vfp_snapshot_groups(c, C.sizeof_vfp_watched_group, capacity, first, count, failed)
		}, snapshot.takeGroups),
		holderArrays.fill(failed, func(first *C.vfp_holder, capacity C.size_t, count *C.size_t) C.vfp_status {
			return C.vfp_snapshot_holders(c, C.VFP_ALL_GROUPS, C.sizeof_vfp_holder, capacity, first, count,
				C.sizeof_vfp_scan_coverage, &record, failed)
		}, holders.take),
	)
	if err != nil {
		return Snapshot{}, err
	}
	snapshot.Devices, snapshot.Errors, snapshot.Coverage = scan.Devices, scan.Errors, coverage(&record)
	for i := range snapshot.Groups {
		group := &snapshot.Groups[i]
		group.Holders = holdersOf(holders.Holders, group.ID)
	}
	return snapshot, nil
}

// takeGroups converts the records to groups without their holders.
func (s *Snapshot) takeGroups(records []C.vfp_watched_group) {
	s.Groups = make([]GroupSnapshot, len(records))
	for i := range records {
		s.Groups[i].WatchedGroup = watched(&records[i])
	}
}

// holdersOf returns the part of holders, which are ordered by group, that hold the group.
func holdersOf(holders []Holder, group GroupID) []Holder {
	byGroup := func(holder Holder, group GroupID) int { return cmp.Compare(holder.Group, group) }
	first, found := slices.BinarySearchFunc(holders, group, byGroup)
	if !found {
		return nil
	}
	last, _ := slices.BinarySearchFunc(holders, group+1, byGroup)
	return holders[first:last:last]
}
