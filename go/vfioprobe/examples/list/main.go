// Command list prints the devices of a root with the result of a peek and the holders. It opens no device: list [ROOT].
package main

import (
	"errors"
	"fmt"
	"log"
	"os"

	vfioprobe "github.com/vfio-probe/vfio-probe/go/vfioprobe"
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
	for _, err := range scan.Errors {
		log.Print(err)
	}
	for _, device := range scan.Devices {
		peek, errPeek := root.Peek(device.Group)
		found, errHolders := root.Holders(device.Group)
		if err := errors.Join(errPeek, errHolders); err != nil {
			log.Print(err)
		}
		fmt.Println(device.ID, peek, found.Holders)
	}
}
