//go:build !older

package main

import (
	"context"

	cadvisorapi "github.com/google/cadvisor/info/v1"
	"google.golang.org/grpc"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/klog/v2"
	podresourcesapi "k8s.io/kubelet/pkg/apis/podresources/v1"
	apisgrpc "k8s.io/kubernetes/pkg/kubelet/apis/grpc"
	"k8s.io/kubernetes/pkg/kubelet/apis/podresources"
	"k8s.io/kubernetes/pkg/kubelet/cm/containermap"
	"k8s.io/kubernetes/pkg/kubelet/cm/devicemanager"
	"k8s.io/kubernetes/pkg/kubelet/cm/topologymanager"
	"k8s.io/kubernetes/pkg/kubelet/config"
	"k8s.io/kubernetes/pkg/kubelet/lifecycle"
)

// version of Kubernetes.
var version = "v1.37.2"

type (
	// runningContainers are the ids of the containers that run when the device manager starts.
	runningContainers = sets.Set[string]
	// seenSources are the sources of pods that the kubelet has seen.
	seenSources = sets.Set[string]
)

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
	topology.AddHintProvider(logger, devices)
	return devices, topology, nil
}

func startManager(ctx context.Context, m *devicemanager.ManagerImpl, active devicemanager.ActivePodsFunc, sources config.SourcesReady, containers containermap.ContainerMap, running runningContainers) error {
	return m.Start(klog.FromContext(ctx), active, sources, containers, running)
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

func runOptions(ctx context.Context, m *devicemanager.ManagerImpl, pod *v1.Pod, c *v1.Container) (*devicemanager.DeviceRunContainerOptions, error) {
	return m.GetDeviceRunContainerOptions(ctx, pod, c)
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

// podResourcesServer returns the server of ListenAndServePodResources.
func podResourcesServer(n *node) *grpc.Server {
	server := grpc.NewServer(apisgrpc.WithRateLimiter(n.ctx, "podresources", podresources.DefaultQPS, podresources.DefaultBurstTokens))
	providers := podresources.PodResourcesProviders{
		Pods: podsProvider{n}, Devices: devicesProvider{n}, Cpus: emptyProvider{}, Memory: emptyProvider{}, DynamicResources: emptyProvider{},
	}
	podresourcesapi.RegisterPodResourcesListerServer(server, podresources.NewV1PodResourcesServer(n.ctx, providers))
	return server
}
