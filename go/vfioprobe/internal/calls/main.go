// Command calls measures calls of the Go package: calls ROOT FREE_GROUP HELD_GROUP FREE_DEVICE prints one line of JSON. Each figure is
// the time of one call in nanoseconds, the best of many short rounds.
//
// It opens the free group many times: do not run it where a VM may open the group.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log"
	"os"
	"path/filepath"
	"strconv"
	"time"

	vfioprobe "github.com/vfio-probe/vfio-probe/go/vfioprobe"
)

// A round takes milliseconds at most, so that another program rarely interrupts all of them.
const rounds = 200

func main() {
	if len(os.Args) != 5 {
		log.Fatal("usage: calls ROOT FREE_GROUP HELD_GROUP FREE_DEVICE")
	}
	root, err := vfioprobe.Open(os.Args[1])
	if err != nil {
		log.Fatal(err)
	}
	defer root.Close()
	free, held := group(os.Args[2]), group(os.Args[3])
	device := os.Args[4]
	enable := filepath.Join(os.Args[1], "sys/bus/pci/devices", device, "enable")
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	watch, err := root.Watch(context.Background(), vfioprobe.WatchOptions{})
	if err != nil {
		log.Fatal(err)
	}
	defer watch.Close()
	if err := watch.WaitHeld(ctx, held); err != nil {
		log.Fatal(err)
	}
	figures := map[string]any{
		"language": "go",
		"enable_ns": best(200, func() error {
			_, err := os.ReadFile(enable)
			return err
		}),
		"watch_ns": best(200, func() error {
			_, _, err := watch.Group(free)
			return err
		}),
		"nodes_ns": best(200, func() error {
			_, err := root.DeviceNodes(free)
			return err
		}),
		"hardware_ns": best(200, func() error {
			_, err := root.Hardware(device)
			return err
		}),
		"scan_ns": best(4, func() error {
			_, err := root.Scan()
			return err
		}),
		"snapshot_ns": best(4, func() error {
			_, err := root.Snapshot()
			return err
		}),
		"peek_ns": best(200, func() error {
			_, err := root.Peek(free)
			return err
		}),
		"probe_free_ns": best(200, func() error { return expect(root, free, vfioprobe.Free) }),
		"probe_held_ns": best(200, func() error { return expect(root, held, vfioprobe.Held) }),
		"cgo_ns": best(10_000, func() error {
			vfioprobe.ABI()
			return nil
		}),
	}
	if err := json.NewEncoder(os.Stdout).Encode(figures); err != nil {
		log.Fatal(err)
	}
}

func group(text string) vfioprobe.GroupID {
	number, err := strconv.ParseUint(text, 10, 32)
	if err != nil {
		log.Fatal(err)
	}
	return vfioprobe.GroupID(number)
}

// expect probes a group and checks the state: another path through the kernel has another cost.
func expect(root *vfioprobe.Root, group vfioprobe.GroupID, want vfioprobe.State) error {
	got, err := root.Probe(group)
	if err == nil && got.State != want {
		err = fmt.Errorf("group %s is %s, not %s", group, got, want)
	}
	return err
}

// best returns the time of one call in the fastest round, in nanoseconds.
func best(calls int, call func() error) float64 {
	least := time.Duration(1<<63 - 1)
	for range rounds {
		begun := time.Now()
		for range calls {
			if err := call(); err != nil {
				log.Fatal(err)
			}
		}
		least = min(least, time.Since(begun))
	}
	return float64(least.Nanoseconds()) / float64(calls)
}
