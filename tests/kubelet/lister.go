package main

import (
	"net"
	"os"

	"google.golang.org/grpc"
	v1 "k8s.io/api/core/v1"
	podresourcesapi "k8s.io/kubelet/pkg/apis/podresources/v1"
	"k8s.io/kubernetes/pkg/kubelet/cm/devicemanager"
)

const (
	podResourcesDir    = "/var/lib/kubelet/pod-resources"
	podResourcesSocket = podResourcesDir + "/kubelet.sock"
)

// lister serves the pod resources service as ListenAndServePodResources does, with its rate limit.
type lister struct{ server *grpc.Server }

// serve starts the service on podResourcesSocket, which it replaces.
func serve(n *node) (*lister, error) {
	if err := os.MkdirAll(podResourcesDir, 0o750); err != nil {
		return nil, err
	}
	if err := os.Remove(podResourcesSocket); err != nil && !os.IsNotExist(err) {
		return nil, err
	}
	socket, err := net.Listen("unix", podResourcesSocket)
	if err != nil {
		return nil, err
	}
	server := podResourcesServer(n)
	go func() { _ = server.Serve(socket) }()
	return &lister{server}, nil
}

func (l *lister) stop() { l.server.Stop() }

// podsProvider returns the kubelet's active pods.
type podsProvider struct{ *node }

func (p podsProvider) GetActivePods() []*v1.Pod { return p.active() }
func (p podsProvider) GetPods() []*v1.Pod       { return p.active() }
func (p podsProvider) GetPodByName(namespace, name string) (*v1.Pod, bool) {
	for _, pod := range p.active() {
		if pod.Namespace == namespace && pod.Name == name {
			return pod, true
		}
	}
	return nil, false
}

// devicesProvider returns devices as containerManagerImpl returns them from the device manager.
type devicesProvider struct{ *node }

func (d devicesProvider) GetDevices(uid, container string) []*podresourcesapi.ContainerDevices {
	return containerDevices(d.devices.GetDevices(uid, container))
}

// containerDevices converts as containerDevicesFromResourceDeviceInstances does: one entry for each device.
func containerDevices(resources devicemanager.ResourceDeviceInstances) []*podresourcesapi.ContainerDevices {
	var out []*podresourcesapi.ContainerDevices
	for resource, devices := range resources {
		for id, device := range devices {
			entry := &podresourcesapi.ContainerDevices{ResourceName: resource, DeviceIds: []string{id}}
			for _, numa := range device.GetTopology().GetNodes() {
				entry.Topology = &podresourcesapi.TopologyInfo{Nodes: []*podresourcesapi.NUMANode{{ID: numa.GetID()}}}
			}
			out = append(out, entry)
		}
	}
	return out
}

// emptyProvider provides no CPUs, memory or dynamic resources.
type emptyProvider struct{}

func (emptyProvider) GetAllocatableCPUs() []int64 { return nil }
