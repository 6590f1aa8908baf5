package kubelet

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	resourceapi "k8s.io/api/resource/v1"
	"k8s.io/client-go/tools/clientcmd"
)

// slowServer passes requests on to the API server, and keeps one write until the test lets it go on.
type slowServer struct {
	kubeconfig string
	// keeps is whether the next write without any taint is kept.
	keeps atomic.Bool
	// kept gets the write that was kept: a call carries it out and returns the status.
	kept chan func() int
}

func startSlowServer(t *testing.T, s *apiServer) *slowServer {
	t.Helper()
	config, err := clientcmd.LoadFromFile(s.kubeconfig)
	must(t, err)
	target, err := url.Parse(config.Clusters["c"].Server)
	must(t, err)
	transport := &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.Transport, proxy.FlushInterval = transport, -1
	slow := &slowServer{kubeconfig: filepath.Join(t.TempDir(), "kubeconfig"), kept: make(chan func() int, 1)}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method != http.MethodPut {
			proxy.ServeHTTP(w, r)
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil || len(r.URL.Query()["dryRun"]) > 0 || hasTaints(body) || !slow.keeps.CompareAndSwap(true, false) {
			r.Body = io.NopCloser(bytes.NewReader(body))
			proxy.ServeHTTP(w, r)
			return
		}
		write := r.Clone(context.Background())
		write.RequestURI, write.URL.Scheme, write.URL.Host = "", target.Scheme, target.Host
		write.Body = io.NopCloser(bytes.NewReader(body))
		slow.kept <- func() int {
			answer, err := transport.RoundTrip(write)
			if err != nil {
				return 0
			}
			defer answer.Body.Close()
			return answer.StatusCode
		}
		// The driver gives up.
		<-r.Context().Done()
	}))
	t.Cleanup(server.Close)
	t.Cleanup(server.CloseClientConnections)
	config.Clusters["c"].Server, config.Clusters["c"].CertificateAuthority = server.URL, ""
	must(t, clientcmd.WriteToFile(*config, slow.kubeconfig))
	return slow
}

func hasTaints(body []byte) bool {
	var slice resourceapi.ResourceSlice
	if json.Unmarshal(body, &slice) != nil {
		return true
	}
	for _, device := range slice.Spec.Devices {
		if len(device.Taints) > 0 {
			return true
		}
	}
	return false
}

// newSlowWorld returns what a test needs, without a driver and a kubelet, and the way to the API server.
func newSlowWorld(t *testing.T) (*world, *slowServer) {
	t.Helper()
	direct := sharedAPIServer(t)
	slow := startSlowServer(t, direct)
	through := *direct
	through.kubeconfig = slow.kubeconfig
	return &world{apiServer: &through, node: startNode(t), dirs: newDirectories(t)}, slow
}

// lateWriteFails checks that the first device has a taint, and keeps it when the late write is carried out.
func (w *world) lateWriteFails(t *testing.T, key string, carryOut func() int) {
	t.Helper()
	must(t, hasTaint(w.apiServer, first, key))
	if status := carryOut(); status != http.StatusConflict {
		t.Fatalf("after the refusal the late write was answered with %d", status)
	}
	must(t, hasTaint(w.apiServer, first, key))
}

// A write that has no answer offers a device again. Then the device cannot be used for the same reason as before, so the stored taint is as
// it should be. The write must not remove it after the refusal was sent.
func lateWriteDoesNotRemoveATaint(t *testing.T) {
	w, slow := newSlowWorld(t)
	w.driver = startDriver(t, w.apiServer, w.node, w.dirs, "--checks=lost")
	w.kubelet = startKubelet(t, w.apiServer, w.dirs)
	waitForAll(t, w.apiServer, 8)
	pod := newPod(t, w.apiServer, "vm", allocated{"gpu", first})
	path := filepath.Join(w.node.root, "sys/bus/pci/devices", address, "config")
	registers, err := os.ReadFile(path)
	must(t, err)
	lost := bytes.Repeat([]byte{0xff}, len(registers))
	must(t, os.WriteFile(path, lost, 0o644))
	waitForTaint(t, w.apiServer, first, "lost")
	slow.keeps.Store(true)
	must(t, os.WriteFile(path, registers, 0o644))
	carryOut := <-slow.kept
	must(t, hasTaint(w.apiServer, first, "lost"))
	must(t, os.WriteFile(path, lost, 0o644))
	eventually(t, "the driver knows that the device is lost again", func() error {
		content, err := os.ReadFile(w.driver.log)
		if count := strings.Count(string(content), `new="Unhealthy" reason="lost"`); err == nil && count < 2 {
			err = notYet("%d times", count)
		}
		return err
	})
	err = w.kubelet.PrepareResources(context.Background(), pod)
	if err == nil || !strings.Contains(err.Error(), "reads all ones") {
		t.Fatalf("a lost device: %v", err)
	}
	w.lateWriteFails(t, "lost", carryOut)
	must(t, os.WriteFile(path, registers, 0o644))
	waitForTaint(t, w.apiServer, first, "")
}

// A driver is killed before a write that offers a device again has an answer. VFIO cannot use the device's group for the same reason as before
// when the next driver starts, so the stored taint is as it should be. The write must not remove it after that driver's refusal was sent.
func lateWriteOfAnEarlierDriverDoesNotRemoveATaint(t *testing.T) {
	w, slow := newSlowWorld(t)
	w.driver = startDriver(t, w.apiServer, w.node, w.dirs)
	w.kubelet = startKubelet(t, w.apiServer, w.dirs)
	waitForAll(t, w.apiServer, 8)
	pod := newPod(t, w.apiServer, "vm", allocated{"gpu", first})
	const peer = "0000:1b:00.1"
	bind := func() { w.node.order(t, "bind", map[string]any{"address": peer, "driver": "nouveau"}, &struct{}{}) }
	unbind := func() { w.node.order(t, "unbind", map[string]any{"address": peer}, &struct{}{}) }
	w.node.order(t, "add_gpu", map[string]any{"address": peer, "group": group, "numa_node": 0}, &struct{}{})
	unbind()
	bind()
	waitForTaint(t, w.apiServer, first, "not-viable")
	slow.keeps.Store(true)
	unbind()
	carryOut := <-slow.kept
	bind()
	must(t, w.driver.Process.Kill())
	<-w.driver.done
	w.driver = startDriver(t, w.apiServer, w.node, w.dirs)
	w.logHas(t, "registered the DRA driver")
	err := w.kubelet.PrepareResources(context.Background(), pod)
	if err == nil || !strings.Contains(err.Error(), "nouveau") {
		t.Fatalf("VFIO cannot use the group: %v", err)
	}
	w.lateWriteFails(t, "not-viable", carryOut)
	unbind()
	waitForTaint(t, w.apiServer, first, "")
}
