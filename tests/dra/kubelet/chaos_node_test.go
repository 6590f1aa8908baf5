package kubelet

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// The devices of a simulated node: eight GPUs in groups of their own, and two in one group.
var chaosDevices = map[string]int{"0000:1b:00.0": 51, "0000:3d:00.0": 52, "0000:4e:00.0": 53, "0000:5f:00.0": 54, "0000:9b:00.0": 55,
	"0000:bd:00.0": 56, "0000:ce:00.0": 57, "0000:df:00.0": 58, "0000:e1:00.0": 70, "0000:e1:00.1": 70}

// chaosVM is a process that holds groups: a pod's VM, or one of no pod.
type chaosVM struct {
	pid    int
	groups []int
	// pod is the uid of the pod. Empty for a process of no pod, and for the rest of a pod that has ended.
	pod string
}

// chaosNode is a node with everything on it.
type chaosNode struct {
	*cluster
	t      *testing.T
	name   string
	random *rand.Rand
	sim    *simNode
	dirs   directories
	proxy  *proxy
	// client reaches the API server as the node does.
	client     *kubernetes.Clientset
	kubeconfig string
	driver     *process
	log        string
	kubelet    *kubelet
	stopWork   context.CancelFunc
	workCtx    context.Context
	workers    sync.WaitGroup
	created    int
	// placements is what the latest check has found.
	placements int
	// wiped are the slices that the kubelet deletes because it has started.
	wiped map[types.UID]bool

	mu     sync.Mutex
	groups map[string]int
	bound  map[string]bool
	// unbound is when each device was unbound last.
	unbound map[string]time.Time
	vms     map[int]*chaosVM
	// open has the devices that a VM can open.
	open map[string]bool
	// changes are whether a VM could open each device after each change of that, in this step and in the previous one, since a claim of its
	// group was prepared or unprepared.
	changes [2]map[string][]bool
	pods    map[types.UID]*chaosPod
	// disturbances counts what makes a barrier impossible to check: restarts, and interruptions of the way to the API server.
	disturbances int
	interrupted  bool
	// edited is whether slices were changed by hand since the state was right: a taint that was stored may be missing until the driver has mended them.
	edited bool
	// deleted are the pods that were deleted by a step. The controllers evict the pods of devices with the taint NoExecute.
	deleted map[types.UID]bool
	// takesNext is whether a process takes a device of the next pod that is placed.
	takesNext bool
	found     atomic.Pointer[string]
	history   history
}

func newChaosNode(t *testing.T, c *cluster, name string, random *rand.Rand) *chaosNode {
	t.Helper()
	n := &chaosNode{cluster: c, t: t, name: name, random: random, sim: startNode(t), dirs: newDirectories(t), wiped: map[types.UID]bool{},
		deleted: map[types.UID]bool{}, pods: map[types.UID]*chaosPod{}}
	n.setDevices(chaosDevices)
	for _, address := range []string{"0000:e1:00.0", "0000:e1:00.1"} {
		n.sim.order(t, "add_gpu", map[string]any{"address": address, "group": 70, "numa_node": 1}, &struct{}{})
	}
	createNode(t, c.apiServer, name)
	n.proxy = startProxy(t, hostOf(t, c.apiServer))
	n.client, n.kubeconfig = n.proxy.through(t, c.apiServer, n.dirs.root)
	path, log, err := createLog("driver-of-" + name)
	must(t, err)
	must(t, log.Close())
	n.log = path
	t.Cleanup(func() {
		if n.violation() == "" && !t.Failed() {
			_ = os.Remove(path)
		}
	})
	n.startDriver()
	n.startKubelet()
	t.Cleanup(func() {
		n.proxy.resume()
		n.stopWork()
		n.kubelet.end()
		n.workers.Wait()
		// The simulated node leaves its VMs when it ends.
		for _, vm := range n.vms {
			n.kill(vm)
		}
	})
	return n
}

func (n *chaosNode) startDriver() {
	log, err := os.OpenFile(n.log, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o600)
	must(n.t, err)
	defer log.Close()
	command := exec.Command(program(n.t, "VFIO_TEST_SIM_NODE"), "exec", program(n.t, "VFIO_TEST_PLUGIN"), "serve", "--offer=dra",
		"--dra-driver="+driverName, "--node="+n.name, "--kubeconfig="+n.kubeconfig, "--root="+n.sim.root, "--kubelet-root="+n.dirs.root,
		"--kubelet-dir="+n.dirs.kubelet, "--cdi-dir="+n.dirs.cdi, "--run-dir="+n.dirs.run, "--pci-ids=/dev/null", "--interval=100ms",
		"--settling=200ms", "--release=500ms", "--log-level=debug")
	command.Stderr = log
	n.driver = start(n.t, "driver-of-"+n.name, command)
}

func (n *chaosNode) startKubelet() {
	n.workCtx, n.stopWork = context.WithCancel(context.Background())
	n.kubelet = startKubeletOf(n.t, n.client, n.name, n.dirs)
}

func (n *chaosNode) stopKubelet() {
	n.stopWork()
	n.kubelet.end()
	n.workers.Wait()
	n.mu.Lock()
	defer n.mu.Unlock()
	// The next kubelet syncs all pods.
	for _, p := range n.pods {
		p.prepared = false
	}
}

// violate records the first violation.
func (n *chaosNode) violate(format string, arguments ...any) {
	text := fmt.Sprintf(format, arguments...)
	n.found.CompareAndSwap(nil, &text)
}

// violation returns the first violation. Empty without one.
func (n *chaosNode) violation() string {
	if found := n.found.Load(); found != nil {
		return *found
	}
	return ""
}

func (n *chaosNode) logHas(text string) bool {
	content, _ := os.ReadFile(n.log)
	return strings.Contains(string(content), text)
}

