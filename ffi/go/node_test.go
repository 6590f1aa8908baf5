package vfioprobe_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"

	vfioprobe "github.com/vfio-probe/vfio-probe/ffi/go"
	"github.com/vfio-probe/vfio-probe/ffi/go/internal/simnode"
)

// eightGPUs is a node with eight GPUs, and its root.
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

// must is for calls that are to succeed.
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

// isAll checks that the error is each of these, as errors.Is tells.
func isAll(tb testing.TB, err error, targets ...error) {
	tb.Helper()
	for _, target := range targets {
		if !errors.Is(err, target) {
			tb.Errorf("%v (%T) is not %v", err, err, target)
		}
	}
}

// isNone checks that the error is none of these.
func isNone(tb testing.TB, err error, targets ...error) {
	tb.Helper()
	for _, target := range targets {
		if errors.Is(err, target) {
			tb.Errorf("%v (%T) is %v", err, err, target)
		}
	}
}

// denied runs something while this thread may not open the group, as an ordinary user may not.
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
	// A mode is nothing to root. This is of the thread alone, and takes its CAP_DAC_OVERRIDE (capabilities(7)).
	if os.Geteuid() == 0 {
		syscall.RawSyscall(syscall.SYS_SETFSUID, 65534, 0, 0)
		defer syscall.RawSyscall(syscall.SYS_SETFSUID, 0, 0, 0)
	}
	run()
}

// entries counts what is in one of this process' folders: fd or task.
func entries(tb testing.TB, folder string) int {
	tb.Helper()
	all, err := os.ReadDir("/proc/self/" + folder)
	if err != nil {
		tb.Fatal(err)
	}
	return len(all)
}
