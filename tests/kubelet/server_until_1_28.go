//go:build until_1_28 && !until_1_26

package main

import (
	"google.golang.org/grpc"
	podresourcesapi "k8s.io/kubelet/pkg/apis/podresources/v1"
	"k8s.io/kubernetes/pkg/kubelet/apis/podresources"
	podresourcesgrpc "k8s.io/kubernetes/pkg/kubelet/apis/podresources/grpc"
)

// podResourcesServer returns the server of ListenAndServePodResources in 1.27 and 1.28.
func podResourcesServer(n *node) *grpc.Server {
	server := grpc.NewServer(podresourcesgrpc.WithRateLimiter(podresourcesgrpc.DefaultQPS, podresourcesgrpc.DefaultBurstTokens))
	podresourcesapi.RegisterPodResourcesListerServer(server, podresources.NewV1PodResourcesServer(providers(n)))
	return server
}
