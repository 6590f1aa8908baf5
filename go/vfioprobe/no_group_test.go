package vfioprobe_test

import (
	"context"
	"os"
	"reflect"
	"testing"
	"time"

	vfioprobe "github.com/vfio-probe/vfio-probe/go/vfioprobe"
)

func TestNoGroupIsInvalidInEveryCall(t *testing.T) {
	_, root := eightGPUs(t)
	watch := watch(t, root, vfioprobe.WatchOptions{Interval: time.Hour})
	ctx := limited(t)
	calls := map[any]map[string]func(vfioprobe.GroupID) error{
		root: {
			"Group":        func(group vfioprobe.GroupID) error { _, err := root.Group(group); return err },
			"Members":      func(group vfioprobe.GroupID) error { _, err := root.Members(group); return err },
			"Peek":         func(group vfioprobe.GroupID) error { _, err := root.Peek(group); return err },
			"Probe":        func(group vfioprobe.GroupID) error { _, err := root.Probe(group); return err },
			"ProbeWithin":  func(group vfioprobe.GroupID) error { _, err := root.ProbeWithin(group, time.Second); return err },
			"ProbeContext": func(group vfioprobe.GroupID) error { _, err := root.ProbeContext(ctx, group); return err },
			"Holders":      func(group vfioprobe.GroupID) error { _, err := root.Holders(51, group); return err },
			"DeviceNodes":  func(group vfioprobe.GroupID) error { _, err := root.DeviceNodes(group); return err },
		},
		watch: {
			"Group":       func(group vfioprobe.GroupID) error { _, _, err := watch.Group(group); return err },
			"Holders":     func(group vfioprobe.GroupID) error { _, err := watch.Holders(group); return err },
			"SetAssigned": func(group vfioprobe.GroupID) error { return watch.SetAssigned(51, group) },
			"WaitFree":    func(group vfioprobe.GroupID) error { return watch.WaitFree(ctx, group) },
			"WaitHeld":    func(group vfioprobe.GroupID) error { return watch.WaitHeld(ctx, group) },
		},
	}
	group := reflect.TypeFor[vfioprobe.GroupID]()
	for receiver, table := range calls {
		for name, call := range table {
			err := call(vfioprobe.NoGroup)
			isAll(t, err, vfioprobe.ErrInvalid, os.ErrInvalid)
			if failed, ok := err.(*vfioprobe.Error); !ok || failed.Kind != vfioprobe.ErrorInvalid {
				t.Errorf("%T.%s: %T %v", receiver, name, err, err)
			}
		}
		// The table has every method with a group among its parameters.
		methods := reflect.TypeOf(receiver)
		for i := range methods.NumMethod() {
			method := methods.Method(i)
			for place := range method.Type.NumIn() {
				in := method.Type.In(place)
				if (in == group || in == reflect.SliceOf(group)) && table[method.Name] == nil {
					t.Errorf("%T.%s is not in the table", receiver, method.Name)
				}
			}
		}
	}
	// ProbeContext without a deadline is another path.
	_, err := root.ProbeContext(context.Background(), vfioprobe.NoGroup)
	isAll(t, err, vfioprobe.ErrInvalid)
}
