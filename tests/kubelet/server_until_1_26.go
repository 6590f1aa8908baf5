//go:build until_1_26

package main

import (
	"google.golang.org/grpc"
	podresourcesapi "k8s.io/kubelet/pkg/apis/podresources/v1"
	"k8s.io/kubernetes/pkg/kubelet/apis/podresources"
)

// podResourcesServer returns the server of ListenAndServePodResources in 1.26, which has no rate limit.
func podResourcesServer(n *node) *grpc.Server {
	server := grpc.NewServer()
	podresourcesapi.RegisterPodResourcesListerServer(server, podresources.NewV1PodResourcesServer(podsProvider{n}, devicesProvider{n}, emptyProvider{}, emptyProvider{}))
	return server
}
