package vfioprobe_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	vfioprobe "github.com/vfio-probe/vfio-probe/go/vfioprobe"
	"github.com/vfio-probe/vfio-probe/go/vfioprobe/internal/simnode"
)

// quick has a short interval, for tests of changes that the timer finds.
var quick = vfioprobe.WatchOptions{Interval: 10 * time.Millisecond}

func watch(tb testing.TB, root *vfioprobe.Root, options vfioprobe.WatchOptions) *vfioprobe.Watch {
	tb.Helper()
	// Long enough for a slow host; a test that would hang fails.
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	tb.Cleanup(cancel)
	watch := must(root.Watch(ctx, options))(tb)
	tb.Cleanup(func() { watch.Close() })
	return watch
}

func bound(device string) vfioprobe.Event {
	return vfioprobe.Event{Kind: vfioprobe.EventBound, Device: device, Group: vfioprobe.NoGroup}
}

// ready is the event that ends the first pass.
var ready = vfioprobe.Event{Kind: vfioprobe.EventReady, Group: vfioprobe.NoGroup}

// until consumes events until this event.
func until(tb testing.TB, watch *vfioprobe.Watch, want vfioprobe.Event) {
	tb.Helper()
	for event, err := range watch.Events() {
		if err != nil {
			tb.Fatal(err)
		}
		if event == want {
			return
		}
	}
	tb.Fatalf("the watch ended before %v", want)
}

// state returns the state of a group in the watch.
func state(tb testing.TB, watch *vfioprobe.Watch, group vfioprobe.GroupID) vfioprobe.WatchedGroup {
	tb.Helper()
	for _, known := range must(watch.Groups())(tb) {
		if known.ID == group {
			return known
		}
	}
	tb.Fatalf("group %s is not watched", group)
	return vfioprobe.WatchedGroup{}
}

func TestWatchReportsHeldWithHolderAndFreed(t *testing.T) {
	node, root := eightGPUs(t)
	watch := watch(t, root, quick)
	equal(t, "groups before the first event", len(must(watch.Groups())(t)), 0)
	until(t, watch, bound("0000:df:00.0"))
	equal(t, "groups", len(must(watch.Groups())(t)), 8)
	pid := node.StartVM(simnode.VM{Addresses: []string{simnode.SecondGPU}, PodUID: podUID})
	until(t, watch, vfioprobe.Event{Kind: vfioprobe.EventHeld, Group: 52})
	held := state(t, watch, 52)
	equal(t, "state", held.Occupancy.State, vfioprobe.Held)
	equal(t, "evidence", held.Evidence, vfioprobe.EvidenceEnable)
	equal(t, "viable", held.Viable, true)
	isAll(t, held.Occupancy.Err(), vfioprobe.ErrHeld)
	holders := must(watch.Holders(52))(t)
	if len(holders.Holders) != 1 || holders.Holders[0].PID != pid || holders.Holders[0].PodUID != podUID ||
		holders.Coverage.Processes == 0 {
		t.Errorf("%+v", holders)
	}
	node.KillVM(pid)
	until(t, watch, vfioprobe.Event{Kind: vfioprobe.EventFreed, Group: 52})
	equal(t, "state", state(t, watch, 52).Occupancy.State, vfioprobe.Free)
	equal(t, "holders", len(must(watch.Holders(52))(t).Holders), 0)
	equal(t, "opens", node.Opens(52), 0)
}

func TestWatchReportsBoundAndUnbound(t *testing.T) {
	node, root := eightGPUs(t)
	watch := watch(t, root, quick)
	until(t, watch, bound(simnode.FirstGPU))
	node.Unbind(simnode.FirstGPU)
	until(t, watch, vfioprobe.Event{
		Kind: vfioprobe.EventUnbound, Device: simnode.FirstGPU, Group: vfioprobe.NoGroup,
	})
	equal(t, "devices", len(must(watch.Devices())(t).Devices), 7)
	node.Bind(simnode.FirstGPU, "vfio-pci")
	until(t, watch, bound(simnode.FirstGPU))
	equal(t, "device", byID(t, must(watch.Devices())(t), simnode.FirstGPU).Group, 51)
}

