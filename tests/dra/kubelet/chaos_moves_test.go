package kubelet

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// maxPods is the limit for the pods of a node. More than it has devices, so that some wait.
const maxPods = 9

// chaosMove is an event on a node. It returns false if nothing could happen.
type chaosMove struct {
	name   string
	weight int
	play   func(*chaosNode) bool
}

// moves are the events that can happen at any time, also while the driver, the kubelet or the way to the API server is away.
var moves = []chaosMove{
	{"create a pod with one device", 12, func(n *chaosNode) bool { return n.createPod("one") }},
	{"create a pod with two devices", 4, func(n *chaosNode) bool { return n.createPod("two") }},
	{"create a pod whose device is taken first", 5, (*chaosNode).createLatePod},
	{"delete a pod", 10, func(n *chaosNode) bool { return n.deletePod(false, false, false) }},
	{"delete a pod whose VM hangs", 5, func(n *chaosNode) bool { return n.deletePod(true, false, false) }},
	{"delete a pod by force", 4, func(n *chaosNode) bool { return n.deletePod(false, true, false) }},
	{"delete a pod by force, and its VM hangs", 2, func(n *chaosNode) bool { return n.deletePod(true, true, false) }},
	{"replace a pod, and its claim is unprepared late", 3, (*chaosNode).replacePod},
	{"end a VM", 3, func(n *chaosNode) bool { return n.wantVM(false) }},
	{"start a VM", 3, func(n *chaosNode) bool { return n.wantVM(true) }},
	{"start a foreign VM", 9, (*chaosNode).startForeign},
	{"end a foreign VM", 12, (*chaosNode).endForeign},
	{"unbind a device", 3, (*chaosNode).unbind},
	{"bind a device", 4, (*chaosNode).bind},
}

// restarts are the events during which others of moves happen.
var restarts = []chaosMove{
	{"restart the driver", 4, (*chaosNode).restartDriver},
	{"restart the kubelet", 3, (*chaosNode).restartKubelet},
	{"the API server does not answer", 2, func(n *chaosNode) bool { return n.interrupt(false) }},
	{"the API server is away", 2, func(n *chaosNode) bool { return n.interrupt(true) }},
	{"delete the slices", 1, (*chaosNode).deleteSlices},
	{"change the slices", 1, (*chaosNode).changeSlices},
}

func pick(n *chaosNode, lists ...[]chaosMove) chaosMove {
	all, sum := slices.Concat(lists...), 0
	for _, move := range all {
		sum += move.weight
	}
	at := n.random.IntN(sum)
	for _, move := range all {
		if at -= move.weight; at < 0 {
			return move
		}
	}
	return all[0]
}

// one plays a move.
func (n *chaosNode) one(lists ...[]chaosMove) {
	move := pick(n, lists...)
	if *chaosTrace {
		fmt.Printf("%s: %s\n", n.name, move.name)
	}
	n.history.note("%s", move.name)
	if move.play(n) {
		n.count(func(c *chaosCounts) { c.moves++ })
	} else {
		n.history.note("%s: nothing to do", move.name)
	}
}

// meanwhile plays a few moves, or none.
func (n *chaosNode) meanwhile(limit int) {
	for range n.random.IntN(limit + 1) {
		n.one(moves)
	}
}

// play plays steps and returns the violation. A step is mostly one move, else several at the same time.
func (n *chaosNode) play(steps int) string {
	if !n.settle() {
		return n.report("the beginning")
	}
	for step := range steps {
		// Nothing may change by itself, but for a pod that the scheduler began to place before it saw the latest taint, and for a write
		// that comes late.
		if v, err := n.requested(); err == nil {
			wrong := n.wrong(v)
			switch {
			case wrong == "" || placements(v) != n.placements:
			case n.isLate(v):
				n.history.note("a write came late: %s", wrong)
				n.count(func(c *chaosCounts) { c.late++ })
				if !n.settle() {
					return n.report(fmt.Sprintf("step %d", step))
				}
			default:
				n.violate("without an event: %s", wrong)
				return n.report(fmt.Sprintf("step %d", step))
			}
		}
		n.beginStep()
		n.one(moves, restarts)
		if n.random.IntN(5) == 0 {
			n.meanwhile(2)
		}
		if !n.settle() {
			return n.report(fmt.Sprintf("step %d", step))
		}
		n.count(func(c *chaosCounts) { c.steps++ })
	}
	return ""
}

