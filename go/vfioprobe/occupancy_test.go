package vfioprobe_test

import (
	"context"
	"errors"
	"os"
	"sync"
	"syscall"
	"testing"
	"time"

	vfioprobe "github.com/vfio-probe/vfio-probe/go/vfioprobe"
	"github.com/vfio-probe/vfio-probe/go/vfioprobe/internal/simnode"
)

// probes are the methods that probe.
func probes(root *vfioprobe.Root) map[string]func(vfioprobe.GroupID) (vfioprobe.Occupancy, error) {
	return map[string]func(vfioprobe.GroupID) (vfioprobe.Occupancy, error){
		"Probe": root.Probe,
		"ProbeWithin": func(group vfioprobe.GroupID) (vfioprobe.Occupancy, error) {
			return root.ProbeWithin(group, 10*time.Second)
		},
		"ProbeContext": func(group vfioprobe.GroupID) (vfioprobe.Occupancy, error) {
			ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
			defer cancel()
			return root.ProbeContext(ctx, group)
		},
	}
}

func TestProbeReportsEveryState(t *testing.T) {
	node, root := eightGPUs(t)
	node.StartVM(simnode.VM{Addresses: []string{simnode.SecondGPU}})
	node.StartVM(simnode.VM{Addresses: []string{"0000:4e:00.0"}, GroupOnly: true})
	node.Delete("dev/vfio/54")
	node.Delete("dev/vfio/55")
	if err := os.MkdirAll(node.Root+"/dev/vfio/55", 0o755); err != nil {
		t.Fatal(err)
	}
	node.Link("dev/vfio/60", "60")
	for name, probe := range probes(root) {
		t.Run(name, func(t *testing.T) {
			for _, want := range []struct {
				group  vfioprobe.GroupID
				state  vfioprobe.State
				errno  syscall.Errno
				text   string
				is     []error
				isNone []error
			}{
				{51, vfioprobe.Free, 0, "free", nil, nil},
				{52, vfioprobe.Held, 0, "held", []error{vfioprobe.ErrHeld, syscall.EBUSY},
					[]error{vfioprobe.ErrAbsent, vfioprobe.ErrUnknown}},
				{53, vfioprobe.Held, 0, "held", []error{vfioprobe.ErrHeld}, nil},
				{54, vfioprobe.Absent, 0, "absent", []error{vfioprobe.ErrAbsent, os.ErrNotExist},
					[]error{vfioprobe.ErrHeld, vfioprobe.ErrUnknown}},
				{55, vfioprobe.Unknown, syscall.EISDIR, "unknown (is a directory)",
					[]error{vfioprobe.ErrUnknown, syscall.EISDIR}, []error{vfioprobe.ErrHeld, vfioprobe.ErrTimedOut}},
				{60, vfioprobe.Unknown, syscall.ELOOP, "unknown (too many levels of symbolic links)",
					[]error{vfioprobe.ErrUnknown, syscall.ELOOP}, []error{os.ErrNotExist}},
				{999, vfioprobe.Absent, 0, "absent", []error{vfioprobe.ErrAbsent}, nil},
			} {
				got := must(probe(want.group))(t)
				reason := vfioprobe.UnknownNone
				if want.errno != 0 {
					reason = vfioprobe.UnknownErrno
				}
				equal(t, "occupancy", got, vfioprobe.Occupancy{
					Group: want.group, State: want.state, UnknownReason: reason, Errno: want.errno,
				})
				equal(t, "text", got.String(), want.text)
				err := got.Err()
				if (err == nil) != (want.state == vfioprobe.Free) {
					t.Errorf("%v: %v", got, err)
				}
				isAll(t, err, want.is...)
				isNone(t, err, want.isNone...)
			}
		})
	}
}

func TestDeniedProbeIsUnknown(t *testing.T) {
	node, root := eightGPUs(t)
	denied(t, node, 51, func() {
		got := must(root.Probe(51))(t)
		equal(t, "occupancy", got, vfioprobe.Occupancy{Group: 51, State: vfioprobe.Unknown, UnknownReason: vfioprobe.UnknownDenied})
		isAll(t, got.Err(), vfioprobe.ErrUnknown, os.ErrPermission)
		isNone(t, got.Err(), vfioprobe.ErrHeld, os.ErrNotExist)
		equal(t, "text", got.Err().Error(), "vfio-probe: group 51 is unknown (denied)")
	})
}

func TestProbeWithoutTimeTimesOut(t *testing.T) {
	_, root := eightGPUs(t)
	// The helper thread may return before the timeout is evaluated; then the result is free, and the test tries again.
	for range 1000 {
		got := must(root.ProbeWithin(51, 0))(t)
		if got.State == vfioprobe.Free {
			continue
		}
		equal(t, "occupancy", got, vfioprobe.Occupancy{Group: 51, State: vfioprobe.Unknown, UnknownReason: vfioprobe.UnknownTimedOut})
		isAll(t, got.Err(), vfioprobe.ErrUnknown, vfioprobe.ErrTimedOut, os.ErrDeadlineExceeded)
		var timeout interface{ Timeout() bool }
		if !errors.As(got.Err(), &timeout) || !timeout.Timeout() {
			t.Error("Timeout() is not true")
		}
		return
	}
	t.Error("never timed out")
}

