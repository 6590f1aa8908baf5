//go:build !older

package kubelet

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/klog/v2"
)

// testsOfNewer are the tests that need a kubelet of 1.36 or newer.
var testsOfNewer = []namedTest{
	{"lost_device_is_unhealthy_in_the_status_of_its_pod", lostDeviceIsUnhealthyInTheStatusOfItsPod},
}

// lostDeviceIsUnhealthyInTheStatusOfItsPod needs a kubelet that opens the stream by default: 1.36 and newer.
func lostDeviceIsUnhealthyInTheStatusOfItsPod(t *testing.T) {
	w := newWorld(t, "--checks=lost")
	pod := newPod(t, w.apiServer, "vm", allocated{"gpu", first})
	w.kubelet.prepare(t, pod)
	hasHealth := func(expected corev1.ResourceHealthStatus, message string) func() error {
		return func() error {
			status := corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{Name: "compute"}}}
			w.kubelet.UpdateAllocatedResourcesStatus(klog.Background(), pod, &status)
			for _, resource := range status.ContainerStatuses[0].AllocatedResourcesStatus {
				for _, device := range resource.Resources {
					if device.Health == expected && (message == "" || device.Message != nil && strings.Contains(*device.Message, message)) {
						return nil
					}
				}
			}
			return notYet("%+v", status.ContainerStatuses[0].AllocatedResourcesStatus)
		}
	}
	eventually(t, "the device is healthy", hasHealth(corev1.ResourceHealthStatusHealthy, ""))
	registers := filepath.Join(w.node.root, "sys/bus/pci/devices", address, "config")
	must(t, os.WriteFile(registers, []byte(strings.Repeat("\xff", 64)), 0o644))
	eventually(t, "the device is unhealthy", hasHealth(corev1.ResourceHealthStatusUnhealthy, "reads all ones"))
	waitForTaint(t, w.apiServer, first, "lost")
	must(t, w.kubelet.UnprepareResources(context.Background(), pod))
}
