package kubelet

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
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

// The claim of a pod that is deleted by force is gone while the kubelet still ends the pod's containers.
func claimThatTheKubeletHasKeepsItsDevice(t *testing.T) {
	w := newWorld(t)
	ctx, claims := context.Background(), w.admin.ResourceV1().ResourceClaims("default")
	vm := newPod(t, w.apiServer, "vm", allocated{"gpu", first})
	w.kubelet.prepare(t, vm)
	must(t, claims.Delete(ctx, "vm", metav1.DeleteOptions{}))
	next := newPod(t, w.apiServer, "next", allocated{"gpu", first})
	if err := w.kubelet.PrepareResources(ctx, next); err == nil || !strings.Contains(err.Error(), "claim default/vm has it") {
		t.Fatalf("two claims have one device: %v", err)
	}
	must(t, w.kubelet.UnprepareResources(ctx, vm))
	w.kubelet.prepare(t, next)

	// A kubelet that has lost its record never has the claim unprepared. It writes the next one to a new record.
	must(t, claims.Delete(ctx, "next", metav1.DeleteOptions{}))
	w.kubelet.end()
	must(t, os.Remove(filepath.Join(w.dirs.root, "dra_manager_state")))
	w.kubelet = startKubelet(t, w.apiServer, w.dirs)
	w.kubelet.prepare(t, newPod(t, w.apiServer, "last", allocated{"gpu", first}))
	if names := w.claims(t); len(names) != 1 || names[0] != "last" {
		t.Fatalf("claims: %v", names)
	}
}