func TestWatchNamesTheOffender(t *testing.T) {
	node, root := eightGPUs(t)
	node.Add(map[string]any{"address": "0000:1b:00.1", "group": 51, "driver": "snd_hda_intel"})
	watch := watch(t, root, quick)
	until(t, watch, bound(simnode.FirstGPU))
	known := state(t, watch, 51)
	if known.Viable || known.Offender != "0000:1b:00.1" || known.OffenderDriver != "snd_hda_intel" {
		t.Errorf("%+v", known)
	}
}

func TestProbingWatchSkipsAssignedGroups(t *testing.T) {
	node, root := eightGPUs(t)
	node.StartVM(simnode.VM{Addresses: []string{"0000:4e:00.0"}, GroupOnly: true})
	options := quick
	options.Probe = true
	watch := watch(t, root, options)
	if err := watch.SetAssigned(51); err != nil {
		t.Fatal(err)
	}
	until(t, watch, vfioprobe.Event{Kind: vfioprobe.EventHeld, Group: 53})
	equal(t, "evidence", state(t, watch, 53).Evidence, vfioprobe.EvidenceOpen)
	equal(t, "opens of the assigned group", node.Opens(51), 0)
	equal(t, "opens of another group", node.Opens(52), 1)
}

// Only the timer of the watch reports changes here, and each expiry has to wake the poller.
func TestTimerWakesTheLoopEveryInterval(t *testing.T) {
	node, root := eightGPUs(t)
	options := quick
	options.NoUevents, options.NoHolders = true, true
	watch := watch(t, root, options)
	until(t, watch, bound("0000:df:00.0"))
	for range 50 {
		// Two changes within one interval would cancel each other.
		pid := node.StartVM(simnode.VM{Addresses: []string{simnode.FirstGPU}})
		until(t, watch, vfioprobe.Event{Kind: vfioprobe.EventHeld, Group: 51})
		node.KillVM(pid)
		until(t, watch, vfioprobe.Event{Kind: vfioprobe.EventFreed, Group: 51})
	}
}

// A bind makes the descriptor of the watch readable at once, an hour before the timer does.
func TestBindWakesTheLoopBeforeTheTimer(t *testing.T) {
	node, root := eightGPUs(t)
	watch := watch(t, root, vfioprobe.WatchOptions{Interval: time.Hour})
	until(t, watch, bound("0000:df:00.0"))
	for range 20 {
		node.Unbind(simnode.FirstGPU)
		until(t, watch, vfioprobe.Event{Kind: vfioprobe.EventUnbound, Device: simnode.FirstGPU, Group: vfioprobe.NoGroup})
		node.Bind(simnode.FirstGPU, "vfio-pci")
		until(t, watch, bound(simnode.FirstGPU))
	}
}

func TestFailureIsReportedOncePerInterval(t *testing.T) {
	node, root := eightGPUs(t)
	watch := watch(t, root, vfioprobe.WatchOptions{Interval: 50 * time.Millisecond})
	until(t, watch, bound("0000:df:00.0"))
	if err := os.Rename(node.Root+"/sys", node.Root+"/away"); err != nil {
		t.Fatal(err)
	}
	failures := 0
	var first time.Time
	for event, err := range watch.Events() {
		if err == nil {
			continue
		}
		isAll(t, err, os.ErrNotExist)
		equal(t, "event", event, vfioprobe.Event{Group: vfioprobe.NoGroup})
		if failures == 0 {
			first = time.Now()
		}
		if failures++; failures == 5 {
			break
		}
	}
	// Four intervals minus one, because on a busy host two expiries may come close together.
	if took := time.Since(first); took < 150*time.Millisecond {
		t.Errorf("five failures in %v", took)
	}
	equal(t, "devices after the failures", len(must(watch.Devices())(t).Devices), 8)
	if err := os.Rename(node.Root+"/away", node.Root+"/sys"); err != nil {
		t.Fatal(err)
	}
	node.Unbind(simnode.FirstGPU)
	for event, err := range watch.Events() {
		if err == nil && event.Kind == vfioprobe.EventUnbound {
			break
		}
	}
}

