//go:build cgo

package vfioprobe

import "context"

// WaitFor waits until the condition holds. It calls the condition when the watch has read everything once ([Watch.Ready]), and
// after each later news. The condition is called without a lock, on the goroutine of the caller; it may call any method of the
// watch that does not wait.
//
// The error is the error of ctx if ctx is done, [ErrClosed] if the watch has ended, and an [*Error] if the bound devices could
// not be listed in one pass during the wait. The watch continues then: call WaitFor again to go on.
//
// Events that come during a WaitFor stay queued for [Watch.Next] and [Watch.Events]. Beyond 1024 queued events the queue becomes
// one [EventRescan]. WaitFor blocks no thread.
func (w *Watch) WaitFor(ctx context.Context, condition func(*Watch) bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if w == nil || w.handle == nil {
		return closed{"the watch"}
	}
	failures := w.handle.inbox.latest().failures
	for {
		before := w.handle.inbox.latest()
		if before.failures != failures {
			return before.failure
		}
		if w.Ready() && condition(w) {
			return nil
		}
		if err := w.handle.await(ctx, before); err != nil {
			return err
		}
	}
}

// WaitFree waits until the group is free, as [Watch.WaitFor] does. The watch opens no group for it unless
// [WatchOptions].Probe is set. A group that the watch does not list is not free: it waits until the group appears.
//
// The error is [ErrInvalid] for [NoGroup].
func (w *Watch) WaitFree(ctx context.Context, group GroupID) error {
	return w.waitState(ctx, group, Free)
}

// WaitHeld waits until the group is held, as [Watch.WaitFor] does.
//
// The error is [ErrInvalid] for [NoGroup].
func (w *Watch) WaitHeld(ctx context.Context, group GroupID) error {
	return w.waitState(ctx, group, Held)
}

func (w *Watch) waitState(ctx context.Context, group GroupID, state State) error {
	if group == NoGroup {
		return invalid("group: must not be VFP_NO_GROUP; a device without an IOMMU has no group")
	}
	return w.WaitFor(ctx, func(w *Watch) bool {
		known, found, err := w.Group(group)
		return err == nil && found && known.Occupancy.State == state
	})
}
