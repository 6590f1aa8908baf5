package vfioprobe_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	vfioprobe "github.com/vfio-probe/vfio-probe/go/vfioprobe"
	"github.com/vfio-probe/vfio-probe/go/vfioprobe/internal/simnode"
)

// eightGPUs starts a node with eight GPUs and opens its root.
func eightGPUs(tb testing.TB) (*simnode.Node, *vfioprobe.Root) {
	tb.Helper()
	node := simnode.New(tb, "--eight-gpus")
	return node, open(tb, node.Root)
}

func open(tb testing.TB, path string) *vfioprobe.Root {
	tb.Helper()
	root, err := vfioprobe.Open(path)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() { root.Close() })
	return root
}

// must returns the value of a call that has to succeed.
func must[T any](value T, err error) func(testing.TB) T {
	return func(tb testing.TB) T {
		tb.Helper()
		if err != nil {
			tb.Fatal(err)
		}
		return value
	}
}

func equal[T comparable](tb testing.TB, what string, got, want T) {
	tb.Helper()
	if got != want {
		tb.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// isAll checks that the error matches all targets with errors.Is.
func isAll(tb testing.TB, err error, targets ...error) {
	tb.Helper()
	for _, target := range targets {
		if !errors.Is(err, target) {
			tb.Errorf("%v (%T) is not %v", err, err, target)
		}
	}
}

// isNone checks that the error matches none of the targets.
func isNone(tb testing.TB, err error, targets ...error) {
	tb.Helper()
	for _, target := range targets {
		if errors.Is(err, target) {
			tb.Errorf("%v (%T) is %v", err, err, target)
		}
	}
}

// denied runs a function while this thread may not open the group, like an ordinary user.
func denied(tb testing.TB, node *simnode.Node, group int, run func()) {
	tb.Helper()
	terminal, err := filepath.EvalSymlinks(filepath.Join(node.Root, fmt.Sprintf("dev/vfio/%d", group)))
	if err != nil {
		tb.Fatal(err)
	}
	if err := errors.Join(os.Chmod(terminal, 0), os.Chmod(node.Root, 0o755)); err != nil {
		tb.Fatal(err)
	}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	// File modes do not restrict root. setfsuid changes this thread only and drops its CAP_DAC_OVERRIDE (capabilities(7)).
	if os.Geteuid() == 0 {
		syscall.RawSyscall(syscall.SYS_SETFSUID, 65534, 0, 0)
		defer syscall.RawSyscall(syscall.SYS_SETFSUID, 0, 0, 0)
	}
	run()
}

// entries counts the entries of /proc/self/fd or /proc/self/task.
func entries(tb testing.TB, directory string) int {
	tb.Helper()
	all, err := os.ReadDir("/proc/self/" + directory)
	if err != nil {
		tb.Fatal(err)
	}
	return len(all)
}
