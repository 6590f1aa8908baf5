//go:build !older

package main

import (
	"context"

	cadvisorapi "github.com/google/cadvisor/info/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
	podresourcesapi "k8s.io/kubelet/pkg/apis/podresources/v1"
	"k8s.io/kubernetes/pkg/kubelet/cm/devicemanager"
	"k8s.io/kubernetes/pkg/kubelet/cm/topologymanager"
	"k8s.io/kubernetes/pkg/kubelet/lifecycle"
)

// version of Kubernetes.
var version = "v1.37.2"

// The newest minor version with a go.mod that this repository's Go accepts. Its managers take loggers and contexts.

func managers(ctx context.Context, nodes []cadvisorapi.Node) (*devicemanager.ManagerImpl, topologymanager.Manager, error) {
	logger := klog.FromContext(ctx)
	topology, err := topologymanager.NewManager(logger, nodes, topologymanager.PolicyNone, "container", nil)
	if err != nil {
		return nil, nil, err
	}
	devices, err := devicemanager.NewManagerImpl(logger, nodes, topology)
	if err != nil {
		return nil, nil, err
	}
	addHintProvider(ctx, topology, devices)
	return devices, topology, nil
}

// admitPod returns why the pod is not admitted; an empty text if it is.
func admitPod(ctx context.Context, topology topologymanager.Manager, pod *v1.Pod) string {
	result := topology.Admit(ctx, &lifecycle.PodAdmitAttributes{Pod: pod, Operation: lifecycle.AddOperation})
	if result.Admit {
		return ""
	}
	return result.Reason + ": " + result.Message
}

func getCapacity(ctx context.Context, m *devicemanager.ManagerImpl) (v1.ResourceList, v1.ResourceList) {
	capacity, allocatable, _ := m.GetCapacity(klog.FromContext(ctx))
	return capacity, allocatable
}

func allocatableDevices(ctx context.Context, m *devicemanager.ManagerImpl) devicemanager.ResourceDeviceInstances {
	return m.GetAllocatableDevices(klog.FromContext(ctx))
}

func (d devicesProvider) UpdateAllocatedDevices(logger klog.Logger) {
	d.devices.UpdateAllocatedDevices(logger)
}

func (d devicesProvider) GetAllocatableDevices(logger klog.Logger) []*podresourcesapi.ContainerDevices {
	return containerDevices(d.devices.GetAllocatableDevices(logger))
}

func (emptyProvider) GetCPUs(*v1.Pod, *v1.Container) []int64 { return nil }
func (emptyProvider) GetPodCPUs(string) []int64              { return nil }
func (emptyProvider) GetMemory(klog.Logger, *v1.Pod, *v1.Container) []*podresourcesapi.ContainerMemory {
	return nil
}
func (emptyProvider) GetPodMemory(klog.Logger, string) []*podresourcesapi.ContainerMemory { return nil }
func (emptyProvider) GetAllocatableMemory(klog.Logger) []*podresourcesapi.ContainerMemory { return nil }
func (emptyProvider) GetDynamicResources(klog.Logger, *v1.Pod, *v1.Container) []*podresourcesapi.DynamicResource {
	return nil
}
