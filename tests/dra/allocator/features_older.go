//go:build older

package main

import (
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/dynamic-resource-allocation/structured"
	"k8s.io/kubernetes/pkg/features"
)

// allocatorFeatures returns what the scheduler of this version allows its allocator (PreFilter in
// pkg/scheduler/framework/plugins/dynamicresources). Features whose gates are alpha in each version are off.
func allocatorFeatures() structured.Features {
	enabled := utilfeature.DefaultFeatureGate.Enabled
	return structured.Features{
		AdminAccess:          enabled(features.DRAAdminAccess),
		PrioritizedList:      enabled(features.DRAPrioritizedList),
		PartitionableDevices: enabled(features.DRAPartitionableDevices),
		DeviceTaints:         enabled(features.DRADeviceTaints),
		DeviceBinding:        enabled(features.DRADeviceBindingConditions),
		DeviceStatus:         enabled(features.DRAResourceClaimDeviceStatus),
		ConsumableCapacity:   enabled(features.DRAConsumableCapacity),
	}
}