func TestContextOrCloseEndsTheWatch(t *testing.T) {
	_, root := eightGPUs(t)
	for name, end := range map[string]func(*vfioprobe.Watch, context.CancelFunc){
		"cancel": func(_ *vfioprobe.Watch, cancel context.CancelFunc) { cancel() },
		"close":  func(watch *vfioprobe.Watch, _ context.CancelFunc) { watch.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(context.Background())
			defer cancel()
			watch := must(root.Watch(ctx, vfioprobe.WatchOptions{Interval: time.Hour}))(t)
			until(t, watch, bound("0000:df:00.0"))
			// Several goroutines wait, and all of them must end.
			var loops sync.WaitGroup
			for range 3 {
				loops.Add(1)
				go func() {
					defer loops.Done()
					for _, err := range watch.Events() {
						if err != nil {
							t.Error(err)
						}
					}
				}()
			}
			wait(t, 3)
			end(watch, cancel)
			loops.Wait()
			// A goroutine of its own handles the end of the context.
			eventually(t, func() bool { _, err := watch.Groups(); return errors.Is(err, vfioprobe.ErrClosed) })
		})
	}
	done, cancel := context.WithCancel(context.Background())
	cancel()
	_, err := root.Watch(done, vfioprobe.WatchOptions{})
	isAll(t, err, context.Canceled)
}

func TestContextCanceledDuringWatchIsSafe(t *testing.T) {
	_, root := eightGPUs(t)
	for range 200 {
		ctx, cancel := context.WithCancel(context.Background())
		go cancel()
		watch, err := root.Watch(ctx, vfioprobe.WatchOptions{})
		if err != nil {
			isAll(t, err, context.Canceled)
			continue
		}
		for range watch.Events() {
		}
		watch.Close()
	}
}

func TestSecondLoopContinuesWithQueuedEvents(t *testing.T) {
	_, root := eightGPUs(t)
	watch := watch(t, root, quick)
	seen := map[string]int{}
	for range 8 {
		for event, err := range watch.Events() {
			if err != nil {
				t.Fatal(err)
			}
			seen[event.Device]++
			break
		}
	}
	equal(t, "devices", len(seen), 8)
}

