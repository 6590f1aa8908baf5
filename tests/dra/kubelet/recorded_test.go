package kubelet

import (
	"context"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
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

// begin begins to prepare a pod's claim, and returns when the driver waits for the claims of n pods that are ending. The channel gets the
// answer.
func (w *world) begin(t *testing.T, ctx context.Context, pod *corev1.Pod, n int) <-chan error {
	t.Helper()
	answer := make(chan error, 1)
	go func() { answer <- w.kubelet.PrepareResources(ctx, pod) }()
	eventually(t, "the driver waits", func() error {
		select {
		case err := <-answer:
			t.Fatalf("answered while another claim was prepared: %v", err)
		default:
		}
		content, err := os.ReadFile(w.driver.log)
		if count := strings.Count(string(content), "waiting until the kubelet has an earlier claim unprepared"); err == nil && count < n {
			err = notYet("%d waits", count)
		}
		return err
	})
	return answer
}

// The claim of a pod that is deleted by force is gone while the kubelet still ends the pod's containers. The claim of another pod waits for
// that in one call.
func claimThatTheKubeletHasKeepsItsDevice(t *testing.T) {
	w := newWorld(t)
	ctx, claims := context.Background(), w.admin.ResourceV1().ResourceClaims("default")
	vm := newPod(t, w.apiServer, "vm", allocated{"gpu", first})
	w.kubelet.prepare(t, vm)
	must(t, claims.Delete(ctx, "vm", metav1.DeleteOptions{}))
	next := newPod(t, w.apiServer, "next", allocated{"gpu", first})
	short, cancel := context.WithTimeout(ctx, 8*time.Second)
	defer cancel()
	ending := "claim default/vm has it or a device of its group; its pod was deleted by force, and the kubelet is still ending its containers;"
	if err := w.kubelet.PrepareResources(short, next); err == nil || !strings.Contains(err.Error(), ending) {
		t.Fatalf("the containers have not ended: %v", err)
	}
	w.logHas(t, "waiting until the kubelet has an earlier claim unprepared")
	answer := w.begin(t, ctx, next, 2)
	must(t, hasTaint(w.apiServer, first, ""))
	must(t, w.kubelet.UnprepareResources(ctx, vm))
	must(t, <-answer)
	if names := w.claims(t); len(names) != 1 || names[0] != "next" {
		t.Fatalf("claims: %v", names)
	}

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

// The VM of the pod that was deleted by force stays. The claim ends with the taint, and the one that waits is refused.
func waitingClaimIsRefusedIfTheVMStays(t *testing.T) {
	w := newWorld(t, "--release=1s", "--settling=1h")
	ctx := context.Background()
	pod := newPod(t, w.apiServer, "vm", allocated{"gpu", first})
	w.kubelet.prepare(t, pod)
	vm := w.node.startVM(t, address, string(pod.UID))
	must(t, w.admin.ResourceV1().ResourceClaims("default").Delete(ctx, "vm", metav1.DeleteOptions{}))
	next := newPod(t, w.apiServer, "next", allocated{"gpu", first})
	answer := w.begin(t, ctx, next, 1)
	must(t, w.kubelet.UnprepareResources(ctx, pod))
	must(t, hasTaint(w.apiServer, first, "held"))
	err := <-answer
	must(t, hasTaint(w.apiServer, first, "held"))
	if err == nil || !strings.Contains(err.Error(), "is held by pid "+strconv.Itoa(vm)) {
		t.Fatalf("the VM of the first pod stays: %v", err)
	}
	w.refusalLeavesNothing(t, next, vm)
}

// The kubelet cancels the call for a pod that is deleted, and has its claim unprepared.
func waitForAnotherClaimEndsWithTheCall(t *testing.T) {
	w := newWorld(t)
	ctx := context.Background()
	pod := newPod(t, w.apiServer, "vm", allocated{"gpu", first})
	w.kubelet.prepare(t, pod)
	must(t, w.admin.ResourceV1().ResourceClaims("default").Delete(ctx, "vm", metav1.DeleteOptions{}))
	next := newPod(t, w.apiServer, "next", allocated{"gpu", first})
	call, cancel := context.WithCancel(ctx)
	answer := w.begin(t, call, next, 1)
	cancel()
	if err := <-answer; err == nil {
		t.Fatal("two claims have one device")
	}
	w.logHas(t, "the kubelet has ended the call")
	must(t, w.kubelet.UnprepareResources(ctx, next))
	if names := w.claims(t); len(names) != 1 || names[0] != "vm" {
		t.Fatalf("claims: %v", names)
	}
	must(t, w.kubelet.UnprepareResources(ctx, pod))
}
