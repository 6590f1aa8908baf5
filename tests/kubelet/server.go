//go:build !until_1_33

package main

import (
	"google.golang.org/grpc"
	podresourcesapi "k8s.io/kubelet/pkg/apis/podresources/v1"
	apisgrpc "k8s.io/kubernetes/pkg/kubelet/apis/grpc"
	"k8s.io/kubernetes/pkg/kubelet/apis/podresources"
)

// podResourcesServer returns the server of ListenAndServePodResources from 1.34 on.
func podResourcesServer(n *node) *grpc.Server {
	server := grpc.NewServer(apisgrpc.WithRateLimiter(n.ctx, "podresources", podresources.DefaultQPS, podresources.DefaultBurstTokens))
	podresourcesapi.RegisterPodResourcesListerServer(server, podresources.NewV1PodResourcesServer(n.ctx, providers(n)))
	return server
}
