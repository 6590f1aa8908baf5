package kubelet

import (
	"testing"

	resourceapi "k8s.io/api/resource/v1"
)

// TestLateWrites checks which differences the chaos test takes for a write that came late.
func TestLateWrites(t *testing.T) {
	const alone, peer, otherPeer = "0000:1b:00.0", "0000:e1:00.0", "0000:e1:00.1"
	devices := map[string]int{alone: 51, peer: 70, otherPeer: 70}
	hold := func(group int) func(*chaosNode) {
		return func(n *chaosNode) { n.hold(&chaosVM{pid: group, groups: []int{group}}) }
	}
	release := func(group int) func(*chaosNode) { return func(n *chaosNode) { n.release(n.vms[group]) } }
	unbind := func(address string) func(*chaosNode) { return func(n *chaosNode) { n.setBound(address, false) } }
	bind := func(address string) func(*chaosNode) { return func(n *chaosNode) { n.setBound(address, true) } }
	prepare := func(n *chaosNode) { n.forgetChanges(&chaosPod{devices: []string{deviceOf(peer)}}) }
	type events []func(*chaosNode)
	for _, test := range []struct {
		name string
		// before are the events of earlier steps.
		before, events events
		// device is what the slice shows wrongly.
		device string
		isLate bool
	}{
		{"held, and offered", nil, events{hold(51)}, alone, false},
		{"freed, and withheld", events{hold(51)}, events{release(51)}, alone, false},
		{"freed and held, and offered", events{hold(51)}, events{release(51), hold(51)}, alone, true},
		{"held and freed, and withheld", nil, events{hold(51), release(51)}, alone, true},
		{"bound and held, and offered", events{unbind(alone)}, events{bind(alone), hold(51)}, alone, true},
		{"unbound and bound, and withheld", nil, events{unbind(alone), bind(alone)}, alone, true},
		{"held and unbound, and offered", nil, events{hold(51), unbind(alone)}, alone, false},
		{"freed and bound, and withheld", events{unbind(alone), hold(51)}, events{release(51), bind(alone)}, alone, false},
		{"another one unbound and bound", nil, events{unbind(peer), bind(peer)}, otherPeer, false},
		{"held and freed while another one is unbound", nil, events{hold(70), release(70), unbind(peer)}, otherPeer, true},
		{"held and freed in the previous step", nil, events{hold(51), release(51), (*chaosNode).beginStep}, alone, true},
		{"held and freed before the previous step", nil, events{hold(51), release(51), (*chaosNode).beginStep, (*chaosNode).beginStep}, alone, false},
		{"held and freed in two steps", nil, events{hold(51), (*chaosNode).beginStep, release(51)}, alone, false},
		{"held and freed before a claim was prepared", nil, events{hold(70), release(70), prepare}, otherPeer, false},
		{"nothing", nil, nil, alone, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := &chaosNode{}
			n.setDevices(devices)
			for _, event := range test.before {
				event(n)
			}
			n.beginStep()
			n.beginStep()
			for _, event := range test.events {
				event(n)
			}
			if n.isLate(shown(n, "")) {
				t.Error("a state that is right is late")
			}
			if n.isLate(shown(n, test.device)) != test.isLate {
				t.Errorf("late: %v, want %v", !test.isLate, test.isLate)
			}
		})
	}
}

// shown returns slices that show all devices as they are, but for one.
func shown(n *chaosNode, wrong string) view {
	slice := &resourceapi.ResourceSlice{}
	for address := range n.groups {
		device := resourceapi.Device{Name: deviceOf(address)}
		if n.open[address] == (address == wrong) {
			device.Taints = []resourceapi.DeviceTaint{{Key: "held", Effect: resourceapi.DeviceTaintEffectNoSchedule}}
		}
		slice.Spec.Devices = append(slice.Spec.Devices, device)
	}
	return view{slices: []*resourceapi.ResourceSlice{slice}}
}
