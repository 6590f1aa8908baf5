package main

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"
)

const (
	podResourcesSocket = "/var/lib/kubelet/pod-resources/kubelet.sock"
	// The kubelet answers in milliseconds; an emulated node under load takes seconds.
	podResourcesTimeout = 20 * time.Second
	// As the kubelet's own clients allow (pkg/kubelet/apis/podresources/client.go).
	podResourcesMaxSize = 16 << 20
)

// podDevices are the devices of one resource of one container. For devices of claims the resource is the driver's name.
type podDevices struct {
	Namespace string   `json:"namespace"`
	Name      string   `json:"name"`
	Container string   `json:"container"`
	Resource  string   `json:"resource"`
	IDs       []string `json:"ids"`
}

// listPods returns the devices of all pods that the kubelet lists. Containers without devices are left out.
func listPods(socket string) ([]podDevices, error) {
	ctx, cancel := context.WithTimeout(context.Background(), podResourcesTimeout)
	defer cancel()
	connection, err := connect(socket)
	if err != nil {
		return nil, err
	}
	defer connection.Close()
	answer, err := podresources.NewPodResourcesListerClient(connection).List(ctx, &podresources.ListPodResourcesRequest{})
	if err != nil {
		return nil, fmt.Errorf("cannot list the pods of %s: %w", socket, err)
	}
	listed := []podDevices{}
	for _, pod := range answer.GetPodResources() {
		for _, container := range pod.GetContainers() {
			for _, devices := range container.GetDevices() {
				listed = append(listed, podDevices{
					pod.GetNamespace(), pod.GetName(), container.GetName(), devices.GetResourceName(), devices.GetDeviceIds(),
				})
			}
			for _, claim := range container.GetDynamicResources() {
				for _, device := range claim.GetClaimResources() {
					listed = append(listed, podDevices{
						pod.GetNamespace(), pod.GetName(), container.GetName(), device.GetDriverName(), []string{device.GetDeviceName()},
					})
				}
			}
		}
	}
	return listed, nil
}

// connect returns a connection to the kubelet, which is made at the first call.
func connect(socket string) (*grpc.ClientConn, error) {
	connection, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(podResourcesMaxSize)))
	if err != nil {
		return nil, fmt.Errorf("cannot connect to %s: %w", socket, err)
	}
	return connection, nil
}
