// Command list prints all devices of a root with their state and holders, and opens none: list [ROOT].
package main

import (
	"fmt"
	"log"
	"os"

	vfioprobe "github.com/vfio-probe/vfio-probe/ffi/go"
)

func main() {
	root, err := vfioprobe.Open(append(os.Args, "/")[1])
	if err != nil {
		log.Fatal(err)
	}
	defer root.Close()
	scan, err := root.Scan()
	if err != nil {
		log.Fatal(err)
	}
	for _, broken := range scan.Broken {
		log.Print(broken)
	}
	for _, device := range scan.Devices {
		peek, err := root.Peek(device.Group)
		if err != nil {
			log.Print(err)
			continue
		}
		fmt.Print(device.ID, " ", peek)
		found, err := root.Holders(device.Group)
		if err != nil {
			log.Print(err)
		}
		for _, holder := range found.Holders {
			fmt.Printf(", %s (pid %d, pod %s)", holder.Command, holder.PID, holder.PodUID)
		}
		fmt.Println()
	}
}