// report returns the violation. Empty if another node has found one.
func (n *chaosNode) report(when string) string {
	if violation := n.violation(); violation != "" {
		return when + ": " + violation + n.described()
	}
	return ""
}

func (n *chaosNode) createPod(template string) bool {
	v, err := n.cached(n.name)
	if err != nil || len(v.pods) >= maxPods {
		return false
	}
	n.created++
	n.count(func(c *chaosCounts) { c.pods++ })
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("%s-pod-%d", n.name, n.created), Labels: map[string]string{"node": n.name}},
		Spec: corev1.PodSpec{
			NodeSelector:   map[string]string{corev1.LabelHostname: n.name},
			ResourceClaims: []corev1.PodResourceClaim{{Name: "gpus", ResourceClaimTemplateName: &template}},
			Containers: []corev1.Container{{Name: "compute", Image: "vm",
				Resources: corev1.ResourceRequirements{Claims: []corev1.ResourceClaim{{Name: "gpus"}}}}}}}
	return n.ask(pod.Name+" is created", func() error {
		_, err := n.admin.CoreV1().Pods("default").Create(context.Background(), pod, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			return nil
		}
		return err
	})
}

// ask sends a request until it has an answer: one without may be carried out. A busy API server needs more than ten seconds. Returns whether
// the answer was no refusal.
func (n *chaosNode) ask(what string, request func() error) bool {
	isDone := false
	eventually(n.t, what, func() error {
		err := request()
		isDone = err == nil
		if apierrors.IsNotFound(err) || apierrors.IsConflict(err) {
			return nil
		}
		return err
	})
	return isDone
}

// createLatePod creates a pod. After the scheduler has placed it, a process takes its device before the driver prepares the claim.
func (n *chaosNode) createLatePod() bool {
	n.mu.Lock()
	n.takesNext = true
	n.mu.Unlock()
	return n.createPod("one")
}

// replacePod deletes a pod by force and creates another. The API server allocates the device to the other while the kubelet still ends the
// containers of the first. The first call for the other's claim waits for that.
func (n *chaosNode) replacePod() bool {
	return n.deletePod(false, true, true) && n.createPod("one")
}

func (n *chaosNode) deletePod(hangs, force, late bool) bool {
	v, err := n.cached(n.name)
	if err != nil || len(v.pods) == 0 {
		return false
	}
	slices.SortFunc(v.pods, func(a, b *corev1.Pod) int { return a.CreationTimestamp.Compare(b.CreationTimestamp.Time) })
	pod := v.pods[n.random.IntN(len(v.pods))]
	n.mu.Lock()
	n.deleted[pod.UID] = true
	if p := n.pods[pod.UID]; p != nil {
		p.hangs = hangs
		if late {
			p.unprepareAt = time.Now().Add(lateUnprepare)
		}
	}
	n.mu.Unlock()
	options := metav1.DeleteOptions{}
	if force {
		now := int64(0)
		options.GracePeriodSeconds = &now
	}
	return n.ask(pod.Name+" is deleted", func() error {
		return n.admin.CoreV1().Pods("default").Delete(context.Background(), pod.Name, options)
	})
}

func (n *chaosNode) wantVM(wants bool) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	var candidates []types.UID
	for uid, p := range n.pods {
		if p.wantsVM != wants && p.prepared {
			candidates = append(candidates, uid)
		}
	}
	if len(candidates) == 0 {
		return false
	}
	slices.Sort(candidates)
	n.pods[candidates[n.random.IntN(len(candidates))]].wantsVM = wants
	return true
}

