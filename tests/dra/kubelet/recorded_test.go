package kubelet

import (
	"syscall"
	"testing"
)

// Once the kubelet has the answer, the claim's pod may open the group, and the driver may end at any time.
func answeredClaimIsRecorded(t *testing.T) {
	w := newWorld(t)
	w.kubelet.prepare(t, newPod(t, w.apiServer, "vm", allocated{"gpu", first}))
	must(t, w.driver.Process.Signal(syscall.SIGKILL))
	<-w.driver.done
	if claims := w.claims(t); len(claims) != 1 || claims[0] != "vm" {
		t.Fatalf("claims: %v", claims)
	}
}
