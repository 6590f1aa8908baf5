// Prints the answer of the kubelet's pod resources as JSON: an independent view of which container has which device.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	api "k8s.io/kubelet/pkg/apis/podresources/v1"
)

const socket = "unix:///var/lib/kubelet/pod-resources/kubelet.sock"

// The List of all pods, and the kubelet's allocatable devices.
type answer struct {
	Pods        []*api.PodResources     `json:"pods"`
	Allocatable []*api.ContainerDevices `json:"allocatable"`
}

func ask() (answer, error) {
	connection, err := grpc.NewClient(socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return answer{}, err
	}
	defer connection.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client := api.NewPodResourcesListerClient(connection)
	listed, err := client.List(ctx, &api.ListPodResourcesRequest{})
	if err != nil {
		return answer{}, err
	}
	allocatable, err := client.GetAllocatableResources(ctx, &api.AllocatableResourcesRequest{})
	if err != nil {
		return answer{}, err
	}
	return answer{listed.GetPodResources(), allocatable.GetDevices()}, nil
}

func main() {
	found, err := ask()
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(found)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "podresources:", err)
		os.Exit(1)
	}
}
