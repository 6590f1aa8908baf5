package vfioprobe_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	vfioprobe "github.com/vfio-probe/vfio-probe/go/vfioprobe"
	"github.com/vfio-probe/vfio-probe/go/vfioprobe/internal/simnode"
)

// limited returns a context that ends a test that would hang.
func limited(tb testing.TB) context.Context {
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	tb.Cleanup(cancel)
	return ctx
}

func TestFirstPassEndsWithReady(t *testing.T) {
	node, root := eightGPUs(t)
	node.StartVM(simnode.VM{Addresses: []string{simnode.FirstGPU}})
	watch := watch(t, root, vfioprobe.WatchOptions{Interval: time.Hour})
	equal(t, "ready", watch.Ready(), false)
	kinds := map[vfioprobe.EventKind]int{}
	for kinds[vfioprobe.EventReady] == 0 {
		event := must(watch.Next(limited(t)))(t)
		kinds[event.Kind]++
		isDevice := event.Kind == vfioprobe.EventBound
		isGroup := event.Kind == vfioprobe.EventHeld || event.Kind == vfioprobe.EventFreed
		if (event.Device != "") != isDevice || (event.Group != vfioprobe.NoGroup) != isGroup {
			t.Errorf("%+v", event)
		}
	}
	equal(t, "bound", kinds[vfioprobe.EventBound], 8)
	equal(t, "held", kinds[vfioprobe.EventHeld], 1)
	equal(t, "freed", kinds[vfioprobe.EventFreed], 7)
	equal(t, "kinds", len(kinds), 4)
	equal(t, "ready", watch.Ready(), true)
}

func TestReadyComesFirstWithoutDevices(t *testing.T) {
	watch := watch(t, open(t, simnode.New(t).Root), vfioprobe.WatchOptions{Interval: time.Hour})
	event := must(watch.Next(limited(t)))(t)
	equal(t, "event", event, vfioprobe.Event{Kind: vfioprobe.EventReady, Group: vfioprobe.NoGroup})
}

func TestNextEndsWithItsContextOnly(t *testing.T) {
	node, root := eightGPUs(t)
	watch := watch(t, root, vfioprobe.WatchOptions{Interval: time.Hour})
	until(t, watch, ready)
	for range 50 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Millisecond)
		event, err := watch.Next(ctx)
		cancel()
		isAll(t, err, context.DeadlineExceeded)
		isNone(t, err, vfioprobe.ErrClosed)
		equal(t, "event", event, vfioprobe.Event{Group: vfioprobe.NoGroup})
	}
	// The watch is as it was.
	node.Unbind(simnode.FirstGPU)
	equal(t, "event", must(watch.Next(limited(t)))(t).Kind, vfioprobe.EventUnbound)
}

// A context that ends a call of Next must not end or stop the others.
func TestAnotherCallTakesOverTheWait(t *testing.T) {
	node, root := eightGPUs(t)
	watch := watch(t, root, vfioprobe.WatchOptions{Interval: time.Hour})
	until(t, watch, ready)
	first, cancel := context.WithCancel(context.Background())
	firstEnded, second := make(chan error, 1), make(chan vfioprobe.Event, 1)
	go func() {
		_, err := watch.Next(first)
		firstEnded <- err
	}()
	wait(t, 1)
	go func() {
		event, err := watch.Next(limited(t))
		if err != nil {
			t.Error(err)
		}
		second <- event
	}()
	wait(t, 2)
	cancel()
	isAll(t, <-firstEnded, context.Canceled)
	node.Unbind(simnode.FirstGPU)
	equal(t, "event", (<-second).Device, simnode.FirstGPU)
}

func TestNextOfEndedWatchIsErrClosed(t *testing.T) {
	_, root := eightGPUs(t)
	watch := watch(t, root, vfioprobe.WatchOptions{Interval: time.Hour})
	until(t, watch, ready)
	ended := make(chan error, 4)
	for range 2 {
		go func() { _, err := watch.Next(context.Background()); ended <- err }()
		go func() { ended <- watch.WaitHeld(context.Background(), 51) }()
	}
	wait(t, 4)
	watch.Close()
	for range 4 {
		isAll(t, <-ended, vfioprobe.ErrClosed)
	}
	var never *vfioprobe.Watch
	_, err := never.Next(context.Background())
	isAll(t, err, vfioprobe.ErrClosed)
	isAll(t, never.WaitFree(context.Background(), 51), vfioprobe.ErrClosed)
}

