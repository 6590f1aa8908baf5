// Command kubelet is the part of the kubelet that a device plugin talks to, and nothing else: its own device manager,
// topology manager and pod resources service, driven by JSON lines on standard input. It runs where /var/lib/kubelet is its
// own; a kubelet that restarts is a process that is killed and started again.
package main

import (
	"bufio"
	"encoding/json"
	"os"

	"k8s.io/klog/v2"
)

// request is one line of input; which fields matter depends on Op.
type request struct {
	Op        string    `json:"op"`
	Pods      []podSpec `json:"pods"`
	Running   []ref     `json:"running"`
	Pod       podSpec   `json:"pod"`
	UID       string    `json:"uid"`
	Container string    `json:"container"`
	On        bool      `json:"on"`
}

// ref names a container that was running when the kubelet started.
type ref struct {
	UID       string `json:"uid"`
	Container string `json:"container"`
}

// answer is one line of output.
type answer struct {
	OK          bool                                      `json:"ok"`
	Error       string                                    `json:"error,omitempty"`
	Version     string                                    `json:"version,omitempty"`
	Rejected    map[string]string                         `json:"rejected,omitempty"`
	Containers  map[string]containerGiven                 `json:"containers,omitempty"`
	Capacity    map[string]int64                          `json:"capacity,omitempty"`
	Allocatable map[string]int64                          `json:"allocatable,omitempty"`
	Healthy     map[string][]string                       `json:"healthy,omitempty"`
	Allocated   map[string]map[string]map[string][]string `json:"allocated,omitempty"`
}

// containerGiven is what a container was given.
type containerGiven struct {
	Devices map[string][]string `json:"devices"`
	Envs    map[string]string   `json:"envs"`
	Nodes   []string            `json:"nodes"`
}

func failed(err error) answer { return answer{Error: err.Error()} }

func main() {
	klog.SetOutput(os.Stderr)
	klog.LogToStderr(false)
	node := newNode()
	out := json.NewEncoder(os.Stdout)
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		var r request
		var a answer
		if err := json.Unmarshal(in.Bytes(), &r); err != nil {
			a = failed(err)
		} else {
			a = node.do(r)
		}
		if out.Encode(a) != nil {
			return
		}
	}
}
