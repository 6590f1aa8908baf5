package vfioprobe_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	vfioprobe "github.com/vfio-probe/vfio-probe/go/vfioprobe"
	"github.com/vfio-probe/vfio-probe/go/vfioprobe/internal/simnode"
)

func TestInvalidArgumentsAreRefusedByName(t *testing.T) {
	_, root := eightGPUs(t)
	device := func(id string) func() error {
		return func() error { _, err := root.Device(id); return err }
	}
	opened := func(path string) func() error {
		return func() error { _, err := vfioprobe.Open(path); return err }
	}
	watched := func(options vfioprobe.WatchOptions) func() error {
		return func() error { _, err := root.Watch(context.Background(), options); return err }
	}
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o644); err != nil {
		t.Fatal(err)
	}
	invalid := []error{vfioprobe.ErrInvalid, os.ErrInvalid}
	for name, bad := range map[string]struct {
		call func() error
		kind vfioprobe.ErrorKind
		text string
		is   []error
	}{
		"not an id":         {device("card0"), vfioprobe.ErrorInvalid, "id: ", invalid},
		"empty id":          {device(""), vfioprobe.ErrorInvalid, "id: ", invalid},
		"id of a path":      {device("../../0000:1b:00.0"), vfioprobe.ErrorInvalid, "id: ", invalid},
		"long id":           {device(strings.Repeat("0", 1<<16)), vfioprobe.ErrorInvalid, "id: ", invalid},
		"id with NUL":       {device(simnode.FirstGPU + "\x00"), vfioprobe.ErrorInvalid, "id: must not contain a NUL byte", invalid},
		"missing id":        {device("0000:ff:1f.7"), vfioprobe.ErrorMissing, "0000:ff:1f.7: ", []error{os.ErrNotExist}},
		"path with NUL":     {opened("/\x00x"), vfioprobe.ErrorInvalid, "path: must not contain a NUL byte", invalid},
		"empty path":        {opened(""), vfioprobe.ErrorMissing, "", []error{os.ErrNotExist, syscall.ENOENT}},
		"missing path":      {opened("/no/such"), vfioprobe.ErrorMissing, "", []error{os.ErrNotExist, syscall.ENOENT}},
		"path of a file":    {opened(file), vfioprobe.ErrorSystem, "", []error{syscall.ENOTDIR}},
		"path too long":     {opened("/" + strings.Repeat("x", 1<<16)), vfioprobe.ErrorTooLong, "", []error{vfioprobe.ErrTooLong, syscall.ENAMETOOLONG}},
		"bad UTF-8 path":    {opened("/\xff"), vfioprobe.ErrorMissing, "", []error{os.ErrNotExist}},
		"negative time":     {watched(vfioprobe.WatchOptions{Interval: -1}), vfioprobe.ErrorInvalid, "options: ", invalid},
		"negative deadline": {watched(vfioprobe.WatchOptions{ProbeDeadline: -1}), vfioprobe.ErrorInvalid, "options: ", invalid},
		"names' path with NUL": {
			func() error { _, err := vfioprobe.Names("\x00"); return err },
			vfioprobe.ErrorInvalid, "path: must not contain a NUL byte", invalid,
		},
	} {
		t.Run(name, func(t *testing.T) {
			err := bad.call()
			var failed *vfioprobe.Error
			if !errors.As(err, &failed) {
				t.Fatalf("%T %v", err, err)
			}
			equal(t, "kind", failed.Kind, bad.kind)
			equal(t, "group", failed.Group, vfioprobe.NoGroup)
			isAll(t, err, bad.is...)
			isNone(t, err, vfioprobe.ErrClosed, vfioprobe.ErrMalformed, os.ErrPermission)
			if !strings.HasPrefix(failed.Text, bad.text) || err.Error() != "vfio-probe: "+failed.Text ||
				strings.ContainsAny(err.Error(), "\n\x00") {
				t.Errorf("text: %q", err)
			}
		})
	}
}

// The paths are longer than the 32 bytes that the errors of an older library kept, and not ASCII.
func TestErrorsHaveWholePaths(t *testing.T) {
	node, root := eightGPUs(t)
	long := filepath.Join(t.TempDir(), "a-name-of-more-than-thirty-two-bytes-with-é-\xff-and-a-\n")
	deep := "/" + strings.Repeat(strings.Repeat("ä", 100)+"/", 20) + "end"
	node.Write("sys/bus/pci/devices/"+simnode.FirstGPU+"/uevent", "PCI_ID=zz\n")
	opened := func(path string) error { _, err := vfioprobe.Open(path); return err }
	named := func(path string) error {
		_, err := vfioprobe.Names(path, vfioprobe.Model{Vendor: 0x10de, Device: 1})
		return err
	}
	group := func(id vfioprobe.GroupID) error { _, err := root.Group(id); return err }
	device := func(id string) error { _, err := root.Device(id); return err }
	scan := must(root.Scan())(t)
	if len(scan.Errors) != 1 {
		t.Fatal(scan.Errors)
	}
	for _, c := range []struct {
		err  error
		path string
		is   []error
	}{
		{opened(long), long, []error{os.ErrNotExist, syscall.ENOENT}},
		{opened(deep), deep, []error{os.ErrNotExist, syscall.ENOENT}},
		{named(long), long, []error{os.ErrNotExist, syscall.ENOENT}},
		{group(4000), "sys/kernel/iommu_groups/4000", []error{os.ErrNotExist}},
		{group(vfioprobe.NoGroup), "", []error{vfioprobe.ErrInvalid}},
		{device("0000:77:00.0"), "sys/bus/pci/devices/0000:77:00.0", []error{os.ErrNotExist}},
		{device(simnode.FirstGPU), "sys/bus/pci/devices/" + simnode.FirstGPU + "/uevent", []error{vfioprobe.ErrMalformed}},
		{scan.Errors[0], "sys/bus/pci/devices/" + simnode.FirstGPU + "/uevent", []error{vfioprobe.ErrMalformed}},
		// The record of an earlier error is used again: nothing of it may show.
		{group(vfioprobe.NoGroup), "", []error{vfioprobe.ErrInvalid}},
	} {
		var failed *vfioprobe.Error
		if !errors.As(c.err, &failed) {
			t.Errorf("%q: %v", c.path, c.err)
			continue
		}
		equal(t, "path", failed.Path, c.path)
		isAll(t, c.err, c.is...)
	}
}

