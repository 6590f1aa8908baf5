package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"
)

// sample prints how many allocatable devices the kubelet has, of resources with a prefix, once an interval and without an end: the
// milliseconds since 1970 and the number, or the error. This is the kubelet's state itself, which reaches the API server every ten
// seconds only.
func sample(socket, prefix string, interval time.Duration) error {
	connection, err := connect(socket)
	if err != nil {
		return err
	}
	defer connection.Close()
	client := podresources.NewPodResourcesListerClient(connection)
	for ; ; time.Sleep(interval) {
		count, err := countAllocatable(client, prefix)
		if err != nil {
			fmt.Println(time.Now().UnixMilli(), "error:", strings.ReplaceAll(err.Error(), "\n", " "))
		} else {
			fmt.Println(time.Now().UnixMilli(), count)
		}
	}
}

func countAllocatable(client podresources.PodResourcesListerClient, prefix string) (int, error) {
	ctx, cancel := context.WithTimeout(context.Background(), podResourcesTimeout)
	defer cancel()
	answer, err := client.GetAllocatableResources(ctx, &podresources.AllocatableResourcesRequest{})
	if err != nil {
		return 0, err
	}
	count := 0
	for _, devices := range answer.GetDevices() {
		if strings.HasPrefix(devices.GetResourceName(), prefix) {
			count += len(devices.GetDeviceIds())
		}
	}
	return count, nil
}
