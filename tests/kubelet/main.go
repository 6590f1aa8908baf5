// Command kubelet runs the parts of the kubelet that a device plugin communicates with: the device manager, the topology
// manager and the pod resources service of Kubernetes itself. Each line of standard input is one request as JSON, each line
// of standard output one reply.
//
// It uses /var/lib/kubelet, which must belong to it alone: run it in a mount namespace. To restart this kubelet, kill the
// process and start another one.
package main

import (
	"bufio"
	"encoding/json"
	"os"

	"k8s.io/klog/v2"
)

// request is one line of input. Op decides which of the other fields are read.
type request struct {
	Op        string         `json:"op"`
	Pods      []podSpec      `json:"pods"`
	Running   []containerRef `json:"running"`
	Pod       podSpec        `json:"pod"`
	UID       string         `json:"uid"`
	Container string         `json:"container"`
	On        bool           `json:"on"`
	Resource  string         `json:"resource"`
	Wanted    int64          `json:"wanted"`
}

// containerRef names a container that was running when the kubelet started.
type containerRef struct {
	UID       string `json:"uid"`
	Container string `json:"container"`
}

// reply is one line of output.
type reply struct {
	OK          bool                                      `json:"ok"`
	Error       string                                    `json:"error,omitempty"`
	Version     string                                    `json:"version,omitempty"`
	Rejected    map[string]string                         `json:"rejected,omitempty"`
	Containers  map[string]containerAllocation            `json:"containers,omitempty"`
	Capacity    map[string]int64                          `json:"capacity,omitempty"`
	Allocatable map[string]int64                          `json:"allocatable,omitempty"`
	Healthy     map[string][]string                       `json:"healthy,omitempty"`
	Allocated   map[string]map[string]map[string][]string `json:"allocated,omitempty"`
	Samples     *samples                                  `json:"samples,omitempty"`
}

// containerAllocation is what the device manager has allocated to a container: device ids by resource, environment
// variables and device nodes on the host.
type containerAllocation struct {
	Devices map[string][]string `json:"devices"`
	Envs    map[string]string   `json:"envs"`
	Nodes   []string            `json:"nodes"`
}

// failure returns the reply to a request that failed.
func failure(err error) reply { return reply{Error: err.Error()} }

func main() {
	klog.SetOutput(os.Stderr)
	klog.LogToStderr(false)
	node := newNode()
	out := json.NewEncoder(os.Stdout)
	in := bufio.NewScanner(os.Stdin)
	in.Buffer(nil, 1<<20)
	for in.Scan() {
		var r request
		var a reply
		if err := json.Unmarshal(in.Bytes(), &r); err != nil {
			a = failure(err)
		} else {
			a = node.handle(r)
		}
		if out.Encode(a) != nil {
			return
		}
	}
}
