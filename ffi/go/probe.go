package vfioprobe

// #include <vfio_probe.h>
// #cgo noescape vfp_probe
// #cgo nocallback vfp_probe
// #cgo noescape vfp_probe_within
// #cgo nocallback vfp_probe_within
import "C"

import (
	"context"
	"fmt"
	"math"
	"time"
)

// Probe opens the group's node for a moment. While it is open another process' own open fails with EBUSY: do not call
// this in a loop on a free group, and never on one that a virtual machine is about to open. A held group is not
// disturbed.
//
// Whatever the open says is an answer, with a nil error; the call fails only for its arguments. It can block for
// seconds, while the kernel resets a device of the group, and keeps a thread as long: see [Root.ProbeContext].
func (r *Root) Probe(group GroupID) (Occupancy, error) {
	h, err := r.use()
	if err != nil {
		return Occupancy{Group: group}, err
	}
	defer h.release()
	var record C.vfp_occupancy
	var failed C.vfp_error
	if C.vfp_probe(h.c, C.uint32_t(group), C.sizeof_vfp_occupancy, &record, &failed) < 0 {
		return Occupancy{Group: group}, failure(&failed)
	}
	return occupancy(group, &record), nil
}

// ProbeWithin is [Root.Probe] on a helper thread of the library, waiting at most timeout for the answer, which is rounded up
// to milliseconds: later it is [Unknown] with [WhyLate].
//
// At most one open a group and four in all are under way at once for one Root. A group whose last open has no answer yet,
// be it another goroutine's, is late at once. An open that has begun goes on, and may have the group for a moment later; one
// that has not is not made any more. The call keeps a thread for as long as it waits.
func (r *Root) ProbeWithin(group GroupID, timeout time.Duration) (Occupancy, error) {
	h, err := r.use()
	if err != nil {
		return Occupancy{Group: group}, err
	}
	defer h.release()
	return h.probeWithin(group, timeout)
}

func (h *rootHandle) probeWithin(group GroupID, timeout time.Duration) (Occupancy, error) {
	var record C.vfp_occupancy
	var failed C.vfp_error
	status := C.vfp_probe_within(h.c, C.uint32_t(group), C.uint32_t(milliseconds(timeout)),
		C.sizeof_vfp_occupancy, &record, &failed)
	if status < 0 {
		return Occupancy{Group: group}, failure(&failed)
	}
	return occupancy(group, &record), nil
}

// ProbeContext asks until there is an answer or the context is done. Then it returns an [Unknown] that is [WhyLate] at once,
// with an error that is the context's, [context.Canceled] or [context.DeadlineExceeded]. With a context that is done already,
// or has less than a millisecond, nothing is opened.
//
// While the group's last open has no answer yet, be it another goroutine's, it waits for its turn. The answer to an open that
// hangs for more than 250 ms is not waited for: the group is opened once more when that open has ended.
//
// An open that hangs goes on after the context, and may have the group for a moment later. One that has not begun is not
// made any more after the deadline, nor later than 250 ms after a cancellation.
//
// An open that hangs in the kernel keeps a helper thread of the library until it ends: one a group, four a Root. The call
// itself keeps a thread for its first 250 ms; behind four opens that hang, one call a group keeps one for longer, but for no
// more than 250 ms after its context.
func (r *Root) ProbeContext(ctx context.Context, group GroupID) (Occupancy, error) {
	late := Occupancy{Group: group, State: Unknown, Why: WhyLate}
	if err := ctx.Err(); err != nil {
		return late, probeEnded(group, err)
	}
	h, err := r.use()
	if err != nil {
		return Occupancy{Group: group}, err
	}
	type answer struct {
		Occupancy
		error
	}
	answered := make(chan answer, 1)
	go func() {
		defer h.release()
		if occupancy, err := h.probeUntil(ctx, group); err != nil || occupancy != late {
			answered <- answer{occupancy, err}
		}
	}()
	select {
	case got := <-answered:
		return got.Occupancy, got.error
	case <-ctx.Done():
		return late, probeEnded(group, ctx.Err())
	}
}

// C cannot be told that a context was canceled, so it is asked for no longer than a slice at once. Who is refused, since the
// group's last open has no answer yet, comes again after a pause that grows up to a slice.
const (
	slice = 250 * time.Millisecond
	pause = 10 * time.Millisecond
)

// probeUntil asks again and again; late only when the context is done.
func (h *rootHandle) probeUntil(ctx context.Context, group GroupID) (Occupancy, error) {
	deadline, bounded := ctx.Deadline()
	refused := pause
	for ctx.Err() == nil {
		timeout := slice
		if bounded {
			timeout = min(timeout, time.Until(deadline).Truncate(time.Millisecond))
		}
		if timeout <= 0 {
			<-ctx.Done()
			break
		}
		begun := time.Now()
		got, err := h.probeWithin(group, timeout)
		if err != nil || got.State != Unknown || got.Why != WhyLate {
			return got, err
		}
		if time.Since(begun) < timeout {
			select {
			case <-ctx.Done():
			case <-time.After(refused):
			}
			refused = min(2*refused, slice)
		}
	}
	return Occupancy{Group: group, State: Unknown, Why: WhyLate}, nil
}

// probeEnded says of which group the answer was not waited for.
func probeEnded(group GroupID, err error) error {
	return fmt.Errorf("vfio-probe: probe of group %s: %w", group, err)
}

// milliseconds rounds up to what C takes, within its bounds.
func milliseconds(d time.Duration) uint32 {
	if d <= 0 {
		return 0
	}
	return uint32(min((d-1)/time.Millisecond+1, math.MaxUint32))
}
