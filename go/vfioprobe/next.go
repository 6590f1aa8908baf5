package vfioprobe

// #include "vfio_probe.h"
// #cgo noescape vfp_watch_next
// #cgo nocallback vfp_watch_next
import "C"

import (
	"context"
	"errors"
	"iter"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

// Next waits for an event and returns it. An [*Error] means that the bound devices could not be listed in one pass: the watch
// keeps its state and continues, so call Next again. It returns such an error once for each failed pass, about once per
// interval. Every other error ends the wait: the error of ctx if ctx is done, or [ErrClosed] if the watch has ended.
//
// Next waits in the runtime's network poller and blocks no thread. If several goroutines wait, each event goes to one of them.
// With an error, the event is about no device and its group is [NoGroup].
func (w *Watch) Next(ctx context.Context) (Event, error) {
	got := news{event: noEvent}
	if err := w.readNews(ctx, &got); err != nil {
		return noEvent, err
	}
	return got.event, got.failure()
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
		// A failed pass is for this loop too while its body runs and another goroutine waits.
		w.handle.inbox.join()
		defer w.handle.inbox.leave()
		for {
			got := news{event: noEvent}
			if w.readNews(context.Background(), &got) != nil || !yield(got.event, got.failure()) {
				return
			}
		}
	}
}

// noEvent stands for no event.
var noEvent = Event{Group: NoGroup}

// news is an event or a failed pass.
type news struct {
	event Event
	err   *Error
}

// failure returns the failed pass, or nil. A nil *Error in an error is not nil.
func (n news) failure() error {
	if n.err == nil {
		return nil
	}
	return n.err
}

// maxQueued limits the events that are kept for Next during a WaitFor.
const maxQueued = 1024

// inbox passes the news of a watch to the goroutines that wait. One of them, the leader, waits in the poller; the others wait
// for the leader.
type inbox struct {
	mu sync.Mutex
	// News that a WaitFor has received, for Next.
	queue []news
	// Closed and replaced after each news, and when the leader stops.
	changed chan struct{}
	leading bool
	// Calls of Next and loops over Events in progress.
	readers int
	// Counts all news.
	count uint64
	// Counts failed passes, and is the latest one.
	failures uint64
	failure  *Error
	// Closed when the watch ends.
	ended chan struct{}
}

func (b *inbox) join() {
	b.mu.Lock()
	b.readers++
	b.mu.Unlock()
}

func (b *inbox) leave() {
	b.mu.Lock()
	b.readers--
	b.mu.Unlock()
}

// deliver queues news for Next. A failed pass is queued only if a call of Next can return it soon: [Watch.WaitFor] returns
// it otherwise.
func (b *inbox) deliver(got news) {
	b.count++
	if got.err != nil {
		b.failures++
		b.failure = got.err
		if b.readers == 0 {
			return
		}
	}
	b.queue = append(b.queue, got)
	if len(b.queue) <= maxQueued {
		return
	}
	// EventReady stays, because it comes once.
	isReady := func(n news) bool { return n.event.Kind == EventReady }
	hasReady := slices.ContainsFunc(b.queue, isReady)
	b.queue = append(b.queue[:0], news{event: Event{Kind: EventRescan, Group: NoGroup}})
	if hasReady {
		b.queue = append(b.queue, news{event: Event{Kind: EventReady, Group: NoGroup}})
	}
}

// readNews waits for news for Next.
func (w *Watch) readNews(ctx context.Context, got *news) error {
	if w == nil || w.handle == nil {
		return closed{"the watch"}
	}
	b := &w.handle.inbox
	b.join()
	defer b.leave()
	return w.handle.await(ctx, func() bool {
		if len(b.queue) == 0 {
			return false
		}
		*got = b.queue[0]
		b.queue = b.queue[1:]
		return true
	})
}

// await waits until done, which runs with the inbox locked, returns true.
func (h *watchHandle) await(ctx context.Context, done func() bool) error {
	b := &h.inbox
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		select {
		case <-b.ended:
			return closed{"the watch"}
		default:
		}
		b.mu.Lock()
		if done() {
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
		got, found, err := h.receive(ctx)
		b.mu.Lock()
		b.leading = false
		if found {
			b.deliver(got)
		}
		close(b.changed)
		b.changed = make(chan struct{})
		b.mu.Unlock()
		if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			return closed{"the watch"}
		}
	}
}

// receive waits in the poller for news, until the context is done. Only the leader calls it.
func (h *watchHandle) receive(ctx context.Context) (got news, found bool, err error) {
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
	// Read calls the function at once, and again when the descriptor becomes readable.
	err = h.waiter.Read(func(fd uintptr) bool {
		if !h.acquire() {
			return true
		}
		defer h.release()
		got, found = h.take(int(fd))
		return found
	})
	return got, found, err
}

// maxPasses limits the passes over a descriptor that stays readable before take waits for the poller again. The timer of
// the watch makes the descriptor readable once per interval.
const maxPasses = 8

// take returns the next event without waiting. The result is false if there is no event at present.
func (h *watchHandle) take(fd int) (news, bool) {
	var record C.vfp_event
	var failed C.vfp_error
	for pass := 0; ; pass++ {
		status := C.vfp_watch_next(h.c, C.sizeof_vfp_event, &record, &failed)
		switch {
		case status < 0:
			return news{noEvent, failure(&failed)}, true
		case status != C.VFP_NO_EVENT:
			return news{event: Event{EventKind(record.kind), text(record.device[:]), GroupID(record.group)}}, true
		// The poller is edge-triggered: it reports only that the descriptor became readable.
		case pass == maxPasses || !readable(fd):
			return news{}, false
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
