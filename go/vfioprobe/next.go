package vfioprobe

// #include "vfio_probe.h"
// #cgo noescape vfp_watch_next_queued
// #cgo nocallback vfp_watch_next_queued
// #cgo noescape vfp_watch_update
// #cgo nocallback vfp_watch_update
// #cgo noescape vfp_watch_news
// #cgo nocallback vfp_watch_news
import "C"

import (
	"context"
	"errors"
	"iter"
	"os"
	"sync"
	"syscall"
	"time"
)

// Next waits for an event and returns it. An [*Error] means that the bound devices could not be listed in one pass: the watch
// keeps its state and continues, so call Next again. It returns such an error once for each failed pass, about once per
// interval. Every other error ends the wait: the error of ctx if ctx is done, or [ErrClosed] if the watch has ended.
//
// Next waits in the runtime's network poller and blocks no thread. If several goroutines wait, each event goes to one of them,
// and a failed pass to all. With an error, the event is about no device and its group is [NoGroup].
func (w *Watch) Next(ctx context.Context) (Event, error) {
	if w == nil || w.handle == nil {
		return noEvent, closed{"the watch"}
	}
	failures := w.handle.inbox.latest().failures
	return w.handle.next(ctx, &failures)
}

// Events returns an iterator that waits for events and yields them. The iteration ends only when the context of the watch
// is done or the watch is closed; the context's Err reports which.
//
// The errors are those of [Watch.Next]: an [*Error] for each failed pass. The watch continues after it.
//
// The iterator waits in the runtime's network poller and blocks no thread. After a break the watch continues, and a later
// loop starts with the queued events. If several goroutines iterate at the same time, each event goes to one of them.
func (w *Watch) Events() iter.Seq2[Event, error] {
	return func(yield func(Event, error) bool) {
		if w == nil || w.handle == nil {
			return
		}
		// A pass that fails while the body of the loop runs is for this loop too, if another goroutine waits then.
		failures := w.handle.inbox.latest().failures
		for {
			event, err := w.handle.next(context.Background(), &failures)
			if errors.Is(err, ErrClosed) || !yield(event, err) {
				return
			}
		}
	}
}

// noEvent stands for no event.
var noEvent = Event{Group: NoGroup}

// inbox passes the news of a watch to the goroutines that wait. One of them, the leader, waits in the poller; the others wait
// for the leader. The events stay in the queue of the C library until Next takes them.
type inbox struct {
	mu sync.Mutex
	// Closed and replaced after each update of the leader with news, and when the leader stops.
	changed chan struct{}
	leading bool
	known   known
	// Closed when the watch ends.
	ended chan struct{}
}

// known is what the updates have found so far.
type known struct {
	// The count of the C library.
	news uint64
	// Counts failed passes, and is the latest one.
	failures uint64
	failure  *Error
}

func (b *inbox) latest() known {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.known
}

// next waits for an event, or for a failed pass beyond *failures.
func (h *watchHandle) next(ctx context.Context, failures *uint64) (Event, error) {
	for {
		if err := h.err(ctx); err != nil {
			return noEvent, err
		}
		before := h.inbox.latest()
		if event, found, err := h.take(); found || err != nil {
			return event, err
		}
		if before.failures != *failures {
			*failures = before.failures
			return noEvent, before.failure
		}
		if err := h.await(ctx, before); err != nil {
			return noEvent, err
		}
	}
}

// take returns an event that is queued, and false if there is none.
func (h *watchHandle) take() (Event, bool, error) {
	if !h.acquire() {
		return noEvent, false, closed{"the watch"}
	}
	defer h.release()
	var record C.vfp_event
	// It fails for an invalid argument only.
	if C.vfp_watch_next_queued(h.c, C.sizeof_vfp_event, &record, nil) != C.VFP_OK {
		return noEvent, false, nil
	}
	return Event{EventKind(record.kind), text(record.device[:]), GroupID(record.group)}, true, nil
}

// err returns why a wait has to end.
func (h *watchHandle) err(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	select {
	case <-h.inbox.ended:
		return closed{"the watch"}
	default:
		return nil
	}
}

// await waits until the updates have found more than before.
func (h *watchHandle) await(ctx context.Context, before known) error {
	b := &h.inbox
	for {
		if err := h.err(ctx); err != nil {
			return err
		}
		b.mu.Lock()
		if b.known != before {
			b.mu.Unlock()
			return nil
		}
		changed, lead := b.changed, !b.leading
		b.leading = true
		b.mu.Unlock()
		if !lead {
			select {
			case <-changed:
			case <-ctx.Done():
			case <-b.ended:
			}
			continue
		}
		now, err := h.receive(ctx, before)
		b.mu.Lock()
		b.leading = false
		b.known = now
		close(b.changed)
		b.changed = make(chan struct{})
		b.mu.Unlock()
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return closed{"the watch"}
		}
	}
}

// receive waits in the poller for more than before, until the context is done. Only the leader calls it.
func (h *watchHandle) receive(ctx context.Context, before known) (known, error) {
	if ctx.Done() != nil {
		fired := make(chan struct{})
		stop := context.AfterFunc(ctx, func() {
			h.file.SetReadDeadline(time.Unix(1, 0))
			close(fired)
		})
		defer func() {
			if !stop() {
				<-fired
				h.file.SetReadDeadline(time.Time{})
			}
		}()
	}
	now := before
	// Read calls the function at once, and again when the descriptor becomes readable.
	err := h.waiter.Read(func(fd uintptr) bool {
		if !h.acquire() {
			return true
		}
		defer h.release()
		now = h.update(int(fd), before)
		return now != before
	})
	return now, err
}

// maxPasses limits the passes over a descriptor that stays readable before update waits for the poller again. The timer of
// the watch makes the descriptor readable once per interval.
const maxPasses = 8

// update takes in what has changed, without waiting. It returns before if nothing has.
func (h *watchHandle) update(fd int, before known) known {
	now := before
	failed := lendError()
	defer errorRecords.Put(failed)
	for pass := 0; ; pass++ {
		if C.vfp_watch_update(h.c, failed) < 0 {
			now.failures, now.failure = now.failures+1, failure(failed)
		}
		now.news = uint64(C.vfp_watch_news(h.c))
		// The poller is edge-triggered: it reports only that the descriptor became readable.
		if now != before || pass == maxPasses || !readable(fd) {
			return now
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
