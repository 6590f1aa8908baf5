// Command agent prints which device nodes a VM could get now and who holds the others, then waits until a group is free:
// agent ROOT GROUP.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strconv"
	"time"

	"github.com/vfio-probe/vfio-probe/go/vfioprobe"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: agent ROOT GROUP")
	}
	number, err := strconv.ParseUint(os.Args[2], 10, 32)
	if err != nil {
		log.Fatal(err)
	}
	if err := run(os.Args[1], vfioprobe.GroupID(number)); err != nil {
		log.Fatal(err)
	}
}

func run(path string, wanted vfioprobe.GroupID) error {
	root, err := vfioprobe.Open(path)
	if err != nil {
		return err
	}
	defer root.Close()
	snapshot, err := root.Snapshot()
	if err != nil {
		return err
	}
	for _, group := range snapshot.Groups {
		switch group.Occupancy.State {
		case vfioprobe.Free:
			nodes, err := root.DeviceNodes(group.ID)
			if err != nil {
				return err
			}
			fmt.Printf("group %d free:", group.ID)
			for _, node := range nodes {
				if node.Path != "" {
					fmt.Print(" ", node.Path)
				}
			}
			fmt.Println()
		case vfioprobe.Held:
			for _, holder := range group.Holders {
				fmt.Printf("group %d held (%s) by %d %s uid %d since %d\n", group.ID, group.Evidence, holder.PID, holder.Command,
					holder.UID, holder.Started.Unix())
			}
		default:
			fmt.Printf("group %d %s\n", group.ID, group.Occupancy.State)
		}
	}
	fmt.Printf("waiting for group %d\n", wanted)
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	watch, err := root.Watch(ctx, vfioprobe.WatchOptions{})
	if err != nil {
		return err
	}
	defer watch.Close()
	if err := watch.WaitFree(ctx, wanted); err != nil {
		return err
	}
	fmt.Printf("group %d free\n", wanted)
	return nil
}