func TestWaitsReturnWhenTheStateIsThere(t *testing.T) {
	node, root := eightGPUs(t)
	watch := watch(t, root, quick)
	equal(t, "free at the start", watch.WaitFree(limited(t), 51), nil)
	done := make(chan error, 1)
	go func() { done <- watch.WaitHeld(limited(t), 51) }()
	pid := node.StartVM(simnode.VM{Addresses: []string{simnode.FirstGPU}})
	equal(t, "held", <-done, nil)
	equal(t, "holder", must(watch.Holders(51))(t).Holders[0].PID, pid)
	go func() { done <- watch.WaitFree(limited(t), 51) }()
	node.KillVM(pid)
	equal(t, "free", <-done, nil)
	equal(t, "opens", node.Opens(51), 0)

	short, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	isAll(t, watch.WaitHeld(short, 999), context.DeadlineExceeded)
	isAll(t, watch.WaitFree(limited(t), vfioprobe.NoGroup), vfioprobe.ErrInvalid)

	group, found, err := watch.Group(51)
	if err != nil || !found || group.ID != 51 || group.Occupancy.State != vfioprobe.Free {
		t.Errorf("%+v %v %v", group, found, err)
	}
	if _, found, err := watch.Group(999); found || err != nil {
		t.Errorf("%v %v", found, err)
	}
}

func TestEventsOfAWaitStayQueued(t *testing.T) {
	node, root := eightGPUs(t)
	watch := watch(t, root, quick)
	node.StartVM(simnode.VM{Addresses: []string{simnode.SecondGPU}})
	if err := watch.WaitFor(limited(t), func(w *vfioprobe.Watch) bool {
		group, _, err := w.Group(52)
		return err == nil && group.Occupancy.State == vfioprobe.Held
	}); err != nil {
		t.Fatal(err)
	}
	seen := map[vfioprobe.EventKind]int{}
	for seen[vfioprobe.EventReady] == 0 {
		seen[must(watch.Next(limited(t)))(t).Kind]++
	}
	equal(t, "bound", seen[vfioprobe.EventBound], 8)
	equal(t, "rescans", seen[vfioprobe.EventRescan], 0)
}

func TestLoopAndWaitsShareTheNews(t *testing.T) {
	node, root := eightGPUs(t)
	watch := watch(t, root, quick)
	held := make(chan struct{}, 100)
	go func() {
		for event, err := range watch.Events() {
			if err == nil && event.Kind == vfioprobe.EventHeld {
				held <- struct{}{}
			}
		}
	}()
	for range 5 {
		pid := node.StartVM(simnode.VM{Addresses: []string{simnode.FirstGPU}})
		var waits sync.WaitGroup
		for range 3 {
			waits.Add(1)
			go func() {
				defer waits.Done()
				equal(t, "held", watch.WaitHeld(limited(t), 51), nil)
			}()
		}
		waits.Wait()
		<-held
		node.KillVM(pid)
		equal(t, "free", watch.WaitFree(limited(t), 51), nil)
	}
}

func TestFailedPassEndsAWait(t *testing.T) {
	node, root := eightGPUs(t)
	watch := watch(t, root, quick)
	until(t, watch, ready)
	sys, away := filepath.Join(node.Root, "sys"), filepath.Join(node.Root, "away")
	if err := os.Rename(sys, away); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		err := watch.WaitHeld(limited(t), 51)
		isAll(t, err, os.ErrNotExist)
		var failed *vfioprobe.Error
		if !errors.As(err, &failed) {
			t.Errorf("%T %v", err, err)
		}
	}
	if err := os.Rename(away, sys); err != nil {
		t.Fatal(err)
	}
	for {
		err := watch.WaitFree(limited(t), 51)
		if err == nil {
			break
		}
		isAll(t, err, os.ErrNotExist)
	}
}
