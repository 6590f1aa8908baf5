package vfioprobe

// #include <vfio_probe.h>
// #cgo noescape vfp_holders
// #cgo nocallback vfp_holders
// #cgo nocallback vfp_via_text
import "C"

import (
	"cmp"
	"slices"
	"strconv"
	"unsafe"
)

// Via is by what a process holds a group.
type Via int32

// Ways to hold a group.
const (
	// ViaGroup is by the group's node.
	ViaGroup Via = C.VFP_VIA_GROUP
	// ViaDevice is by a device obtained from the group.
	ViaDevice Via = C.VFP_VIA_DEVICE
	// ViaCdev is by a device's own node, /dev/vfio/devices/vfioN.
	ViaCdev Via = C.VFP_VIA_CDEV
)

// String returns group, device or cdev.
func (v Via) String() string { return C.GoString(C.vfp_via_text(C.int32_t(v))) }

// Holder is a process that has a group, or a device of it, open.
type Holder struct {
	// Group is the group that it holds.
	Group GroupID
	// PID is its number in the root's proc.
	PID int
	// StartTime is its start in clock ticks after boot (proc(5), stat field 22): with the PID it names a process for ever.
	StartTime uint64
	// Command is its command name, at most 15 characters, as it chose it; what is not printable ASCII is ?.
	Command string
	// Via is by what it holds the group.
	Via Via
	// PodUID is the uid of the pod that its cgroup names, else "".
	PodUID string
	// ContainerID is the container that its cgroup names, 64 hex digits, else "".
	ContainerID string
}

// String returns the process for people, with its pod if it has one: pid 15935 (qemu-system-x86), pod 0d9a1c7e-...
func (h Holder) String() string {
	text := "pid " + strconv.Itoa(h.PID) + " (" + h.Command + ")"
	if h.PodUID != "" {
		text += ", pod " + h.PodUID
	}
	return text
}

// Looked is how far a look for holders reached. No holder found is never "nobody" while Unreadable or Unattributed is not
// 0: see [Looked.Complete].
type Looked struct {
	// Processes is how many processes were seen.
	Processes int
	// Unreadable is those of these whose descriptors could not be read: other users' without CAP_SYS_PTRACE, or just gone.
	Unreadable int
	// Unattributed is how many device descriptors there are whose device the kernel does not tell (before 6.18).
	Unattributed int
}

// Complete is whether the look reached everything, so that who was not found is not there.
func (l Looked) Complete() bool { return l.Processes > 0 && l.Unreadable == 0 && l.Unattributed == 0 }

// Holders is who was found.
type Holders struct {
	// Holders are the processes found, by Group and PID; one that holds two groups is there twice.
	Holders []Holder
	// Looked is how far the look reached.
	Looked Looked
}

// lentHolders are the arrays of looks for holders.
var lentHolders records[C.vfp_holder]

// Holders tells which processes hold the groups; no group is nobody. It opens no device. It reads proc of all processes,
// milliseconds on a busy host, so ask for all groups at once, and when something changed. Other users' processes need
// CAP_SYS_PTRACE.
//
// It fails when proc cannot be listed; processes that cannot be read are counted in the result's Looked.
func (r *Root) Holders(groups ...GroupID) (Holders, error) {
	h, err := r.use()
	if err != nil {
		return Holders{}, err
	}
	defer h.release()
	var holders Holders
	var looked C.vfp_looked
	var failed C.vfp_error
	err = lentHolders.fill(&failed, func(first *C.vfp_holder, capacity C.size_t, count *C.size_t) C.vfp_status {
		return C.vfp_holders(h.c, numbers(groups), C.size_t(len(groups)), C.sizeof_vfp_holder, capacity, first, count,
			C.sizeof_vfp_looked, &looked, &failed)
	}, holders.take)
	if err != nil {
		return Holders{}, err
	}
	holders.Looked = reach(&looked)
	return holders, nil
}

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
			Via:         Via(record.via),
			PodUID:      text(record.pod_uid[:]),
			ContainerID: text(record.container_id[:]),
		}
	}
	slices.SortFunc(h.Holders, func(a, b Holder) int {
		return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.PID, b.PID))
	})
}

func reach(from *C.vfp_looked) Looked {
	return Looked{int(from.processes), int(from.unreadable), int(from.unattributed)}
}

// numbers gives C the groups where they are; NULL for none.
func numbers(groups []GroupID) *C.uint32_t {
	return (*C.uint32_t)(unsafe.Pointer(unsafe.SliceData(groups)))
}