func TestInaccessibleRootIsErrPermission(t *testing.T) {
	directory := filepath.Join(t.TempDir(), "closed")
	if err := os.Mkdir(directory, 0); err != nil {
		t.Fatal(err)
	}
	// denied drops root's privileges of this thread; the group does not matter.
	denied(t, simnode.New(t, "--eight-gpus"), 51, func() {
		_, err := vfioprobe.Open(filepath.Join(directory, "sys"))
		isAll(t, err, os.ErrPermission, syscall.EACCES)
		isNone(t, err, os.ErrNotExist)
	})
}

func TestUseAfterCloseIsErrClosed(t *testing.T) {
	_, root := eightGPUs(t)
	ctx := context.Background()
	watch := must(root.Watch(ctx, vfioprobe.WatchOptions{}))(t)
	for range 2 {
		equal(t, "close", root.Close(), nil)
	}
	// The watch outlives its root.
	until(t, watch, bound(simnode.FirstGPU))
	for range 2 {
		equal(t, "close", watch.Close(), nil)
	}
	var never *vfioprobe.Root
	var noWatch *vfioprobe.Watch
	equal(t, "close of nil", errors.Join(never.Close(), noWatch.Close(), new(vfioprobe.Root).Close()), nil)
	for name, call := range map[string]func() error{
		"Scan":          func() error { _, err := root.Scan(); return err },
		"Device":        func() error { _, err := root.Device(simnode.FirstGPU); return err },
		"Group":         func() error { _, err := root.Group(51); return err },
		"Members":       func() error { _, err := root.Members(51); return err },
		"HasGroupNodes": func() error { _, err := root.HasGroupNodes(); return err },
		"Peek":          func() error { _, err := root.Peek(51); return err },
		"Probe":         func() error { _, err := root.Probe(51); return err },
		"ProbeWithin":   func() error { _, err := root.ProbeWithin(51, time.Second); return err },
		"ProbeContext":  func() error { _, err := root.ProbeContext(ctx, 51); return err },
		"Holders":       func() error { _, err := root.Holders(51); return err },
		"Snapshot":      func() error { _, err := root.Snapshot(); return err },
		"Watch":         func() error { _, err := root.Watch(ctx, vfioprobe.WatchOptions{}); return err },
		"never opened":  func() error { _, err := never.Scan(); return err },
		"zero value":    func() error { _, err := new(vfioprobe.Root).Scan(); return err },
		"never watched": func() error { _, err := noWatch.Groups(); return err },
		"watch Groups":  func() error { _, err := watch.Groups(); return err },
		"watch Devices": func() error { _, err := watch.Devices(); return err },
		"watch Holders": func() error { _, err := watch.Holders(51); return err },
		"watch SetAssigned": func() error {
			return watch.SetAssigned(51)
		},
	} {
		err := call()
		isAll(t, err, vfioprobe.ErrClosed, os.ErrClosed)
		if err == nil || !strings.HasSuffix(err.Error(), " is closed") {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, ended := range []*vfioprobe.Watch{watch, noWatch, {}} {
		for range ended.Events() {
			t.Error("an event of a closed watch")
		}
	}
}

func TestCloseDuringCallsIsSafe(t *testing.T) {
	node := simnode.New(t, "--eight-gpus")
	for range 20 {
		root := must(vfioprobe.Open(node.Root))(t)
		var calls sync.WaitGroup
		var made atomic.Int64
		for i := range 8 {
			calls.Add(1)
			go func() {
				defer calls.Done()
				for ; ; made.Add(1) {
					var err error
					switch i % 4 {
					case 0:
						_, err = root.Scan()
					case 1:
						_, err = root.Peek(51)
					case 2:
						_, err = root.Holders(51)
					case 3:
						_, err = root.ProbeContext(context.Background(), vfioprobe.GroupID(51+i))
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
		// Close while calls are in progress.
		eventually(t, func() bool { return made.Load() >= 8 })
		root.Close()
		calls.Wait()
	}
}

func TestGoroutinesShareARoot(t *testing.T) {
	node, root := eightGPUs(t)
	pid := node.StartVM(simnode.VM{Addresses: []string{simnode.FirstGPU}})
	var all sync.WaitGroup
	for i := range 8 {
		all.Add(1)
		go func() {
			defer all.Done()
			own := vfioprobe.GroupID(51 + i)
			for range 50 {
				scan, err1 := root.Scan()
				peek, err2 := root.Peek(own)
				holders, err3 := root.Holders(own)
				occupancy, err4 := root.ProbeWithin(own, 10*time.Second)
				if err := errors.Join(err1, err2, err3, err4); err != nil {
					t.Error(err)
					return
				}
				held := own == 51
				consistent := len(scan.Devices) == 8 && (peek == vfioprobe.LooksHeld) == held &&
					(len(holders.Holders) == 1 && holders.Holders[0].PID == pid) == held &&
					(occupancy.State == vfioprobe.Held) == held && (occupancy.State == vfioprobe.Free) == !held
				if !consistent {
					t.Error(len(scan.Devices), own, peek, holders, occupancy)
				}
			}
		}()
	}
	all.Wait()
}