// nodeOfPod returns the name of the node that a pod or its claim is made for: pods are named NODE-pod-NUMBER.
func nodeOfPod(name string) string {
	node, _, _ := strings.Cut(name, "-pod-")
	return node
}

// addressOf returns the PCI address of a published device, such as pci-0000-1b-00-0.
func addressOf(device string) string {
	parts := strings.Split(device, "-")
	if len(parts) != 5 {
		return device
	}
	return parts[1] + ":" + parts[2] + ":" + parts[3] + "." + parts[4]
}

func deviceOf(address string) string {
	return "pci-" + strings.NewReplacer(":", "-", ".", "-").Replace(address)
}

// untainted returns the devices that the scheduler may allocate if no claim has them.
func untainted(slices []*resourceapi.ResourceSlice) map[string]bool {
	offered := map[string]bool{}
	for _, slice := range slices {
		for _, device := range slice.Spec.Devices {
			withheld := false
			for _, taint := range device.Taints {
				withheld = withheld || taint.Effect == resourceapi.DeviceTaintEffectNoSchedule || taint.Effect == resourceapi.DeviceTaintEffectNoExecute
			}
			if !withheld {
				offered[device.Name] = true
			}
		}
	}
	return offered
}

func allocatedDevices(claim *resourceapi.ResourceClaim) []string {
	var devices []string
	if claim.Status.Allocation != nil {
		for _, result := range claim.Status.Allocation.Devices.Results {
			devices = append(devices, result.Device)
		}
	}
	return devices
}

// tick does what the kubelet and the VMs do by themselves: pods that were placed get a worker, VMs start and end.
func (n *chaosNode) tick(v view) {
	claims := map[types.UID][]*resourceapi.ResourceClaim{}
	for _, claim := range v.claims {
		for _, consumer := range claim.Status.ReservedFor {
			claims[consumer.UID] = append(claims[consumer.UID], claim)
		}
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	stored := map[types.UID]*corev1.Pod{}
	for _, pod := range v.pods {
		stored[pod.UID] = pod
		if _, known := n.pods[pod.UID]; known || pod.Spec.NodeName == "" || len(claims[pod.UID]) == 0 {
			continue
		}
		p := &chaosPod{pod: pod, claims: claims[pod.UID], wantsVM: true}
		for _, claim := range p.claims {
			p.devices = append(p.devices, allocatedDevices(claim)...)
		}
		n.pods[pod.UID] = p
		if n.takesNext && n.canStart(p) {
			n.takesNext, p.isLate = false, true
			n.startVM([]string{addressOf(p.devices[0])}, "")
		}
		n.startWorker(p)
	}
	for uid, p := range n.pods {
		pod := stored[uid]
		if p.ended {
			// The cache may still have it.
			if pod == nil {
				delete(n.pods, uid)
			}
			continue
		}
		vm := n.vmOf(p)
		if pod == nil || pod.DeletionTimestamp != nil {
			if !n.deleted[uid] {
				n.violate("%s was evicted; its devices are %v", p.pod.Name, p.devices)
			}
			if vm != nil && p.hangs {
				vm.pod = ""
			} else if vm != nil {
				n.kill(vm)
			}
			if !p.ending && p.cancel != nil {
				p.cancel()
			}
			p.ending = true
			continue
		}
		switch {
		case vm == nil && p.wantsVM && p.prepared && n.canStart(p):
			addresses := []string{}
			for _, device := range p.devices {
				addresses = append(addresses, addressOf(device))
			}
			n.startVM(addresses, string(uid))
		case vm != nil && !p.wantsVM:
			n.kill(vm)
		}
	}
}

func (n *chaosNode) startWorker(p *chaosPod) {
	n.workers.Add(1)
	go n.work(n.kubelet, n.workCtx, p)
}

func (n *chaosNode) vmOf(p *chaosPod) *chaosVM {
	for _, vm := range n.vms {
		if vm.pod == string(p.pod.UID) {
			return vm
		}
	}
	return nil
}

// canStart returns whether a VM of the pod can open all its devices.
func (n *chaosNode) canStart(p *chaosPod) bool {
	holders := n.holders()
	for _, device := range p.devices {
		address := addressOf(device)
		if !n.bound[address] || holders[n.groups[address]] != 0 {
			return false
		}
	}
	return true
}

func (n *chaosNode) startVM(addresses []string, pod string) {
	fields := map[string]any{"addresses": addresses}
	if pod != "" {
		fields["pod_uid"] = pod
	}
	vm := &chaosVM{pod: pod}
	var reply struct{ PID int }
	n.sim.order(n.t, "start_vm", fields, &reply)
	vm.pid = reply.PID
	for _, address := range addresses {
		if group := n.groups[address]; !slices.Contains(vm.groups, group) {
			vm.groups = append(vm.groups, group)
		}
	}
	n.hold(vm)
	n.history.note("pid %d of pod %q holds %v", vm.pid, pod, vm.groups)
}

func (n *chaosNode) kill(vm *chaosVM) {
	n.sim.killVM(n.t, vm.pid)
	n.release(vm)
	n.history.note("pid %d has ended", vm.pid)
}

func (n *chaosNode) describe() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	var text strings.Builder
	for _, p := range n.pods {
		fmt.Fprintf(&text, "\n  %s has %v, prepared %v, ending %v, ended %v", p.pod.Name, p.devices, p.prepared, p.ending, p.ended)
	}
	for _, vm := range n.vms {
		fmt.Fprintf(&text, "\n  pid %d of pod %q holds %v", vm.pid, vm.pod, vm.groups)
	}
	return text.String()
}

func (n *chaosNode) killDriver() {
	_ = n.driver.Process.Signal(syscall.SIGKILL)
	<-n.driver.done
}
