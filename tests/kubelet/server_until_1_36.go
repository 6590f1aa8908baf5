//go:build older && !until_1_33

package main

import (
	"google.golang.org/grpc"
	v1 "k8s.io/api/core/v1"
	podresourcesapi "k8s.io/kubelet/pkg/apis/podresources/v1"
	apisgrpc "k8s.io/kubernetes/pkg/kubelet/apis/grpc"
	"k8s.io/kubernetes/pkg/kubelet/apis/podresources"
)

// podResourcesServer returns the server of ListenAndServePodResources in 1.34 to 1.36.
func podResourcesServer(n *node) *grpc.Server {
	server := grpc.NewServer(apisgrpc.WithRateLimiter(n.ctx, "podresources", podresources.DefaultQPS, podresources.DefaultBurstTokens))
	providers := podresources.PodResourcesProviders{
		Pods: podsProvider{n}, Devices: devicesProvider{n}, Cpus: emptyProvider{}, Memory: emptyProvider{}, DynamicResources: emptyProvider{},
	}
	podresourcesapi.RegisterPodResourcesListerServer(server, podresources.NewV1PodResourcesServer(n.ctx, providers))
	return server
}

func (emptyProvider) GetDynamicResources(*v1.Pod, *v1.Container) []*podresourcesapi.DynamicResource {
	return nil
}