func (n *chaosNode) startForeign() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	holders := n.holders()
	var candidates []string
	for address := range n.bound {
		if holders[n.groups[address]] == 0 {
			candidates = append(candidates, address)
		}
	}
	if len(candidates) == 0 {
		return false
	}
	slices.Sort(candidates)
	n.startVM([]string{candidates[n.random.IntN(len(candidates))]}, "")
	return true
}

func (n *chaosNode) endForeign() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	var candidates []int
	for pid, vm := range n.vms {
		if vm.pod == "" {
			candidates = append(candidates, pid)
		}
	}
	if len(candidates) == 0 {
		return false
	}
	slices.Sort(candidates)
	n.kill(n.vms[candidates[n.random.IntN(len(candidates))]])
	return true
}

func (n *chaosNode) unbind() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.bound) < 6 {
		return false
	}
	addresses := slices.Sorted(maps.Keys(n.bound))
	address := addresses[n.random.IntN(len(addresses))]
	n.sim.order(n.t, "unbind", map[string]any{"address": address}, &struct{}{})
	n.setBound(address, false)
	return true
}

func (n *chaosNode) bind() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	holders := n.holders()
	var candidates []string
	for address, group := range n.groups {
		// The kernel's unbind waits for a holder.
		if !n.bound[address] && holders[group] == 0 {
			candidates = append(candidates, address)
		}
	}
	if len(candidates) == 0 {
		return false
	}
	slices.Sort(candidates)
	address := candidates[n.random.IntN(len(candidates))]
	n.sim.order(n.t, "bind", map[string]any{"address": address, "driver": "vfio-pci"}, &struct{}{})
	n.setBound(address, true)
	return true
}

func (n *chaosNode) disturb(interrupted bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.disturbances++
	n.interrupted = interrupted
}

func (n *chaosNode) restartDriver() bool {
	n.disturb(true)
	n.killDriver()
	n.meanwhile(2)
	n.startDriver()
	n.disturb(false)
	return true
}

func (n *chaosNode) restartKubelet() bool {
	n.disturb(false)
	n.stopKubelet()
	eventually(n.t, "the slices are listed", func() error {
		v, err := n.requested()
		for _, slice := range v.slices {
			n.wiped[slice.UID] = true
		}
		return err
	})
	n.meanwhile(2)
	n.startKubelet()
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.pods {
		if !p.ended {
			n.startWorker(p)
		}
	}
	return true
}

func (n *chaosNode) interrupt(refuse bool) bool {
	n.disturb(true)
	n.proxy.interrupt(refuse)
	for range 1 + n.random.IntN(3) {
		n.one(moves)
		time.Sleep(time.Duration(n.random.IntN(400)) * time.Millisecond)
		if v, err := n.cached(n.name); err == nil {
			n.tick(v)
		}
	}
	n.proxy.resume()
	n.disturb(false)
	return true
}

func (n *chaosNode) deleteSlices() bool {
	options := metav1.ListOptions{FieldSelector: "spec.nodeName=" + n.name}
	return n.ask("the slices are deleted", func() error {
		return n.admin.ResourceV1().ResourceSlices().DeleteCollection(context.Background(), metav1.DeleteOptions{}, options)
	})
}

// changeSlices removes devices and taints from a slice, as a person may do.
func (n *chaosNode) changeSlices() bool {
	v, err := n.requested()
	if err != nil || len(v.slices) == 0 {
		return false
	}
	slice := v.slices[n.random.IntN(len(v.slices))]
	if len(slice.Spec.Devices) == 0 {
		return false
	}
	slice.Spec.Devices = slice.Spec.Devices[1:]
	for i := range slice.Spec.Devices {
		slice.Spec.Devices[i].Taints = nil
	}
	n.mu.Lock()
	n.disturbances++
	n.edited = true
	n.mu.Unlock()
	return n.ask("a slice is changed", func() error {
		return second(n.admin.ResourceV1().ResourceSlices().Update(context.Background(), slice, metav1.UpdateOptions{}))
	})
}
