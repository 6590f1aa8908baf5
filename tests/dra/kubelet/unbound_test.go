package kubelet

import (
	"context"
	"testing"
)

// An unbind of a held device waits in the kernel. A driver that starts meanwhile finds the device without a VFIO driver.
func unprepareOfAHeldUnboundDeviceSucceeds(t *testing.T) {
	w := newWorld(t, "--release=1s")
	pod := newPod(t, w.apiServer, "vm", allocated{"gpu", first})
	w.kubelet.prepare(t, pod)
	vm := w.node.startVM(t, address, string(pod.UID))
	w.node.order(t, "unbind", map[string]any{"address": address}, &struct{}{})
	w.restartDriver(t, "--release=1s")
	eventually(t, "the claim is unprepared", func() error { return w.kubelet.UnprepareResources(context.Background(), pod) })
	devices, _, err := published(w.apiServer)
	must(t, err)
	if taints, listed := devices[first]; listed && len(taints) == 0 {
		t.Fatal("the scheduler can allocate the device")
	}
	w.node.killVM(t, vm)
}
