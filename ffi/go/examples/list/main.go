// Command list prints every device of a root with its state and who has it, and opens none of them: list [ROOT].
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
	for _, device := range scan.Devices {
		peek, _ := root.Peek(device.Group)
		found, _ := root.Holders(device.Group)
		fmt.Println(device.ID, peek, found.Holders)
	}
}
