package kubelet

import (
	"slices"
	"time"
)

// setDevices makes the devices those of the node, each bound and free.
func (n *chaosNode) setDevices(groups map[string]int) {
	n.groups, n.vms = groups, map[int]*chaosVM{}
	n.bound, n.open, n.unbound = map[string]bool{}, map[string]bool{}, map[string]time.Time{}
	for address := range groups {
		n.bound[address], n.open[address] = true, true
	}
	n.changes = [2]map[string][]bool{{}, {}}
}

// beginStep forgets the changes before the previous step.
func (n *chaosNode) beginStep() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.changes = [2]map[string][]bool{{}, n.changes[0]}
}

// hold notes that a VM has opened its groups. n.mu must be held, as for the following functions.
func (n *chaosNode) hold(vm *chaosVM) {
	n.vms[vm.pid] = vm
	n.noteOpen()
}

// release notes that a VM has ended.
func (n *chaosNode) release(vm *chaosVM) {
	delete(n.vms, vm.pid)
	n.noteOpen()
}

// setBound notes that a device was bound or unbound.
func (n *chaosNode) setBound(address string, bound bool) {
	if bound {
		n.bound[address] = true
	} else {
		delete(n.bound, address)
		n.unbound[address] = time.Now()
	}
	n.noteOpen()
}

// noteOpen notes which devices a VM can open now, and which it cannot open any more.
func (n *chaosNode) noteOpen() {
	holders := n.holders()
	for address, group := range n.groups {
		if open := n.bound[address] && holders[group] == 0; open != n.open[address] {
			n.open[address] = open
			n.changes[0][address] = append(n.changes[0][address], open)
		}
	}
}

// forgetChanges forgets the changes of the groups of a pod whose claim was prepared or unprepared: the driver knew the holder then.
func (n *chaosNode) forgetChanges(p *chaosPod) {
	for _, device := range p.devices {
		for address, group := range n.groups {
			if group == n.groups[addressOf(device)] {
				delete(n.changes[0], address)
				delete(n.changes[1], address)
			}
		}
	}
}

// hasChangedTwice returns whether a device has changed at least twice within a step, and a VM could open it after the last change, or
// could not.
func (n *chaosNode) hasChangedTwice(address string, open bool) bool {
	return slices.ContainsFunc(n.changes[:], func(step map[string][]bool) bool {
		changes := step[address]
		return len(changes) > 1 && changes[len(changes)-1] == open
	})
}

// isGivenTwice returns whether the group of a device of the pod is that of another claim, which the driver has prepared, because a device
// was unbound after it was allocated: it is not in the slices then, and the scheduler allocates another one of its group.
func (n *chaosNode) isGivenTwice(p *chaosPod) bool {
	wasUnbound := func(p *chaosPod, group int) bool {
		return slices.ContainsFunc(p.devices, func(device string) bool {
			address := addressOf(device)
			return n.groups[address] == group && n.unbound[address].After(p.pod.CreationTimestamp.Time)
		})
	}
	for _, other := range n.pods {
		if other == p || other.ended || !other.known {
			continue
		}
		for _, device := range p.devices {
			group := n.groups[addressOf(device)]
			if n.has(other, group) && (wasUnbound(p, group) || wasUnbound(other, group)) {
				return true
			}
		}
	}
	return false
}

// has returns whether a device of a group is allocated to a pod.
func (n *chaosNode) has(p *chaosPod, group int) bool {
	return slices.ContainsFunc(p.devices, func(device string) bool { return n.groups[addressOf(device)] == group })
}
