package vfioprobe_test

import (
	"context"
	"fmt"
	"os"
	"runtime"
	"sync"
	"testing"
	"time"

	vfioprobe "github.com/vfio-probe/vfio-probe/go/vfioprobe"
)

// The timer of these watches never expires during a test, so a goroutine that missed its news would wait until its context ends.
var never = vfioprobe.WatchOptions{Interval: time.Hour}

func TestOneChangeEndsTheWaitsOfAllGoroutines(t *testing.T) {
	node, root := eightGPUs(t)
	watch := watch(t, root, never)
	until(t, watch, ready)
	ctx := limited(t)
	for round := range 10 {
		group := vfioprobe.GroupID(90 + round)
		var waits sync.WaitGroup
		for range 8 {
			waits.Add(1)
			go func() {
				defer waits.Done()
				equal(t, "free", watch.WaitFree(ctx, group), nil)
			}()
		}
		// Each event goes to one of these two, and the end of the first ends the second.
		ended, end := context.WithCancel(ctx)
		for range 2 {
			waits.Add(1)
			go func() {
				defer waits.Done()
				for {
					event, err := watch.Next(ended)
					if ended.Err() != nil && ctx.Err() == nil {
						return
					}
					if err != nil {
						t.Error(err)
						return
					}
					if event.Kind == vfioprobe.EventFreed && event.Group == group {
						end()
						return
					}
				}
			}()
		}
		node.Do("add_gpu", map[string]any{"address": fmt.Sprintf("0000:f%d:00.0", round), "group": group, "numa_node": 0})
		// The watch saw the group's node before the device was there, perhaps. Now it is: a pass finds it.
		node.Write(fmt.Sprintf("dev/vfio/signal-%d", round), "")
		waits.Wait()
		end()
	}
}

// A loop over events and four waits, each of which may be the one that reads the change: each news reaches all of them.
func TestLoopSeesAllNewsBesideFourWaits(t *testing.T) {
	node, root := eightGPUs(t)
	watch := watch(t, root, never)
	until(t, watch, ready)
	const rounds = 10
	var waits sync.WaitGroup
	freed := make(chan vfioprobe.GroupID, rounds)
	waits.Add(1)
	go func() {
		defer waits.Done()
		for event, err := range watch.Events() {
			if err != nil {
				t.Error(err)
			} else if event.Kind == vfioprobe.EventFreed {
				freed <- event.Group
			}
		}
	}()
	ctx := limited(t)
	for round := range rounds {
		group := vfioprobe.GroupID(90 + round)
		var free sync.WaitGroup
		for range 4 {
			free.Add(1)
			go func() {
				defer free.Done()
				equal(t, "free", watch.WaitFree(ctx, group), nil)
			}()
		}
		node.Do("add_gpu", map[string]any{"address": fmt.Sprintf("0000:f%d:00.0", round), "group": group, "numa_node": 0})
		// The watch saw the group's node before the device was there, perhaps. Now it is: a pass finds it.
		node.Write(fmt.Sprintf("dev/vfio/signal-%d", round), "")
		free.Wait()
		select {
		case event := <-freed:
			equal(t, "freed", event, group)
		case <-ctx.Done():
			t.Fatalf("the loop missed group %d", group)
		}
	}
	watch.Close()
	waits.Wait()
}

// A wait keeps the events in the queue while another goroutine has taken the lead, so Next must not wait for that one.
func TestNextReturnsWhatAWaitHasQueued(t *testing.T) {
	_, root := eightGPUs(t)
	watch := watch(t, root, never)
	equal(t, "ready", watch.WaitFor(limited(t), func(*vfioprobe.Watch) bool { return true }), nil)
	// This goroutine waits in the poller for the rest of the test.
	ctx, cancel := context.WithCancel(context.Background())
	leading, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		first := sync.OnceFunc(func() { close(leading) })
		ended <- watch.WaitFor(ctx, func(*vfioprobe.Watch) bool { first(); return false })
	}()
	<-leading
	seen := 0
	for {
		event := must(watch.Next(limited(t)))(t)
		seen++
		if event.Kind == vfioprobe.EventReady {
			break
		}
		// Lets the other goroutine take the lead, so that this one finds it taken.
		runtime.Gosched()
	}
	equal(t, "events", seen, 17)
	cancel()
	isAll(t, <-ended, context.Canceled)
}

func TestFailedPassIsForEveryWait(t *testing.T) {
	node, root := eightGPUs(t)
	watch := watch(t, root, quick)
	until(t, watch, ready)
	failures := make(chan error, 6)
	began := make(chan struct{}, 3)
	for range 3 {
		go func() {
			first := sync.OnceFunc(func() { began <- struct{}{} })
			failures <- watch.WaitFor(limited(t), func(*vfioprobe.Watch) bool { first(); return false })
		}()
		go func() {
			// A pass in the middle of the deletion succeeds, and finds that devices have gone.
			ctx := limited(t)
			_, err := watch.Next(ctx)
			for err == nil {
				_, err = watch.Next(ctx)
			}
			failures <- err
		}()
	}
	for range 3 {
		<-began
	}
	node.Delete("sys")
	for range 6 {
		err := <-failures
		isAll(t, err, os.ErrNotExist)
	}
}
