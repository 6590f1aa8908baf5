package vfioprobe

// #include <vfio_probe.h>
// #cgo noescape vfp_watch_next
// #cgo nocallback vfp_watch_next
// #cgo nocallback vfp_event_text
import "C"

import (
	"iter"
	"syscall"
)

// EventKind is the kind of an [Event].
type EventKind int32

// Kinds of [Event]. A newer library may return other kinds.
const (
	// EventBound means that a device was bound to a VFIO driver, or that the watch found a bound device for the first
	// time.
	EventBound EventKind = C.VFP_EVENT_BOUND
	// EventUnbound means that a device is no longer bound to a VFIO driver.
	EventUnbound EventKind = C.VFP_EVENT_UNBOUND
	// EventHeld means that a group became held.
	EventHeld EventKind = C.VFP_EVENT_HELD
	// EventFreed means that a group became free.
	EventFreed EventKind = C.VFP_EVENT_FREED
	// EventChanged means that the device node, the members or the holders of a group changed.
	EventChanged EventKind = C.VFP_EVENT_CHANGED
	// EventRescan means that kernel events were lost, and the watch read everything again.
	EventRescan EventKind = C.VFP_EVENT_RESCAN
)

// String returns "bound", "unbound", "held", "freed", "changed" or "rescan".
func (k EventKind) String() string { return C.GoString(C.vfp_event_text(C.int32_t(k))) }

// Event is an event of a [Watch].
type Event struct {
	// Kind is the kind of event.
	Kind EventKind
	// Device is the id of the device of a bound or unbound event, else "".
	Device string
	// Group is the group of a held, freed or changed event, else [NoGroup].
	Group GroupID
}

// Events returns an iterator that waits for events and yields them. The iteration ends only when the context of the watch
// is done or the watch is closed; the context's Err reports which.
//
// An error is an [*Error]: the bound devices could not be listed in one pass. The watch keeps its state and continues.
// It yields the error once for each failed pass, about once per interval, with a zero Event.
//
// The iterator waits in the runtime's network poller and blocks no thread. After a break the watch continues, and a later
// loop starts with the queued events. If several goroutines iterate at the same time, each event goes to one of them.
func (w *Watch) Events() iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		for {
			event, err, ok := w.next()
			if !ok {
				return
			}
			if !yield(event, err) {
				return
			}
		}
	}
}

// next waits for an event. ok is false if the watch has ended.
func (w *Watch) next() (event Event, err error, ok bool) {
	if w == nil || w.handle == nil {
		return Event{}, nil, false
	}
	h := w.handle
	// Read calls the function at once, and again when the descriptor becomes readable.
	waited := h.waiter.Read(func(fd uintptr) bool {
		if !h.acquire() {
			return true
		}
		defer h.release()
		event, err, ok = h.take(int(fd))
		return ok
	})
	return event, err, ok && waited == nil
}

// maxPasses limits the passes over a descriptor that stays readable before take waits for the poller again. The timer of
// the watch makes the descriptor readable once per interval.
const maxPasses = 8

// take returns the next event without waiting. The result is false if there is no event at present.
func (h *watchHandle) take(fd int) (Event, error, bool) {
	var record C.vfp_event
	var failed C.vfp_error
	for pass := 0; ; pass++ {
		status := C.vfp_watch_next(h.c, C.sizeof_vfp_event, &record, &failed)
		switch {
		case status < 0:
			return Event{}, failure(&failed), true
		case status != C.VFP_NO_EVENT:
			return Event{EventKind(record.kind), text(record.device[:]), GroupID(record.group)}, nil, true
		// The poller is edge-triggered: it reports only that the descriptor became readable.
		case pass == maxPasses || !readable(fd):
			return Event{}, nil, false
		}
	}
}

// readable reports whether the watch's descriptor, an epoll instance, is readable. It consumes no event: the sources of
// the core are level-triggered.
func readable(fd int) bool {
	var one [1]syscall.EpollEvent
	count, _ := syscall.EpollWait(fd, one[:], 0)
	return count != 0
}
