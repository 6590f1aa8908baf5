package vfioprobe

// #include <vfio_probe.h>
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

// WatchOptions are the settings of a watch; the zero value is the defaults.
type WatchOptions struct {
	// Interval is the time between two looks, rounded up to milliseconds; 0 is a second.
	Interval time.Duration
	// Probe is whether groups may be opened: once each at first sight, afterwards only where a look cannot tell. A virtual
	// machine that opens a free group in that moment gets EBUSY; name the groups that machines are about to open with
	// [Watch.SetOwned].
	Probe bool
	// ProbeDeadline is how long an open may take before it counts as unanswered, rounded up to milliseconds; 0 is a second.
	ProbeDeadline time.Duration
	// NoUevents is not to listen to the kernel's uevents: what they tell at once is then found within the interval.
	NoUevents bool
	// NoHolders is not to look for holders, nor to wait for their exits.
	NoHolders bool
}

// Watch follows all devices of a root. It ends with its context, or when it is closed. Its methods may be called from any
// goroutine; they wait for one another, never long, but for a range over [Watch.Events], which waits for events.
type Watch struct {
	handle *watchHandle
}

// watchHandle is apart from Watch so that a Watch that nobody has any more can be collected.
type watchHandle struct {
	handle
	c *C.vfp_watch
	// A descriptor of our own for the watch's, for the runtime's poller.
	file   *os.File
	waiter syscall.RawConn
	// Takes the end of the context back.
	forget func() bool
}

// closing makes watches close one after another: the close of an inotify instance takes some ten milliseconds, for
// which each would keep a thread (fsnotify_destroy_group waits for an SRCU grace period).
var closing sync.Mutex

// Watch begins to watch, until the context is done or the watch is closed; the root may be closed before. Nothing is
// read yet: the first event that is asked for takes stock, and tells every device as [EventBound], every held group as
// [EventHeld]. Sources that cannot be had, uevents in a user namespace for one, are done without: everything is found all
// the same, only later.
//
// The error is the context's if it is done already, [ErrInvalid] for a negative time, [ErrClosed] for a closed root, or the
// system's when no descriptor can be had.
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
	h := &watchHandle{}
	var failed C.vfp_error
	if C.vfp_watch_open(root.c, C.sizeof_vfp_watch_options, &settings, &h.c, &failed) < 0 {
		return nil, failure(&failed)
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
	h.forget = context.AfterFunc(ctx, h.shut)
	watch := &Watch{h}
	// In a goroutine of its own: the runtime has few for the cleanups of all, and the close takes its time.
	runtime.AddCleanup(watch, func(h *watchHandle) { go h.end() }, h)
	return watch, nil
}

func (o WatchOptions) settings() (C.vfp_watch_options, error) {
	var settings C.vfp_watch_options
	if o.Interval < 0 || o.ProbeDeadline < 0 {
		return settings, invalid("options: a negative time")
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

// wait hands the watch's descriptor to the runtime's poller, as a duplicate: the poller takes back what it was given, and
// the watch's own must stay.
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
	// Only a file that the poller has taken knows deadlines.
	err := h.file.SetReadDeadline(time.Time{})
	if err == nil {
		h.waiter, err = h.file.SyscallConn()
	}
	if err != nil {
		h.file.Close()
	}
	return err
}

// end is shut before the context is done.
func (h *watchHandle) end() {
	h.forget()
	h.shut()
}

// shut wakes who waits, and frees everything when the last call is out of it. The context's end may call it before forget is
// known.
func (h *watchHandle) shut() {
	h.file.Close()
	h.close()
}

// Close ends the watch: ranges over [Watch.Events] end, later calls fail with [ErrClosed]. It takes milliseconds. Closing
// again does nothing; the error is always nil.
func (w *Watch) Close() error {
	if w != nil && w.handle != nil {
		w.handle.end()
	}
	return nil
}

// use begins a call; the caller must release the handle if there is no error.
func (w *Watch) use() (*watchHandle, error) {
	if w == nil || w.handle == nil || !w.handle.acquire() {
		return nil, closed{"the watch"}
	}
	return w.handle, nil
}
