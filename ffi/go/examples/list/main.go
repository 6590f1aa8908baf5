// Command list prints all devices of a root with their state and holders, and opens none: list [ROOT].
package main

import (
	"errors"
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
		peek, unseen := root.Peek(device.Group)
		found, unknown := root.Holders(device.Group)
		if err := errors.Join(unseen, unknown); err != nil {
			log.Print(err)
		}
		fmt.Println(device.ID, peek, found.Holders)
	}
}
