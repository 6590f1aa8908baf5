package main

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/dynamic-resource-allocation/cel"
	"k8s.io/dynamic-resource-allocation/structured"
)

// scheduler allocates devices with the scheduler's own allocator, as the plugin `dynamicresources` does: one claim after the
// other, with all devices that are allocated before.
type scheduler struct {
	slices    []*resourceapi.ResourceSlice
	classes   classes
	allocated sets.Set[structured.DeviceID]
	// The tolerations of each claim.
	tolerations []resourceapi.DeviceToleration
}

// classes lists the stored DeviceClasses.
type classes []*resourceapi.DeviceClass

func (all classes) List() ([]*resourceapi.DeviceClass, error) { return all, nil }

func (all classes) Get(name string) (*resourceapi.DeviceClass, error) {
	for _, class := range all {
		if class.Name == name {
			return class, nil
		}
	}
	return nil, fmt.Errorf("no class %s", name)
}

func newScheduler(slices []*resourceapi.ResourceSlice, all []*resourceapi.DeviceClass) *scheduler {
	return &scheduler{slices: slices, classes: all, allocated: sets.New[structured.DeviceID]()}
}

// allocate returns the name of the device that a claim for one device of a class gets, or an empty name if it gets none.
func (s *scheduler) allocate(class string) (string, error) {
	ctx := context.Background()
	state := structured.AllocatedState{
		AllocatedDevices:         s.allocated,
		AllocatedSharedDeviceIDs: sets.New[structured.SharedDeviceID](),
		AggregatedCapacity:       structured.NewConsumedCapacityCollection(),
	}
	allocator, err := structured.NewAllocator(ctx, allocatorFeatures(), state, s.classes, s.slices, cel.NewCache(10, cel.Features{}))
	if err != nil {
		return "", err
	}
	request := resourceapi.DeviceRequest{Name: "device", Exactly: &resourceapi.ExactDeviceRequest{
		DeviceClassName: class,
		AllocationMode:  resourceapi.DeviceAllocationModeExactCount,
		Count:           1,
		Tolerations:     s.tolerations,
	}}
	claim := &resourceapi.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "claim", UID: "claim"},
		Spec:       resourceapi.ResourceClaimSpec{Devices: resourceapi.DeviceClaim{Requests: []resourceapi.DeviceRequest{request}}},
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: *s.slices[0].Spec.NodeName}}
	results, err := allocator.Allocate(ctx, node, []*resourceapi.ResourceClaim{claim})
	if err != nil || len(results) == 0 {
		return "", err
	}
	devices := results[0].Devices.Results
	if len(devices) != 1 {
		return "", fmt.Errorf("a claim for one device got %d", len(devices))
	}
	id := structured.MakeDeviceID(devices[0].Driver, devices[0].Pool, devices[0].Device)
	if s.allocated.Has(id) {
		return "", fmt.Errorf("%s is allocated twice", devices[0].Device)
	}
	s.allocated.Insert(id)
	return devices[0].Device, nil
}

// allocateAll allocates devices of a class until a claim gets none, and returns their names in order.
func (s *scheduler) allocateAll(class string) ([]string, error) {
	var names []string
	for {
		name, err := s.allocate(class)
		if err != nil || name == "" {
			return names, err
		}
		names = append(names, name)
	}
}

// allocateEvery allocates devices of all classes.
func (s *scheduler) allocateEvery() ([]string, error) {
	var names []string
	for _, class := range s.classes {
		more, err := s.allocateAll(class.Name)
		if err != nil {
			return nil, err
		}
		names = append(names, more...)
	}
	return names, nil
}
