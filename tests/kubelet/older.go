//go:build older

package main

import (
	"context"

	cadvisorapi "github.com/google/cadvisor/info/v1"
	v1 "k8s.io/api/core/v1"
	podresourcesapi "k8s.io/kubelet/pkg/apis/podresources/v1"
	"k8s.io/kubernetes/pkg/kubelet/cm/devicemanager"
	"k8s.io/kubernetes/pkg/kubelet/cm/topologymanager"
	"k8s.io/kubernetes/pkg/kubelet/lifecycle"
)

// version of Kubernetes. The build sets another one for an even older version.
var version = "v1.34.4"

// Kubernetes up to 1.36. Tags select what differs before that: until_1_34 and so on.

func managers(ctx context.Context, nodes []cadvisorapi.Node) (*devicemanager.ManagerImpl, topologymanager.Manager, error) {
	topology, err := topologymanager.NewManager(nodes, topologymanager.PolicyNone, "container", nil)
	if err != nil {
		return nil, nil, err
	}
	devices, err := devicemanager.NewManagerImpl(nodes, topology)
	if err != nil {
		return nil, nil, err
	}
	addHintProvider(ctx, topology, devices)
	return devices, topology, nil
}

// admitPod returns why the pod is not admitted; an empty text if it is.
func admitPod(ctx context.Context, topology topologymanager.Manager, pod *v1.Pod) string {
	result := topology.Admit(&lifecycle.PodAdmitAttributes{Pod: pod})
	if result.Admit {
		return ""
	}
	return result.Reason + ": " + result.Message
}

func getCapacity(ctx context.Context, m *devicemanager.ManagerImpl) (v1.ResourceList, v1.ResourceList) {
	capacity, allocatable, _ := m.GetCapacity()
	return capacity, allocatable
}

func allocatableDevices(ctx context.Context, m *devicemanager.ManagerImpl) devicemanager.ResourceDeviceInstances {
	return m.GetAllocatableDevices()
}

func (d devicesProvider) UpdateAllocatedDevices() {
	d.devices.UpdateAllocatedDevices()
}

func (d devicesProvider) GetAllocatableDevices() []*podresourcesapi.ContainerDevices {
	return containerDevices(d.devices.GetAllocatableDevices())
}

func (emptyProvider) GetCPUs(string, string) []int64 { return nil }
func (emptyProvider) GetMemory(string, string) []*podresourcesapi.ContainerMemory {
	return nil
}
func (emptyProvider) GetAllocatableMemory() []*podresourcesapi.ContainerMemory { return nil }
