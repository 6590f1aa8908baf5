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

// EventKind is what kind of news an [Event] is.
type EventKind int32

// Kinds of [Event]. A newer library may have others.
const (
	// EventBound is that a device was bound to a VFIO driver, or is seen for the first time.
	EventBound EventKind = C.VFP_EVENT_BOUND
	// EventUnbound is that a device is no longer bound.
	EventUnbound EventKind = C.VFP_EVENT_UNBOUND
	// EventHeld is that a group became held.
	EventHeld EventKind = C.VFP_EVENT_HELD
	// EventFreed is that a group became free.
	EventFreed EventKind = C.VFP_EVENT_FREED
	// EventChanged is that something else about a group changed: its node, its members, its holders.
	EventChanged EventKind = C.VFP_EVENT_CHANGED
	// EventRescan is that kernel events were lost, and everything was read anew.
	EventRescan EventKind = C.VFP_EVENT_RESCAN
)

// String returns bound, unbound, held, freed, changed or rescan.
func (k EventKind) String() string { return C.GoString(C.vfp_event_text(C.int32_t(k))) }

// Event is what a [Watch] tells.
type Event struct {
	// Kind is what kind of news it is.
	Kind EventKind
	// Device is the id of the device that was bound or unbound, or "".
	Device string
	// Group is the group that was held, freed or changed, or [NoGroup].
	Group GroupID
}

// Events waits for events and yields them as they come. It ends when the watch's context is done or the watch is closed, and
// with nothing else: ask the context for the reason.
//
// An error, an [*Error], is that a look at the node failed. The watch goes on, and what was known stays; it is told again
// with each look that fails, so once an interval. The Event beside an error is the zero value.
//
// The wait is in the runtime's network poller and keeps no thread. When the loop is left the watch goes on, and a later loop
// begins with the events that were not taken. Of several goroutines that range at the same time each event goes to one.
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

// next waits for an event; false when the watch has ended.
func (w *Watch) next() (event Event, err error, ok bool) {
	if w == nil || w.handle == nil {
		return Event{}, nil, false
	}
	h := w.handle
	// The poller asks at once, and again whenever the descriptor has become readable.
	waited := h.waiter.Read(func(fd uintptr) bool {
		if !h.acquire() {
			return true
		}
		defer h.release()
		var news bool
		if event, err, news = h.take(int(fd)); news {
			ok = true
		}
		return news
	})
	return event, err, ok && waited == nil
}

// looks bounds how often a descriptor that stays readable is looked at before the poller's next word is waited for; the
// watch's own clock makes it speak once an interval.
const looks = 8

// take asks for the next event without waiting; false when there is none for now.
func (h *watchHandle) take(fd int) (Event, error, bool) {
	var record C.vfp_event
	var failed C.vfp_error
	for look := 0; ; look++ {
		status := C.vfp_watch_next(h.c, C.sizeof_vfp_event, &record, &failed)
		switch {
		case status < 0:
			return Event{}, failure(&failed), true
		case status != C.VFP_NOTHING:
			return Event{EventKind(record.kind), text(record.device[:]), GroupID(record.group)}, nil, true
		// The poller tells only that the descriptor became readable, not that it still is.
		case look == looks || !readable(fd):
			return Event{}, nil, false
		}
	}
}

// readable is whether the watch's descriptor, an epoll instance, has something to say. It takes nothing out: what the core
// has in it stays ready until it is read.
func readable(fd int) bool {
	var one [1]syscall.EpollEvent
	count, _ := syscall.EpollWait(fd, one[:], 0)
	return count != 0
}
