package kubelet

import (
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// podSync is how often a pod is synced. A worker does for a pod what the kubelet's pod worker does around the DRA manager's calls. The kubelet calls again with the pod's
// next sync, here sooner.
const podSync = 200 * time.Millisecond

// kubeletTimeout is how long the kubelet waits for a call (defaultClientCallTimeout). lateTimeout leaves the driver 100 ms to wait for a held
// group. That is less than --settling: only the refusal itself makes the driver publish the taint.
const (
	kubeletTimeout = 45 * time.Second
	lateTimeout    = 5100 * time.Millisecond
)

// lateUnprepare is more than the API server and the scheduler need to allocate the device of a deleted pod to another.
const lateUnprepare = 2 * time.Second

// chaosPod is a pod that the scheduler has placed on the node.
type chaosPod struct {
	pod     *corev1.Pod
	devices []string
	claims  []*resourceapi.ResourceClaim
	// wantsVM is whether its VM should run.
	wantsVM  bool
	prepared bool
	// known is whether the driver has prepared the claim, also if the kubelet has restarted since.
	known bool
	// ending is whether its VM has ended, or hangs, so that its claim is to be unprepared.
	ending bool
	// isLate is whether the next call for it has little time left.
	isLate bool
	// hangs is whether its VM stays when the pod ends.
	hangs bool
	// unprepareAt is when its claim is unprepared at the earliest.
	unprepareAt time.Time
	// ended is whether its claim is unprepared and the pod is gone.
	ended  bool
	cancel context.CancelFunc
}

// work prepares the pod's claim until that succeeds, and unprepares it when the pod ends. It ends with the kubelet.
func (n *chaosNode) work(kubelet *kubelet, ctx context.Context, p *chaosPod) {
	defer n.workers.Done()
	sync := time.NewTicker(podSync)
	defer sync.Stop()
	for {
		n.mu.Lock()
		ending, prepared, isLate := p.ending, p.prepared, time.Now().Before(p.unprepareAt)
		n.mu.Unlock()
		switch {
		case ctx.Err() != nil:
			return
		case ending && isLate:
		case ending:
			if n.unprepare(kubelet, ctx, p) {
				return
			}
		case !prepared:
			n.prepare(kubelet, ctx, p)
		}
		select {
		case <-ctx.Done():
			return
		case <-sync.C:
		}
	}
}

func (n *chaosNode) prepare(kubelet *kubelet, ctx context.Context, p *chaosPod) {
	// A pod that ends cancels the call, as the kubelet's pod worker does.
	n.mu.Lock()
	limit := kubeletTimeout
	if p.isLate {
		limit, p.isLate = lateTimeout, false
	}
	call, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	p.cancel = cancel
	// The device of a claim that the driver has prepared has no taint: the scheduler cannot allocate it before the claim is unprepared.
	isNew := !p.known
	before := n.observe()
	n.mu.Unlock()
	err := kubelet.PrepareResources(call, p.pod)
	n.history.note("prepare %s with %v: %v", p.pod.Name, p.devices, err)
	n.mu.Lock()
	// A process that held a device before the call and holds it after has held it during the call.
	held, disturbed, isGivenTwice := n.stillHeld(p, before), n.isDisturbed(before), n.isGivenTwice(p)
	if err == nil && ctx.Err() == nil {
		p.prepared, p.known = true, true
		n.forgetChanges(p)
		for _, other := range n.pods {
			if other != p && other.prepared && !other.ended && !other.ending && n.shareGroup(other, p) {
				n.violate("%s and %s are prepared for one group", p.pod.Name, other.pod.Name)
			}
		}
	}
	n.mu.Unlock()
	switch {
	case err == nil && ctx.Err() == nil:
		n.count(func(c *chaosCounts) { c.prepared++ })
		if len(held) > 0 {
			n.violate("%s is prepared with %v, which is held", p.pod.Name, held)
		}
		if recorded := n.recorded(p); recorded != nil && !disturbed {
			n.violate("%s is prepared, and the record is wrong: %v", p.pod.Name, recorded)
		}
	case err != nil && isNew && strings.Contains(err.Error(), "held by") && len(held) > 0 && !disturbed:
		n.checkBarrier(p, "refused", before)
	case err != nil && limit == kubeletTimeout && strings.Contains(err.Error(), "has it or a device of its group") && !disturbed && !isGivenTwice:
		// The kubelet has the claim of a deleted pod unprepared within the time of one call.
		n.violate("%s is refused, although another claim is ending: %v", p.pod.Name, err)
	}
}

// unprepare returns whether the pod has ended.
func (n *chaosNode) unprepare(kubelet *kubelet, ctx context.Context, p *chaosPod) bool {
	n.mu.Lock()
	before := n.observe()
	n.mu.Unlock()
	err := kubelet.UnprepareResources(ctx, p.pod)
	n.history.note("unprepare %s with %v: %v", p.pod.Name, p.devices, err)
	if err != nil {
		return false
	}
	n.mu.Lock()
	held, disturbed := n.stillHeld(p, before), n.isDisturbed(before)
	wasPrepared := p.known
	n.mu.Unlock()
	if wasPrepared && len(held) > 0 && !disturbed {
		n.checkBarrier(p, "unprepared", before)
	}
	now := int64(0)
	uid := p.pod.UID
	options := metav1.DeleteOptions{GracePeriodSeconds: &now, Preconditions: &metav1.Preconditions{UID: &uid}}
	err = n.client.CoreV1().Pods("default").Delete(ctx, p.pod.Name, options)
	n.mu.Lock()
	defer n.mu.Unlock()
	p.prepared, p.known = false, false
	n.forgetChanges(p)
	// A conflict does not show that the pod is gone: a request that was delayed may have changed it at the same time.
	p.ended = err == nil || apierrors.IsNotFound(err)
	return p.ended
}

// checkBarrier checks that the API server has stored for each device of a pod that has been held since before the call that the scheduler
// must not allocate it.
func (n *chaosNode) checkBarrier(p *chaosPod, what string, before observed) {
	list, err := n.admin.ResourceV1().ResourceSlices().List(context.Background(), metav1.ListOptions{FieldSelector: "spec.nodeName=" + n.name})
	if err != nil {
		return
	}
	var slices []*resourceapi.ResourceSlice
	for i := range list.Items {
		slices = append(slices, &list.Items[i])
	}
	offered := untainted(slices)
	// The list takes time: a device that was freed meanwhile may be offered again.
	n.mu.Lock()
	held, disturbed, bound := n.stillHeld(p, before), n.isDisturbed(before), maps.Clone(n.bound)
	n.mu.Unlock()
	for _, device := range held {
		switch {
		case !offered[device] || !bound[addressOf(device)]:
			n.count(func(c *chaosCounts) { c.barriers++ })
		case disturbed || what == "refused" && n.logHas("the API server has not stored in time"):
			n.count(func(c *chaosCounts) { c.excused++ })
		default:
			n.violate("%s is %s while %s is held, and the API server offers the device", p.pod.Name, what, device)
		}
	}
}

// recorded returns an error if the driver's record lacks the pod's claim, or has two claims for one group.
func (n *chaosNode) recorded(p *chaosPod) error {
	content, err := os.ReadFile(filepath.Join(n.dirs.plugins, "claims.json"))
	if err != nil {
		return err
	}
	var record struct {
		Claims map[string]struct {
			Name    string
			Devices []struct{ Group int }
		}
	}
	if err := json.Unmarshal(content, &record); err != nil {
		return err
	}
	for _, claim := range p.claims {
		if _, known := record.Claims[string(claim.UID)]; !known {
			return fmt.Errorf("claims.json lacks %s", claim.UID)
		}
	}
	of := map[int]string{}
	for uid, claim := range record.Claims {
		for _, device := range claim.Devices {
			if other := of[device.Group]; other != "" && other != uid {
				return fmt.Errorf("claims.json has group %d for %s and for %s", device.Group, record.Claims[other].Name, claim.Name)
			}
			of[device.Group] = uid
		}
	}
	return nil
}

// holders returns the process that holds each held group.
func (n *chaosNode) holders() map[int]int {
	holders := map[int]int{}
	for _, vm := range n.vms {
		for _, group := range vm.groups {
			holders[group] = vm.pid
		}
	}
	return holders
}

// observed is the state of a node before a call.
type observed struct {
	// holders has the process that holds each held group.
	holders map[int]int
	// pods has the pod of each process. A VM that hangs has none any more when its pod is deleted, which may be during the call.
	pods         map[int]string
	disturbances int
}

// observe returns the state of now. n.mu must be held.
func (n *chaosNode) observe() observed {
	pods := map[int]string{}
	for pid, vm := range n.vms {
		pods[pid] = vm.pod
	}
	return observed{n.holders(), pods, n.disturbances}
}

// isDisturbed returns whether a barrier of a call cannot be checked. n.mu must be held.
func (n *chaosNode) isDisturbed(before observed) bool {
	return n.disturbances != before.disturbances || n.interrupted || n.edited
}

// stillHeld returns the pod's devices that another process than the pod's VM held before a call and holds now. n.mu must be held.
func (n *chaosNode) stillHeld(p *chaosPod, before observed) []string {
	var held []string
	after := n.holders()
	for _, device := range p.devices {
		group := n.groups[addressOf(device)]
		pid, wasHeld := before.holders[group]
		if wasHeld && after[group] == pid && before.pods[pid] != string(p.pod.UID) {
			held = append(held, device)
		}
	}
	return held
}

func (n *chaosNode) shareGroup(a, b *chaosPod) bool {
	return slices.ContainsFunc(a.devices, func(device string) bool { return n.has(b, n.groups[addressOf(device)]) })
}