func TestDoneContextOpensNothing(t *testing.T) {
	node, root := eightGPUs(t)
	canceled, cancel := context.WithCancel(context.Background())
	cancel()
	expired, cancel := context.WithDeadline(context.Background(), time.Unix(1, 0))
	defer cancel()
	for want, ctx := range map[error]context.Context{context.Canceled: canceled, context.DeadlineExceeded: expired} {
		got, err := root.ProbeContext(ctx, 51)
		isAll(t, err, want)
		equal(t, "text", err.Error(), "vfio-probe: probe of group 51: "+want.Error())
		isAll(t, got.Err(), vfioprobe.ErrTimedOut)
	}
	equal(t, "opens", node.Opens(51), 0)
}

func TestContextEndingDuringProbeIsConsistent(t *testing.T) {
	_, root := eightGPUs(t)
	// The context ends at about the time of the result: the call returns either the result or the context's error.
	for i := range 300 {
		ctx, cancel := context.WithTimeout(context.Background(), time.Duration(i)*10*time.Microsecond)
		got, err := root.ProbeContext(ctx, 51)
		cancel()
		switch {
		case err == nil && got.State == vfioprobe.Free:
		case errors.Is(err, context.DeadlineExceeded) && got.UnknownReason == vfioprobe.UnknownTimedOut:
		default:
			t.Fatalf("%v, %v", got, err)
		}
	}
}

// A group has at most one outstanding probe: concurrent calls wait for it.
func TestProbeContextWaitsForOutstandingProbe(t *testing.T) {
	_, root := eightGPUs(t)
	for name, limit := range map[string]time.Duration{"deadline": 30 * time.Second, "none": 0} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithCancel(context.Background())
			if limit != 0 {
				ctx, cancel = context.WithTimeout(ctx, limit)
			}
			defer cancel()
			var all sync.WaitGroup
			for range 8 {
				all.Add(1)
				go func() {
					defer all.Done()
					for range 50 {
						got, err := root.ProbeContext(ctx, 51)
						if err != nil || got.State != vfioprobe.Free {
							t.Error(got, err)
							return
						}
					}
				}()
			}
			all.Wait()
		})
	}
}

func TestPeekAndProbeDoNotAllocate(t *testing.T) {
	node, root := eightGPUs(t)
	node.StartVM(simnode.VM{Addresses: []string{simnode.SecondGPU}})
	for name, call := range map[string]func() error{
		"Peek":          func() error { _, err := root.Peek(51); return err },
		"Probe":         func() error { _, err := root.Probe(51); return err },
		"Probe of held": func() error { _, err := root.Probe(52); return err },
	} {
		equal(t, name, testing.AllocsPerRun(100, func() {
			if err := call(); err != nil {
				t.Error(err)
			}
		}), 0)
	}
}

func TestPeekReportsEveryResult(t *testing.T) {
	node, root := eightGPUs(t)
	node.Do("add_mdev", map[string]any{"uuid": uuid, "parent": simnode.FirstGPU, "type": "nvidia-35", "group": 71})
	node.StartVM(simnode.VM{Addresses: []string{simnode.SecondGPU}})
	node.StartVM(simnode.VM{Addresses: []string{"0000:4e:00.0"}, GroupOnly: true})
	for group, want := range map[vfioprobe.GroupID]vfioprobe.Peek{
		51: vfioprobe.LooksFree, 52: vfioprobe.LooksHeld, 53: vfioprobe.LooksFree, 71: vfioprobe.PeekUnavailable,
	} {
		equal(t, group.String(), must(root.Peek(group))(t), want)
	}
}

func TestOnlyProbesOpenGroups(t *testing.T) {
	node, root := eightGPUs(t)
	must(root.Scan())(t)
	must(root.Device(simnode.FirstGPU))(t)
	must(root.Group(51))(t)
	must(root.Members(51))(t)
	must(root.Peek(51))(t)
	must(root.Holders(51, 52))(t)
	watch := must(root.Watch(context.Background(), vfioprobe.WatchOptions{Interval: time.Millisecond}))(t)
	defer watch.Close()
	until(t, watch, ready)
	// The watch makes more passes, at least the one that finds this.
	node.Unbind(simnode.SecondGPU)
	until(t, watch, vfioprobe.Event{Kind: vfioprobe.EventUnbound, Device: simnode.SecondGPU, Group: vfioprobe.NoGroup})
	equal(t, "opens", node.Opens(51), 0)
	must(root.Probe(51))(t)
	equal(t, "opens", node.Opens(51), 1)
}

func TestKernelWithoutGroupNodesIsDetected(t *testing.T) {
	_, root := eightGPUs(t)
	equal(t, "with nodes", must(root.HasGroupNodes())(t), true)
	node := simnode.New(t, "--without-groups", "--eight-gpus")
	other := must(vfioprobe.Open(node.Root))(t)
	defer other.Close()
	equal(t, "without nodes", must(other.HasGroupNodes())(t), false)
	node.StartVM(simnode.VM{Addresses: []string{simnode.SecondGPU}})
	for group, want := range map[vfioprobe.GroupID]vfioprobe.Peek{51: vfioprobe.LooksFree, 52: vfioprobe.LooksHeld} {
		equal(t, group.String(), must(other.Peek(group))(t), want)
		equal(t, group.String(), must(other.Probe(group))(t).State, vfioprobe.Absent)
	}
}
