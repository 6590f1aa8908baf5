package vfioprobe

// #include "vfio_probe.h"
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

// Probe opens the group's device node and closes it at once. While a probe has a free group open, the open of another
// process fails with EBUSY: do not probe a free group in a loop, and do not probe a group that a VM may be about to open.
// A probe of a held group does not disturb the holder.
//
// Every result of the open is an Occupancy with a nil error; the call fails only for a closed Root. Probe blocks for
// seconds while the kernel resets a device of the group, and it blocks a thread: see [Root.ProbeContext].
func (r *Root) Probe(group GroupID) (Occupancy, error) {
	h, err := r.use()
	if err != nil {
		return Occupancy{Group: group}, err
	}
	defer h.release()
	var record C.vfp_occupancy
	failed := lendError()
	defer errorRecords.Put(failed)
	if C.vfp_probe(h.c, C.uint32_t(group), C.sizeof_vfp_occupancy, &record, failed) < 0 {
		return Occupancy{Group: group}, failure(failed)
	}
	return occupancy(group, &record), nil
}

// ProbeWithin probes a group on a helper thread of the library and waits at most timeout, rounded up to milliseconds.
// Without a result by then the state is [Unknown] with [UnknownTimedOut].
//
// A Root has at most one outstanding probe per group and four in all. If the group already has an outstanding probe, also
// of another goroutine, the call times out at once. A probe that has started continues after the timeout and may open the
// group for a moment later. A probe that has not started is dropped. The call blocks a thread while it waits.
//
// The error is [ErrInvalid] for a negative timeout.
func (r *Root) ProbeWithin(group GroupID, timeout time.Duration) (Occupancy, error) {
	if timeout < 0 {
		return Occupancy{Group: group}, invalid("timeout: must not be negative")
	}
	h, err := r.use()
	if err != nil {
		return Occupancy{Group: group}, err
	}
	defer h.release()
	return h.probeWithin(group, timeout)
}

func (h *rootHandle) probeWithin(group GroupID, timeout time.Duration) (Occupancy, error) {
	var record C.vfp_occupancy
	failed := lendError()
	defer errorRecords.Put(failed)
	status := C.vfp_probe_within(h.c, C.uint32_t(group), C.uint32_t(milliseconds(timeout)),
		C.sizeof_vfp_occupancy, &record, failed)
	if status < 0 {
		return Occupancy{Group: group}, failure(failed)
	}
	return occupancy(group, &record), nil
}

// ProbeContext probes a group until there is a result or the context is done. If the context is done, it returns at once,
// with the state [Unknown], the reason [UnknownTimedOut], and an error that wraps [context.Canceled] or
// [context.DeadlineExceeded]. With a context that is done already, or that has less than a millisecond left, it opens
// nothing.
//
// If the group already has an outstanding probe, also of another goroutine, ProbeContext waits until that probe has
// ended. It waits at most 250 ms for the result of one open; when a longer open has ended, it probes the group again.
//
// An open that hangs continues after the context is done and may open the group for a moment later. A probe that has not
// started is dropped at the deadline, or at most 250 ms after a cancellation.
//
// An open that hangs in the kernel blocks a helper thread of the library until it returns: at most one per group and four
// per Root. The call blocks a thread for its first 250 ms. If four opens hang, one call per group blocks a thread for
// longer, until at most 250 ms after its context is done.
func (r *Root) ProbeContext(ctx context.Context, group GroupID) (Occupancy, error) {
	timedOut := Occupancy{Group: group, State: Unknown, UnknownReason: UnknownTimedOut}
	if err := ctx.Err(); err != nil {
		return timedOut, probeEnded(group, err)
	}
	h, err := r.use()
	if err != nil {
		return Occupancy{Group: group}, err
	}
	type result struct {
		Occupancy
		error
	}
	results := make(chan result, 1)
	go func() {
		defer h.release()
		if occupancy, err := h.probeUntil(ctx, group); err != nil || occupancy != timedOut {
			results <- result{occupancy, err}
		}
	}()
	select {
	case got := <-results:
		return got.Occupancy, got.error
	case <-ctx.Done():
		return timedOut, probeEnded(group, ctx.Err())
	}
}

// A call of C cannot be canceled, so ProbeContext calls it with a timeout of at most one slice. If the group has another
// outstanding probe, the call returns early; ProbeContext then retries after a pause that grows up to a slice.
const (
	slice = 250 * time.Millisecond
	pause = 10 * time.Millisecond
)

// probeUntil probes until there is a result. It returns [UnknownTimedOut] only if the context is done.
func (h *rootHandle) probeUntil(ctx context.Context, group GroupID) (Occupancy, error) {
	deadline, bounded := ctx.Deadline()
	retry := pause
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
		if err != nil || got.State != Unknown || got.UnknownReason != UnknownTimedOut {
			return got, err
		}
		if time.Since(begun) < timeout {
			select {
			case <-ctx.Done():
			case <-time.After(retry):
			}
			retry = min(2*retry, slice)
		}
	}
	return Occupancy{Group: group, State: Unknown, UnknownReason: UnknownTimedOut}, nil
}

// probeEnded returns the error of a probe that ended with its context.
func probeEnded(group GroupID, err error) error {
	return fmt.Errorf("vfio-probe: probe of group %s: %w", group, err)
}

// milliseconds rounds up to milliseconds, within the range of the C argument.
func milliseconds(d time.Duration) uint32 {
	if d <= 0 {
		return 0
	}
	return uint32(min((d-1)/time.Millisecond+1, math.MaxUint32))
}
