// Command allocator checks the ResourceSlices and DeviceClasses that the plugin prints with the code of one Kubernetes version:
// the API server's creation of objects with its validation and its feature gates, and the scheduler's allocator.
//
// usage: allocator PLUGIN SIM_NODE MINOR
//
// PLUGIN is vfio-device-plugin, SIM_NODE is vfio-sim-node, and MINOR is the second number of the version of Kubernetes that this
// program was built with. It prints one line for each test and ends with `N passed, N failed`.
package main

import (
	"fmt"
	"os"
)

func main() {
	if len(os.Args) != 4 {
		fmt.Fprintln(os.Stderr, "usage: allocator PLUGIN SIM_NODE MINOR")
		os.Exit(64)
	}
	programs := programs{plugin: os.Args[1], simNode: os.Args[2], minor: os.Args[3]}
	passed, failed := 0, 0
	for _, test := range tests {
		err := test.run(&programs)
		if err == nil {
			passed++
			fmt.Printf("ok %s\n", test.name)
		} else {
			failed++
			fmt.Printf("FAILED %s: %v\n", test.name, err)
		}
	}
	fmt.Printf("%d passed, %d failed\n", passed, failed)
	if failed > 0 {
		os.Exit(1)
	}
}
