package vfioprobe

// #include "vfio_probe.h"
// #cgo noescape vfp_holders
// #cgo nocallback vfp_holders
import "C"

import (
	"cmp"
	"slices"
	"strconv"
	"time"
	"unsafe"
)

// Via is the kind of descriptor by which a process holds a group.
type Via int32

// Kinds of descriptors.
const (
	// ViaGroup is a descriptor of the group's device node, /dev/vfio/N.
	ViaGroup Via = C.VFP_VIA_GROUP
	// ViaDevice is a device descriptor obtained from the group (VFIO_GROUP_GET_DEVICE_FD).
	ViaDevice Via = C.VFP_VIA_DEVICE
	// ViaCdev is a descriptor of the device's own character device, /dev/vfio/devices/vfioN.
	ViaCdev Via = C.VFP_VIA_CDEV
)

// InPod reports whether a process is in a pod.
type InPod int32

// Answers to whether a process is in a pod.
const (
	// InPodUnknown means that the process is in the sandbox of a container runtime and its cgroup names no pod, as a VM of
	// Kata, or that its cgroup cannot be read. It never shows that a pod has ended.
	InPodUnknown InPod = C.VFP_IN_POD_UNKNOWN
	// InPodNo means that the process is in no pod.
	InPodNo InPod = C.VFP_IN_POD_NO
	// InPodYes means that the process is in the pod [Holder].PodUID.
	InPodYes InPod = C.VFP_IN_POD_YES
)

// PIDNamespace is the pid namespace that a scan for holders saw.
type PIDNamespace int32

// Pid namespaces.
const (
	// PIDNamespaceUnknown means that proc does not show its pid namespace, or hides the processes of other users.
	PIDNamespaceUnknown PIDNamespace = C.VFP_PID_NAMESPACE_UNKNOWN
	// PIDNamespaceHost is the host's, which contains every process.
	PIDNamespaceHost PIDNamespace = C.VFP_PID_NAMESPACE_HOST
	// PIDNamespaceForeign is another one, as in a container. Processes outside of it are invisible.
	PIDNamespaceForeign PIDNamespace = C.VFP_PID_NAMESPACE_FOREIGN
)

// Holder is a process that has a group or a device of it open.
type Holder struct {
	// Group is the held group.
	Group GroupID `json:"group"`
	// PID is the process id in the pid namespace of the root's proc.
	PID int `json:"pid"`
	// StartTime is the start time in clock ticks after boot (proc(5), stat field 22). Together with PID it identifies
	// the process until the next boot.
	StartTime uint64 `json:"start_time"`
	// Command is the command name (/proc/PID/comm), at most 15 characters. The process can change it. Characters other
	// than printable ASCII are replaced by "?".
	Command string `json:"command"`
	// Started is the start time, exact to a second, or the zero Time if it is not known. It follows changes of the host's
	// clock; StartTime does not.
	Started time.Time `json:"started"`
	// UID is the effective user id of the process, or [NoUID] if it could not be read.
	UID uint32 `json:"uid"`
	// Via is the kind of descriptor.
	Via Via `json:"via"`
	// InPod reports whether the process is in a pod.
	InPod InPod `json:"in_pod"`
	// PodUID is the UID of the pod in the name of the process's cgroup for [InPodYes], else "".
	PodUID string `json:"pod_uid"`
	// ContainerID is the container id in the name of the process's cgroup, 64 hex digits, else "".
	ContainerID string `json:"container_id"`
}

// String describes the process and its pod, if that is known: "pid 15935 (qemu-system-x86), pod 0d9a1c7e-...".
func (h Holder) String() string {
	text := "pid " + strconv.Itoa(h.PID) + " (" + h.Command + ")"
	if h.PodUID != "" {
		text += ", pod " + h.PodUID
	}
	return text
}

// NoUID stands for an unknown user id.
const NoUID uint32 = C.VFP_NO_UID

// started returns the time for seconds since 1970, or the zero Time for -1.
func started(seconds int64) time.Time {
	if seconds < 0 {
		return time.Time{}
	}
	return time.Unix(seconds, 0).UTC()
}

