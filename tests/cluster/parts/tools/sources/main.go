// Program sources prints what the kubelet and the kernel of this node say about devices bound to vfio-pci, as one JSON object.
// It shares no code with the product: pod resources come through the kubelet's own Go client, holders from /proc/PID/fd.
//
//	sources [--open]
//	sources --sample PREFIX INTERVAL
//
// With --open it also opens each group and closes it at once. That can make the open of a starting VM fail, so the tests ask
// for it only when nothing is about to start. With --sample it prints the kubelet's allocatable devices once an interval until it is
// ended.
package main

import (
	"encoding/json"
	"fmt"
	"os"
	"time"
)

// report is the printed object. An error is a value: the kubelet may be away while the kernel still answers.
type report struct {
	Pods      []podDevices `json:"pods"`
	PodsError string       `json:"pods_error,omitempty"`
	Groups    []group      `json:"groups"`
	// Processes whose descriptors could not be read. Processes that ended meanwhile do not count.
	Unread int `json:"unread"`
}

func main() {
	if len(os.Args) == 4 && os.Args[1] == "--sample" {
		interval, err := time.ParseDuration(os.Args[3])
		if err == nil {
			err = sample(podResourcesSocket, os.Args[2], interval)
		}
		fmt.Fprintln(os.Stderr, "sources:", err)
		os.Exit(1)
	}
	open := len(os.Args) == 2 && os.Args[1] == "--open"
	if len(os.Args) > 1 && !open {
		fmt.Fprintln(os.Stderr, "usage: sources [--open] | --sample PREFIX INTERVAL")
		os.Exit(2)
	}
	report := report{Pods: []podDevices{}}
	pods, err := listPods(podResourcesSocket)
	if err != nil {
		report.PodsError = err.Error()
	} else {
		report.Pods = pods
	}
	report.Groups, report.Unread, err = readKernel(open)
	if err != nil {
		fmt.Fprintln(os.Stderr, "sources:", err)
		os.Exit(1)
	}
	if err := json.NewEncoder(os.Stdout).Encode(report); err != nil {
		fmt.Fprintln(os.Stderr, "sources:", err)
		os.Exit(1)
	}
}
