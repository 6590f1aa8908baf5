package vfioprobe

// #include "vfio_probe.h"
// #cgo noescape vfp_watch_open
// #cgo nocallback vfp_watch_open
// #cgo noescape vfp_watch_close
// #cgo nocallback vfp_watch_close
// #cgo noescape vfp_watch_fd
// #cgo nocallback vfp_watch_fd
import "C"

import (
	"context"
	"os"
	"runtime"
	"sync"
	"syscall"
	"time"
)

// WatchOptions are the settings of a watch. The zero value holds the defaults.
type WatchOptions struct {
	// Interval is the time between two peeks, rounded up to milliseconds; 0 means one second.
	Interval time.Duration
	// Probe allows the watch to probe groups: each group once at discovery, later only where a peek is not conclusive. A
	// VM that opens a free group during a probe gets EBUSY: pass groups that VMs may be about to open to
	// [Watch.SetAssigned].
	Probe bool
	// ProbeDeadline is the deadline of a probe, rounded up to milliseconds; 0 means one second.
	ProbeDeadline time.Duration
	// NoUevents disables kernel uevents. Bind and unbind are then found at the next interval.
	NoUevents bool
	// NoHolders disables the search for holders and the wait for their exits.
	NoHolders bool
}

// Watch watches all devices of a root until its context is done or it is closed. Its methods may be called from any
// goroutine. Concurrent calls wait for each other, but not for a range over [Watch.Events] that waits for an event.
type Watch struct {
	handle *watchHandle
}

// watchHandle is separate from Watch, so that the garbage collector can find an unreachable Watch.
type watchHandle struct {
	handle
	c *C.vfp_watch
	// A duplicate of the watch's descriptor, for the runtime's poller.
	file   *os.File
	waiter syscall.RawConn
	// Cancels the callback of the context.
	stop func() bool
	// Closes inbox.ended.
	ending sync.Once
	inbox  inbox
}

// closing serializes the closes of watches. The close of an inotify instance blocks a thread for about ten milliseconds,
// because fsnotify_destroy_group() waits for an SRCU grace period.
var closing sync.Mutex

// Watch creates a watch, which lasts until the context is done or the watch is closed. The root may be closed earlier.
// Watch does not read anything. The first events report every bound device as [EventBound], every held group as
// [EventHeld], every free one as [EventFreed] and every other one as [EventChanged]. [EventReady] ends them. A source that is
// not available, such as uevents in a user namespace, is left out; changes are then found at the next interval.
//
// The error is the context's error if it is done already, [ErrInvalid] for a negative duration, [ErrClosed] for a closed
// root, and a [syscall.Errno] if no file descriptor is available.
func (r *Root) Watch(ctx context.Context, options WatchOptions) (*Watch, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	settings, err := options.settings()
	if err != nil {
		return nil, err
	}
	root, err := r.use()
	if err != nil {
		return nil, err
	}
	defer root.release()
	h := &watchHandle{inbox: inbox{changed: make(chan struct{}), ended: make(chan struct{})}}
	failed := lendError()
	defer errorRecords.Put(failed)
	if C.vfp_watch_open(root.c, C.sizeof_vfp_watch_options, &settings, &h.c, failed) < 0 {
		return nil, failure(failed)
	}
	h.free = func() {
		closing.Lock()
		defer closing.Unlock()
		C.vfp_watch_close(&h.c)
	}
	if err := h.wait(); err != nil {
		h.close()
		return nil, err
	}
	h.stop = context.AfterFunc(ctx, h.shut)
	watch := &Watch{h}
	// The close takes milliseconds, so it must not run on a goroutine that the runtime shares among all cleanups.
	runtime.AddCleanup(watch, func(h *watchHandle) { go h.end() }, h)
	return watch, nil
}

func (o WatchOptions) settings() (C.vfp_watch_options, error) {
	var settings C.vfp_watch_options
	if o.Interval < 0 || o.ProbeDeadline < 0 {
		return settings, invalid("options: durations must not be negative")
	}
	settings.interval_ms = C.uint32_t(milliseconds(o.Interval))
	settings.probe_deadline_ms = C.uint32_t(milliseconds(o.ProbeDeadline))
	if o.Probe {
		settings.flags |= C.VFP_WATCH_PROBE
	}
	if o.NoUevents {
		settings.flags |= C.VFP_WATCH_NO_UEVENTS
	}
	if o.NoHolders {
		settings.flags |= C.VFP_WATCH_NO_HOLDERS
	}
	return settings, nil
}

// wait registers a duplicate of the watch's descriptor with the runtime's poller, because the poller closes its descriptor.
func (h *watchHandle) wait() error {
	number, _, errno := syscall.Syscall(syscall.SYS_FCNTL, uintptr(C.vfp_watch_fd(h.c)), syscall.F_DUPFD_CLOEXEC, 0)
	if errno != 0 {
		return os.NewSyscallError("fcntl", errno)
	}
	if err := syscall.SetNonblock(int(number), true); err != nil {
		syscall.Close(int(number))
		return os.NewSyscallError("fcntl", err)
	}
	h.file = os.NewFile(number, "vfio-probe watch")
	// Deadlines work only for a file that is registered with the poller.
	err := h.file.SetReadDeadline(time.Time{})
	if err == nil {
		h.waiter, err = h.file.SyscallConn()
	}
	if err != nil {
		h.file.Close()
	}
	return err
}

// end cancels the callback of the context and shuts the watch.
func (h *watchHandle) end() {
	h.stop()
	h.shut()
}

// shut wakes all waiting goroutines, and frees the watch after the last call. The context may call it before h.stop is set.
func (h *watchHandle) shut() {
	h.ending.Do(func() { close(h.inbox.ended) })
	h.file.Close()
	h.close()
}

// Close ends the watch: ranges over [Watch.Events] end, and later calls fail with [ErrClosed]. It takes milliseconds.
// Closing again has no effect. The error is always nil.
func (w *Watch) Close() error {
	if w != nil && w.handle != nil {
		w.handle.end()
	}
	return nil
}

// use starts a call. If there is no error, the caller must release the handle.
func (w *Watch) use() (*watchHandle, error) {
	if w == nil || w.handle == nil || !w.handle.acquire() {
		return nil, closed{"the watch"}
	}
	return w.handle, nil
}
