//go:build until_1_28 && !until_1_26

package main

import (
	"google.golang.org/grpc"
	v1 "k8s.io/api/core/v1"
	podresourcesapi "k8s.io/kubelet/pkg/apis/podresources/v1"
	"k8s.io/kubernetes/pkg/kubelet/apis/podresources"
	podresourcesgrpc "k8s.io/kubernetes/pkg/kubelet/apis/podresources/grpc"
)

// podResourcesServer returns the server of ListenAndServePodResources in 1.27 and 1.28.
func podResourcesServer(n *node) *grpc.Server {
	server := grpc.NewServer(podresourcesgrpc.WithRateLimiter(podresourcesgrpc.DefaultQPS, podresourcesgrpc.DefaultBurstTokens))
	providers := podresources.PodResourcesProviders{
		Pods: podsProvider{n}, Devices: devicesProvider{n}, Cpus: emptyProvider{}, Memory: emptyProvider{}, DynamicResources: emptyProvider{},
	}
	podresourcesapi.RegisterPodResourcesListerServer(server, podresources.NewV1PodResourcesServer(providers))
	return server
}

func (emptyProvider) GetDynamicResources(*v1.Pod, *v1.Container) []*podresourcesapi.DynamicResource {
	return nil
}
