//go:build older

package main

import (
	"context"

	cadvisorapi "github.com/google/cadvisor/info/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	podresourcesapi "k8s.io/kubelet/pkg/apis/podresources/v1"
	"k8s.io/kubernetes/pkg/kubelet/cm/containermap"
	"k8s.io/kubernetes/pkg/kubelet/cm/devicemanager"
	"k8s.io/kubernetes/pkg/kubelet/cm/topologymanager"
	"k8s.io/kubernetes/pkg/kubelet/config"
	"k8s.io/kubernetes/pkg/kubelet/lifecycle"
)

const version = "v1.34.4"

// Three minor versions older. Its managers take neither loggers nor contexts.

func managers(ctx context.Context, nodes []cadvisorapi.Node) (*devicemanager.ManagerImpl, topologymanager.Manager, error) {
	topology, err := topologymanager.NewManager(nodes, topologymanager.PolicyNone, "container", nil)
	if err != nil {
		return nil, nil, err
	}
	devices, err := devicemanager.NewManagerImpl(nodes, topology)
	if err != nil {
		return nil, nil, err
	}
	topology.AddHintProvider(devices)
	return devices, topology, nil
}

func startManager(ctx context.Context, m *devicemanager.ManagerImpl, active devicemanager.ActivePodsFunc, sources config.SourcesReady, containers containermap.ContainerMap, running sets.Set[string]) error {
	return m.Start(active, sources, containers, running)
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

func runOptions(ctx context.Context, m *devicemanager.ManagerImpl, pod *v1.Pod, c *v1.Container) (*devicemanager.DeviceRunContainerOptions, error) {
	return m.GetDeviceRunContainerOptions(pod, c)
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
func (emptyProvider) GetDynamicResources(*v1.Pod, *v1.Container) []*podresourcesapi.DynamicResource {
	return nil
}
