package kubelet

import (
	"testing"

	resourceapi "k8s.io/api/resource/v1"
)

// TestLateWrites checks which differences the chaos test takes for a write that came late.
func TestLateWrites(t *testing.T) {
	const address, group = "0000:1b:00.0", 51
	for _, test := range []struct {
		name    string
		changes []change
		// isFree is whether the device is bound and no VM holds it, and isOffered whether the slice has it without a taint.
		isFree, isOffered, isLate bool
	}{
		{"freed and held", []change{isFree, isTaken}, false, true, true},
		{"held and freed", []change{isTaken, isFree}, true, false, true},
		{"held and still offered", []change{isTaken}, false, true, false},
		{"freed and still tainted", []change{isFree}, true, false, false},
		{"freed and held, but as it is now", []change{isFree, isTaken}, false, false, false},
		{"freed, held and freed, and offered", []change{isFree, isTaken, isFree}, true, true, false},
		{"no change", nil, false, true, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			n := &chaosNode{groups: map[string]int{address: group}, bound: map[string]bool{address: true}, vms: map[int]*chaosVM{}}
			n.changes = [2]map[int][]change{{}, {}}
			for _, to := range test.changes {
				n.changed(to, group)
			}
			if !test.isFree {
				n.vms[1] = &chaosVM{pid: 1, groups: []int{group}}
			}
			device := resourceapi.Device{Name: deviceOf(address)}
			if !test.isOffered {
				device.Taints = []resourceapi.DeviceTaint{{Key: "held", Effect: resourceapi.DeviceTaintEffectNoSchedule}}
			}
			v := view{slices: []*resourceapi.ResourceSlice{{Spec: resourceapi.ResourceSliceSpec{Devices: []resourceapi.Device{device}}}}}
			if n.isLate(v) != test.isLate {
				t.Errorf("late: %v, want %v", !test.isLate, test.isLate)
			}
		})
	}
}
