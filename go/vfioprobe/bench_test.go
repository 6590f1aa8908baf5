package vfioprobe_test

import (
	"testing"

	vfioprobe "github.com/vfio-probe/vfio-probe/go/vfioprobe"
	"github.com/vfio-probe/vfio-probe/go/vfioprobe/internal/simnode"
)

// BenchmarkCgoCall measures the cost of a cgo call without work.
func BenchmarkCgoCall(b *testing.B) {
	for b.Loop() {
		vfioprobe.ABI()
	}
}

func BenchmarkPeek(b *testing.B) {
	_, root := eightGPUs(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := root.Peek(simnode.First); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkProbeFree(b *testing.B) {
	_, root := eightGPUs(b)
	benchmarkProbe(b, root, simnode.First, vfioprobe.Free)
}

func BenchmarkProbeHeld(b *testing.B) {
	node, root := eightGPUs(b)
	node.StartVM(simnode.VM{Addresses: []string{simnode.SecondGPU}})
	benchmarkProbe(b, root, simnode.Second, vfioprobe.Held)
}

func benchmarkProbe(b *testing.B, root *vfioprobe.Root, group vfioprobe.GroupID, want vfioprobe.State) {
	b.ReportAllocs()
	for b.Loop() {
		if got, err := root.Probe(group); err != nil || got.State != want {
			b.Fatal(got, err)
		}
	}
}

func BenchmarkScanEightDevices(b *testing.B) {
	_, root := eightGPUs(b)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := root.Scan(); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkWatchGroup measures a call without a system call, in which the costs of the binding show.
func BenchmarkWatchGroup(b *testing.B) {
	_, root := eightGPUs(b)
	watch := watch(b, root, vfioprobe.WatchOptions{})
	until(b, watch, ready)
	b.ReportAllocs()
	for b.Loop() {
		if _, found, err := watch.Group(simnode.First); err != nil || !found {
			b.Fatal(found, err)
		}
	}
}
