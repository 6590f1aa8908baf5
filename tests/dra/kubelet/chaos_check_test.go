package kubelet

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// wrong returns how the state differs from the one that the node must come to. Empty if it does not.
func (n *chaosNode) wrong(v view) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, slice := range v.slices {
		if n.wiped[slice.UID] {
			return "the kubelet has not deleted the slices yet"
		}
	}
	for _, claim := range v.claims {
		of := slices.IndexFunc(v.pods, func(pod *corev1.Pod) bool { return strings.HasPrefix(claim.Name, pod.Name+"-") })
		switch {
		case of < 0:
			return claim.Name + " has no pod"
		case claim.Status.Allocation != nil && v.pods[of].Spec.NodeName == "":
			return v.pods[of].Name + " is being placed"
		}
	}
	offered, free := n.offeredAndFree(v)
	if !maps.Equal(offered, free) {
		return fmt.Sprintf("the scheduler can allocate %v, and a VM can open %v", short(offered), short(free))
	}
	groups := map[int]bool{}
	for device := range free {
		groups[n.groups[addressOf(device)]] = true
	}
	for _, pod := range v.pods {
		p := n.pods[pod.UID]
		switch {
		case pod.DeletionTimestamp != nil:
			return pod.Name + " is being deleted"
		case pod.Spec.NodeName == "" && len(groups) >= devicesOf(pod):
			return fmt.Sprintf("%s is not placed although devices are free: %v", pod.Name, pod.Status.Conditions)
		case pod.Spec.NodeName == "":
		case p == nil:
			return pod.Name + " is not known to the kubelet yet"
		case !p.prepared && n.canStart(p) && !n.isGivenTwice(p):
			return pod.Name + " is not prepared although its devices are free"
		case p.prepared && p.wantsVM && n.vmOf(p) == nil && n.canStart(p):
			return pod.Name + " is about to start"
		}
	}
	for uid, p := range n.pods {
		if !slices.ContainsFunc(v.pods, func(pod *corev1.Pod) bool { return pod.UID == uid }) && !p.ended {
			return p.pod.Name + " is not unprepared yet"
		}
	}
	return ""
}

// offeredAndFree returns the devices that the scheduler can allocate, and those that no claim has and a VM can open.
func (n *chaosNode) offeredAndFree(v view) (offered, free map[string]bool) {
	inGroup := map[int]bool{}
	for _, claim := range v.claims {
		for _, device := range allocatedDevices(claim) {
			inGroup[n.groups[addressOf(device)]] = true
		}
	}
	holders := n.holders()
	offered, free = map[string]bool{}, map[string]bool{}
	for device := range untainted(v.slices) {
		// The counter of a group lets the scheduler allocate one of its devices.
		if !inGroup[n.groups[addressOf(device)]] {
			offered[device] = true
		}
	}
	for address := range n.bound {
		if group := n.groups[address]; holders[group] == 0 && !inGroup[group] {
			free[deviceOf(address)] = true
		}
	}
	return offered, free
}

// isLate returns whether the state is wrong only for devices that were freed (or bound) and held within a step, or held (or unbound) and freed,
// and only as it was right before the second change. After that change the state was right by chance, and the driver's write after the first
// one came later.
func (n *chaosNode) isLate(v view) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	offered, free := n.offeredAndFree(v)
	differ := false
	for address := range n.groups {
		device := deviceOf(address)
		if offered[device] == free[device] {
			continue
		}
		differ = true
		if !n.hasChangedTwice(address, !offered[device]) {
			return false
		}
	}
	return differ
}

// devicesOf returns how many devices a pod requests: its template says so.
func devicesOf(pod *corev1.Pod) int {
	if *pod.Spec.ResourceClaims[0].ResourceClaimTemplateName == "two" {
		return 2
	}
	return 1
}

func short(devices map[string]bool) string {
	return strings.Join(slices.Sorted(maps.Keys(devices)), " ")
}

// settleLimit is far more than anything takes on a loaded host. A broken driver never gets there.
const settleLimit = 120 * time.Second

// settle waits until the state is right, as the caches show it and then as a request shows it. Returns false after a violation.
func (n *chaosNode) settle() bool {
	deadline := time.Now().Add(settleLimit)
	for {
		v, err := n.cached(n.name)
		wrong := fmt.Sprint(err)
		if err == nil {
			n.tick(v)
			wrong = n.wrong(v)
		}
		if wrong == "" {
			if v, err = n.requested(); err == nil {
				wrong = n.wrong(v)
				n.checkEffects(v)
			}
			if err == nil && wrong == "" {
				n.count(func(c *chaosCounts) { c.checks++ })
				n.placements = placements(v)
				n.mu.Lock()
				n.edited = false
				n.mu.Unlock()
				n.history.note("the state is right")
				return true
			}
		}
		if time.Now().After(deadline) {
			n.violate("not within %v: %s", settleLimit, wrong)
		}
		if n.violation() != "" || n.isStopped() {
			return false
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// placements returns how many pods are placed and how many claims are allocated.
func placements(v view) int {
	count := 0
	for _, pod := range v.pods {
		if pod.Spec.NodeName != "" {
			count++
		}
	}
	for _, claim := range v.claims {
		if claim.Status.Allocation != nil {
			count++
		}
	}
	return count
}

// checkEffects checks that no taint evicts pods: a claim keeps its device until its pod ends, and only an administrator ends a pod.
func (n *chaosNode) checkEffects(v view) {
	for _, slice := range v.slices {
		for _, device := range slice.Spec.Devices {
			for _, taint := range device.Taints {
				n.count(func(c *chaosCounts) { c.taints++ })
				if taint.Effect != resourceapi.DeviceTaintEffectNoSchedule {
					n.violate("%s has the taint %s with the effect %s", device.Name, taint.Key, taint.Effect)
				}
			}
		}
	}
}

// requested returns what the API server stores now.
func (n *chaosNode) requested() (view, error) {
	ctx := context.Background()
	var v view
	pods, err := n.admin.CoreV1().Pods("default").List(ctx, metav1.ListOptions{LabelSelector: "node=" + n.name})
	if err != nil {
		return v, err
	}
	claims, err := n.admin.ResourceV1().ResourceClaims("default").List(ctx, metav1.ListOptions{})
	if err != nil {
		return v, err
	}
	list, err := n.admin.ResourceV1().ResourceSlices().List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + n.name})
	if err != nil {
		return v, err
	}
	for i := range pods.Items {
		v.pods = append(v.pods, &pods.Items[i])
	}
	for i := range claims.Items {
		v.claims = append(v.claims, &claims.Items[i])
	}
	for i := range list.Items {
		v.slices = append(v.slices, &list.Items[i])
	}
	return v.of(n.name), nil
}