// ScanCoverage is the coverage of a scan for holders. The list of holders may be incomplete: see [ScanCoverage.Complete].
type ScanCoverage struct {
	// Processes is the number of processes in proc.
	Processes int `json:"processes"`
	// Unreadable is the number of these processes with descriptors that could not be read: processes of other users
	// without CAP_SYS_PTRACE, and processes that ended during the scan.
	Unreadable int `json:"unreadable"`
	// Unattributed is the number of open VFIO device descriptors for which the kernel does not report the device
	// (kernels before 6.18).
	Unattributed int `json:"unattributed"`
	// Unsearched is the number of processes that were not searched, because the budget of the scan ended. It is 0 for
	// [Root.Holders].
	Unsearched int `json:"unsearched"`
	// PIDNamespace is the pid namespace that was scanned.
	PIDNamespace PIDNamespace `json:"pid_namespace"`
}

// Complete reports whether the scan covered all processes of the host. Only then an empty list means that no process holds
// the group.
func (c ScanCoverage) Complete() bool {
	return c.Unreadable == 0 && c.Unattributed == 0 && c.Unsearched == 0 && c.PIDNamespace == PIDNamespaceHost
}

// Holders is the result of [Root.Holders].
type Holders struct {
	// Holders are the processes, ordered by Group and PID. A process that holds two groups is listed twice.
	Holders []Holder `json:"holders"`
	// Coverage is the coverage of the scan.
	Coverage ScanCoverage `json:"coverage"`
}

// holderArrays are the arrays of Holders.
var holderArrays records[C.vfp_holder]

// Holders finds the processes that hold any of the groups. It opens no device. It reads proc of all processes, which takes
// milliseconds on a busy host: pass all groups in one call, and call it when something changed. Processes of other users
// need CAP_SYS_PTRACE.
//
// Holders fails if proc cannot be listed. Processes that cannot be read are counted in [Holders].Coverage.
func (r *Root) Holders(groups ...GroupID) (Holders, error) {
	h, err := r.use()
	if err != nil {
		return Holders{}, err
	}
	defer h.release()
	var holders Holders
	var record C.vfp_scan_coverage
	failed := lendError()
	defer errorRecords.Put(failed)
	err = holderArrays.fill(failed, func(first *C.vfp_holder, capacity C.size_t, count *C.size_t) C.vfp_status {
		return C.vfp_holders(h.c, numbers(groups), C.size_t(len(groups)), C.sizeof_vfp_holder, capacity, first, count,
			C.sizeof_vfp_scan_coverage, &record, failed)
	}, holders.take)
	if err != nil {
		return Holders{}, err
	}
	holders.Coverage = coverage(&record)
	return holders, nil
}

// take converts the records to holders.
func (h *Holders) take(records []C.vfp_holder) {
	if len(records) == 0 {
		return
	}
	h.Holders = make([]Holder, len(records))
	for i := range records {
		record := &records[i]
		h.Holders[i] = Holder{
			Group:       GroupID(record.group),
			PID:         int(record.pid),
			StartTime:   uint64(record.start_time),
			Command:     text(record.command[:]),
			Started:     started(int64(record.started)),
			UID:         uint32(record.uid),
			Via:         Via(record.via),
			InPod:       InPod(record.in_pod),
			PodUID:      text(record.pod_uid[:]),
			ContainerID: text(record.container_id[:]),
		}
	}
	slices.SortFunc(h.Holders, func(a, b Holder) int {
		return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.PID, b.PID))
	})
}

func coverage(from *C.vfp_scan_coverage) ScanCoverage {
	return ScanCoverage{
		Processes:    int(from.processes),
		Unreadable:   int(from.unreadable),
		Unattributed: int(from.unattributed),
		Unsearched:   int(from.unsearched),
		PIDNamespace: PIDNamespace(from.pid_namespace),
	}
}

// numbers returns the groups as a C array without a copy, or NULL for none.
func numbers(groups []GroupID) *C.uint32_t {
	return (*C.uint32_t)(unsafe.Pointer(unsafe.SliceData(groups)))
}
