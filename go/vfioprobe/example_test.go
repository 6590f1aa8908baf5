package vfioprobe_test

import (
	"context"
	"errors"
	"fmt"
	"log"
	"time"

	vfioprobe "github.com/vfio-probe/vfio-probe/go/vfioprobe"
	"github.com/vfio-probe/vfio-probe/go/vfioprobe/internal/simnode"
)

func Example() {
	node := simnode.Start("--eight-gpus") // In production the root is "/".
	defer node.Close()
	root, err := vfioprobe.Open(node.Root)
	if err != nil {
		log.Fatal(err)
	}
	defer root.Close()

	scan, err := root.Scan()
	if err != nil {
		log.Fatal(err)
	}
	for _, device := range scan.Devices[:2] {
		peek, err := root.Peek(device.Group)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Println(device.ID, device.Group, device.Driver, peek)
	}
	// Output:
	// 0000:1b:00.0 51 vfio-pci looks-free
	// 0000:3d:00.0 52 vfio-pci looks-free
}

func ExampleRoot_Holders() {
	node := simnode.Start("--eight-gpus")
	defer node.Close()
	node.StartVM(simnode.VM{
		Addresses: []string{"0000:1b:00.0"}, PodUID: "0d9a1c7e-5b0a-4a57-9d3a-0123456789ab",
	})
	root, err := vfioprobe.Open(node.Root)
	if err != nil {
		log.Fatal(err)
	}
	defer root.Close()

	found, err := root.Holders(51, 52)
	if err != nil {
		log.Fatal(err)
	}
	for _, holder := range found.Holders {
		fmt.Println(holder.Group, holder.Command, holder.PodUID)
	}
	if found.Coverage.Complete() {
		fmt.Println("no other holder")
	}
	// Output:
	// 51 qemu-system-x86 0d9a1c7e-5b0a-4a57-9d3a-0123456789ab
	// no other holder
}

func ExampleOccupancy_Err() {
	node := simnode.Start("--eight-gpus")
	defer node.Close()
	node.StartVM(simnode.VM{Addresses: []string{"0000:1b:00.0"}})
	root, err := vfioprobe.Open(node.Root)
	if err != nil {
		log.Fatal(err)
	}
	defer root.Close()

	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for _, group := range []vfioprobe.GroupID{51, 52, 99} {
		// Opens the group for a moment.
		occupancy, err := root.ProbeContext(ctx, group)
		if err == nil {
			err = occupancy.Err()
		}
		switch {
		case err == nil:
			fmt.Println(group, "is free")
		case errors.Is(err, vfioprobe.ErrHeld):
			fmt.Println(group, "is held")
		default:
			fmt.Println(err)
		}
	}
	// Output:
	// 51 is held
	// 52 is free
	// vfio-probe: group 99 is absent
}

func ExampleWatch_Events() {
	node := simnode.Start("--eight-gpus")
	defer node.Close()
	node.StartVM(simnode.VM{Addresses: []string{"0000:1b:00.0"}})
	root, err := vfioprobe.Open(node.Root)
	if err != nil {
		log.Fatal(err)
	}
	defer root.Close()

	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	watch, err := root.Watch(ctx, vfioprobe.WatchOptions{})
	if err != nil {
		log.Fatal(err)
	}
	for event, err := range watch.Events() {
		if err != nil {
			log.Print(err) // A pass failed; the watch continues.
			continue
		}
		if event.Kind == vfioprobe.EventHeld {
			found, err := watch.Holders(event.Group)
			if err != nil {
				log.Fatal(err)
			}
			fmt.Println(event.Group, event.Kind, "by", found.Holders[0].Command)
			cancel() // Ends the loop.
		}
	}
	// Output:
	// 51 held by qemu-system-x86
}