func TestGoroutinesShareAWatch(t *testing.T) {
	node, root := eightGPUs(t)
	watch := watch(t, root, vfioprobe.WatchOptions{Interval: time.Millisecond})
	until(t, watch, ready)
	var all sync.WaitGroup
	var held, freed atomic.Int64
	for range 4 {
		all.Add(1)
		go func() {
			defer all.Done()
			for event, err := range watch.Events() {
				switch {
				case err != nil:
					t.Error(err)
				case event.Kind == vfioprobe.EventHeld:
					held.Add(1)
				case event.Kind == vfioprobe.EventFreed:
					freed.Add(1)
				}
			}
		}()
	}
	for i := range 4 {
		all.Add(1)
		go func() {
			defer all.Done()
			for {
				_, err := watch.Groups()
				if err == nil {
					_, err = watch.Devices()
				}
				if err == nil {
					_, err = watch.Holders(51)
				}
				if err == nil {
					err = watch.SetAssigned(vfioprobe.GroupID(51 + i))
				}
				if errors.Is(err, vfioprobe.ErrClosed) {
					return
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		}()
	}
	for round := range int64(10) {
		pid := node.StartVM(simnode.VM{Addresses: []string{simnode.FirstGPU}})
		eventually(t, func() bool { return held.Load() == round+1 })
		node.KillVM(pid)
		eventually(t, func() bool { return freed.Load() == round+1 })
	}
	watch.Close()
	all.Wait()
}

// eventually waits up to 30 s until the condition is true.
func eventually(tb testing.TB, condition func() bool) {
	tb.Helper()
	for end := time.Now().Add(30 * time.Second); !condition(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			tb.Fatal("the condition did not become true within 30 s")
		}
	}
}

// wait waits until this number of goroutines wait for news of a watch.
func wait(tb testing.TB, count int) {
	tb.Helper()
	eventually(tb, func() bool {
		stacks := make([]byte, 1<<20)
		waiting := 0
		for _, stack := range strings.Split(string(stacks[:runtime.Stack(stacks, true)]), "\n\n") {
			state, _, _ := strings.Cut(stack, "\n")
			parked := strings.Contains(state, "[select") || strings.Contains(state, "[IO wait")
			if parked && strings.Contains(stack, ".(*watchHandle).await(") {
				waiting++
			}
		}
		return waiting == count
	})
}

// usage counts the resources that a leak would increase.
type usage struct{ descriptors, helpers, threads, goroutines int }

func used(tb testing.TB) usage {
	names, err := filepath.Glob("/proc/self/task/*/comm")
	if err != nil {
		tb.Fatal(err)
	}
	helpers := 0
	for _, name := range names {
		// A thread may end during the loop.
		if comm, err := os.ReadFile(name); err == nil && string(comm) == "vfio-probe\n" {
			helpers++
		}
	}
	return usage{entries(tb, "fd"), helpers, len(names), runtime.NumGoroutine()}
}

func TestNothingLeaks(t *testing.T) {
	node := simnode.New(t, "--eight-gpus")
	node.StartVM(simnode.VM{Addresses: []string{simnode.SecondGPU}})
	ends := map[string]func(*vfioprobe.Root, *vfioprobe.Watch, context.CancelFunc){
		"close": func(root *vfioprobe.Root, watch *vfioprobe.Watch, _ context.CancelFunc) {
			watch.Close()
			root.Close()
		},
		"context": func(root *vfioprobe.Root, _ *vfioprobe.Watch, cancel context.CancelFunc) {
			root.Close()
			cancel()
		},
		"forget": func(*vfioprobe.Root, *vfioprobe.Watch, context.CancelFunc) {},
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			round := func() {
				root := must(vfioprobe.Open(node.Root))(t)
				ctx, cancel := context.WithCancel(context.Background())
				options := quick
				options.Probe = true
				watch := must(root.Watch(ctx, options))(t)
				until(t, watch, vfioprobe.Event{Kind: vfioprobe.EventHeld, Group: 52})
				must(root.ProbeWithin(51, time.Second))(t)
				must(root.Scan())(t)
				end(root, watch, cancel)
			}
			for range 10 {
				round()
			}
			before := settled(t, usage{})
			for range 100 {
				round()
			}
			after := settled(t, before)
			t.Logf("before %+v, after 100 rounds %+v", before, after)
			// The runtime keeps the threads that it starts while all others are in C: a few, but not one per round.
			if after.descriptors > before.descriptors || after.goroutines > before.goroutines ||
				after.helpers > before.helpers || after.threads > before.threads+10 {
				t.Error("leaked")
			}
		})
	}
}

// settled waits until ended helper threads and unreachable objects are gone, and returns the usage: when it is not above
// most, or when it stays the same.
func settled(tb testing.TB, most usage) usage {
	tb.Helper()
	var last usage
	// A thread that has just started holds its resources until it runs, which takes long on a busy host.
	rounds := 20
	if most != (usage{}) {
		rounds = 1000
	}
	for same := 0; same < rounds; same++ {
		runtime.GC()
		time.Sleep(5 * time.Millisecond)
		now := used(tb)
		if now != last {
			last, same = now, 0
		}
		if now.descriptors <= most.descriptors && now.goroutines <= most.goroutines && now.helpers <= most.helpers {
			break
		}
	}
	return last
}

func TestWaitingBlocksNoThread(t *testing.T) {
	_, root := eightGPUs(t)
	before := used(t).threads
	for range 60 {
		// The search for holders has a thread of the library in each watch.
		watch := watch(t, root, vfioprobe.WatchOptions{Interval: time.Hour, NoUevents: true, NoHolders: true})
		until(t, watch, bound("0000:df:00.0"))
		go func() {
			for _, err := range watch.Events() {
				if err != nil {
					t.Error(err)
				}
			}
		}()
	}
	wait(t, 60)
	if after := used(t).threads; after > before+30 {
		t.Errorf("%d threads before 60 loops wait, %d after", before, after)
	}
}
