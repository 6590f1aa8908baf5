package kubelet

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	resourceapi "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/clientcmd"
	drapb "k8s.io/kubelet/pkg/apis/dra/v1"
)

// logHas waits until the log of the driver has a text.
func (w *world) logHas(t *testing.T, text string) {
	t.Helper()
	eventually(t, "the log has "+text, func() error {
		content, err := os.ReadFile(w.driver.log)
		if err == nil && !strings.Contains(string(content), text) {
			err = notYet("%d bytes", len(content))
		}
		return err
	})
}

// calls returns a client that calls the driver as the kubelet does.
func (w *world) calls(t *testing.T) drapb.DRAPluginClient {
	t.Helper()
	connection, err := grpc.NewClient("unix:"+filepath.Join(w.dirs.plugins, "dra.sock"),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("localhost"))
	must(t, err)
	t.Cleanup(func() { _ = connection.Close() })
	return drapb.NewDRAPluginClient(connection)
}

// prepareByCall prepares a claim without the kubelet, and returns the error of the answer.
func (w *world) prepareByCall(t *testing.T, name, uid string) string {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 45*time.Second)
	defer cancel()
	answer, err := w.calls(t).NodePrepareResources(ctx, &drapb.NodePrepareResourcesRequest{
		Claims: []*drapb.Claim{claimOfCall(name, uid)}})
	must(t, err)
	return answer.Claims[uid].GetError()
}

func uidOf(t *testing.T, s *apiServer, claim string) string {
	t.Helper()
	found, err := s.admin.ResourceV1().ResourceClaims("default").Get(context.Background(), claim, metav1.GetOptions{})
	must(t, err)
	return string(found.UID)
}

// events returns the reasons and messages of an object's events.
func events(s *apiServer, kind, name string) (string, error) {
	list, err := s.admin.CoreV1().Events("default").List(context.Background(),
		metav1.ListOptions{FieldSelector: "involvedObject.kind=" + kind + ",involvedObject.name=" + name})
	if err != nil {
		return "", err
	}
	var found strings.Builder
	for _, event := range list.Items {
		found.WriteString(event.Reason + ": " + event.Message + "\n")
	}
	return found.String(), nil
}

func claimWithAnotherUIDIsRefused(t *testing.T) {
	w := newWorld(t)
	newPod(t, w.apiServer, "vm", allocated{"gpu", first})
	if text := w.prepareByCall(t, "vm", "00000000-0000-0000-0000-000000000001"); !strings.Contains(text, "another claim has the name now") {
		t.Fatalf("answer: %q", text)
	}
	if text := w.prepareByCall(t, "none", "u"); text != "the API server has no such claim" {
		t.Fatalf("answer: %q", text)
	}
	if _, err := os.Stat(filepath.Join(w.dirs.plugins, "claims.json")); !os.IsNotExist(err) || len(w.specs()) != 0 {
		t.Fatalf("left: %v %v", w.specs(), err)
	}
}

func refusalIsAnEventOfClaimAndPod(t *testing.T) {
	w := newWorld(t, "--release=1s")
	pod := newPod(t, w.apiServer, "refused", allocated{"gpu", first})
	vm := w.node.startVM(t, address, "")
	waitForTaint(t, w.apiServer, first, "held")
	for range 2 {
		if err := w.kubelet.PrepareResources(context.Background(), pod); err == nil {
			t.Fatal("a held device was prepared")
		}
	}
	for _, kind := range []string{"ResourceClaim", "Pod"} {
		eventually(t, "the event of the "+kind, func() error {
			found, err := events(w.apiServer, kind, "refused")
			if err == nil && !strings.Contains(found, "PrepareRefused: "+address+" (group 51) is held by pid "+strconv.Itoa(vm)) {
				err = notYet("%s", found)
			}
			return err
		})
	}
	// The second refusal is the same state. The event of another state comes after it.
	w.node.killVM(t, vm)
	waitForTaint(t, w.apiServer, first, "")
	w.kubelet.prepare(t, pod)
	vm = w.node.startVM(t, address, string(pod.UID))
	must(t, w.kubelet.UnprepareResources(context.Background(), pod))
	eventually(t, "the event of the end", func() error {
		found, err := events(w.apiServer, "ResourceClaim", "refused")
		if err == nil && !strings.Contains(found, "GroupStillHeld: group 51 is still held by pid "+strconv.Itoa(vm)) {
			err = notYet("%s", found)
		}
		return err
	})
	found, err := events(w.apiServer, "ResourceClaim", "refused")
	must(t, err)
	if count := strings.Count(found, "PrepareRefused"); count != 1 {
		t.Fatalf("%d events of one state: %s", count, found)
	}
	w.node.killVM(t, vm)
}

func lostRecordIsAdoptedFromTheKubelets(t *testing.T) {
	w := newWorld(t, "--release=1s")
	pod := newPod(t, w.apiServer, "vm", allocated{"gpu", first})
	idle := newPod(t, w.apiServer, "idle", allocated{"gpu", other})
	w.kubelet.prepare(t, pod)
	w.kubelet.prepare(t, idle)
	vm := w.node.startVM(t, address, string(pod.UID))
	w.driver.end(t)
	must(t, os.Remove(filepath.Join(w.dirs.plugins, "claims.json")))
	foreign := w.node.startVM(t, otherAddress, "")
	w.driver = startDriver(t, w.apiServer, w.node, w.dirs, "--release=1s")
	eventually(t, "the claim is adopted", func() error {
		if _, err := os.Stat(filepath.Join(w.dirs.plugins, "claims.json")); err != nil {
			return err
		}
		if names := w.claims(t); len(names) != 1 || names[0] != "vm" {
			return notYet("%v", names)
		}
		return nil
	})
	// The device that no pod of a claim holds is held.
	waitForTaint(t, w.apiServer, other, "held")
	waitForTaint(t, w.apiServer, first, "")
	// The barrier of an adopted claim.
	w.logHas(t, "registered the DRA driver")
	must(t, w.kubelet.UnprepareResources(context.Background(), pod))
	must(t, hasTaint(w.apiServer, first, "held"))
	w.node.killVM(t, vm)
	w.node.killVM(t, foreign)
	waitForTaint(t, w.apiServer, first, "")
	if names := w.claims(t); len(names) != 0 {
		t.Fatalf("claims: %v", names)
	}
}

func preparedClaimIsAnsweredWithoutAPIServer(t *testing.T) {
	w := newWorld(t)
	newPod(t, w.apiServer, "vm", allocated{"gpu", first})
	newPod(t, w.apiServer, "new", allocated{"gpu", other})
	uid, another := uidOf(t, w.apiServer, "vm"), uidOf(t, w.apiServer, "new")
	eventually(t, "the claim is prepared", func() error {
		if text := w.prepareByCall(t, "vm", uid); text != "" {
			return notYet("%s", text)
		}
		return nil
	})
	must(t, w.server.Process.Signal(syscall.SIGSTOP))
	defer func() { _ = w.server.Process.Signal(syscall.SIGCONT) }()
	must(t, os.RemoveAll(w.dirs.cdi))
	if text := w.prepareByCall(t, "vm", uid); text != "" {
		t.Fatalf("a prepared claim: %s", text)
	}
	if len(w.specs()) != 1 {
		t.Fatal("the spec was not written again")
	}
	if text := w.prepareByCall(t, "new", another); !strings.Contains(text, "cannot get the claim from the API server") {
		t.Fatalf("a new claim: %q", text)
	}
}

// An administrator observes the device of another claim.
func adminAccessHasNoDeviceNode(t *testing.T) {
	w := newWorld(t)
	pod := newPod(t, w.apiServer, "vm", allocated{"gpu", first})
	w.kubelet.prepare(t, pod)
	ctx, claims := context.Background(), w.admin.ResourceV1().ResourceClaims("default")
	namespaces := w.admin.CoreV1().Namespaces()
	namespace, err := namespaces.Get(ctx, "default", metav1.GetOptions{})
	must(t, err)
	namespace.Labels[resourceapi.DRAAdminNamespaceLabelKey] = "true"
	must(t, second(namespaces.Update(ctx, namespace, metav1.UpdateOptions{})))
	newPod(t, w.apiServer, "admin", allocated{"gpu", first})
	claim, err := claims.Get(ctx, "admin", metav1.GetOptions{})
	must(t, err)
	// An allocation cannot be changed, so it is made again.
	allocation, reserved := claim.Status.Allocation, claim.Status.ReservedFor
	claim.Status = resourceapi.ResourceClaimStatus{}
	claim, err = claims.UpdateStatus(ctx, claim, metav1.UpdateOptions{})
	must(t, err)
	admin := true
	allocation.Devices.Results[0].AdminAccess = &admin
	claim.Status.Allocation, claim.Status.ReservedFor = allocation, reserved
	claim, err = claims.UpdateStatus(ctx, claim, metav1.UpdateOptions{})
	must(t, err)
	if text := w.prepareByCall(t, "admin", string(claim.UID)); text != "" {
		t.Fatal(text)
	}
	content, err := os.ReadFile(filepath.Join(w.dirs.cdi, driverName+"_"+string(claim.UID)+".json"))
	must(t, err)
	if strings.Contains(string(content), "deviceNodes") || !strings.Contains(string(content), "metadata.json") {
		t.Fatalf("spec: %s", content)
	}
}

func opaqueParametersAreRefused(t *testing.T) {
	w := newWorld(t)
	newPod(t, w.apiServer, "vm", allocated{"gpu", first})
	ctx, claims := context.Background(), w.admin.ResourceV1().ResourceClaims("default")
	claim, err := claims.Get(ctx, "vm", metav1.GetOptions{})
	must(t, err)
	allocation, reserved := claim.Status.Allocation, claim.Status.ReservedFor
	claim.Status = resourceapi.ResourceClaimStatus{}
	claim, err = claims.UpdateStatus(ctx, claim, metav1.UpdateOptions{})
	must(t, err)
	parameters := resourceapi.OpaqueDeviceConfiguration{Driver: driverName}
	parameters.Parameters.Raw = []byte(`{"backend": "iommufd"}`)
	allocation.Devices.Config = []resourceapi.DeviceAllocationConfiguration{{Source: resourceapi.AllocationConfigSourceClaim,
		DeviceConfiguration: resourceapi.DeviceConfiguration{Opaque: &parameters}}}
	claim.Status.Allocation, claim.Status.ReservedFor = allocation, reserved
	must(t, second(claims.UpdateStatus(ctx, claim, metav1.UpdateOptions{})))
	if text := w.prepareByCall(t, "vm", string(claim.UID)); !strings.Contains(text, "remove the opaque parameters for it from the claim") {
		t.Fatalf("answer: %q", text)
	}
}

// kubeconfigWith returns a copy of the driver's kubeconfig with another token or certificate.
func kubeconfigWith(t *testing.T, s *apiServer, token, authority string) string {
	t.Helper()
	config, err := clientcmd.LoadFromFile(s.kubeconfig)
	must(t, err)
	if token != "" {
		config.AuthInfos["u"].Token = token
	}
	if authority != "" {
		config.Clusters["c"].CertificateAuthority = authority
	}
	path := filepath.Join(t.TempDir(), "kubeconfig")
	must(t, clientcmd.WriteToFile(*config, path))
	return path
}

// badCredentialsAreNamedAndLoseNothing: the slices stay as they are, and the running pods keep their claims.
func badCredentialsAreNamedAndLoseNothing(t *testing.T) {
	w := newWorld(t)
	pod := newPod(t, w.apiServer, "vm", allocated{"gpu", first})
	w.kubelet.prepare(t, pod)
	good := w.kubeconfig
	defer func() { w.kubeconfig = good }()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "another"},
		NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	must(t, err)
	authority := filepath.Join(t.TempDir(), "another.crt")
	must(t, os.WriteFile(authority, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: certificate}), 0o600))
	for _, bad := range []struct{ token, authority, named string }{
		{"", authority, "certificate"},
		{"expired", "", "the token has expired or is of another cluster"},
		{"stranger", "", "the driver's ClusterRole lacks the right"},
	} {
		before := waitForAll(t, w.apiServer, 8)
		w.driver.end(t)
		w.apiServer.kubeconfig = kubeconfigWith(t, w.apiServer, bad.token, bad.authority)
		w.driver = startDriver(t, w.apiServer, w.node, w.dirs)
		w.logHas(t, bad.named)
		// The kubelet deletes the slices of a driver that is away for 30 s, not of one that runs.
		after := waitForAll(t, w.apiServer, 8)
		if before[0].UID != after[0].UID || len(w.claims(t)) != 1 {
			t.Fatalf("with %s: slices or claims are lost", bad.named)
		}
		w.driver.end(t)
		w.apiServer.kubeconfig = good
		w.driver = startDriver(t, w.apiServer, w.node, w.dirs)
		w.logHas(t, "registered the DRA driver")
	}
	eventually(t, "the claim is unprepared", func() error { return w.kubelet.UnprepareResources(context.Background(), pod) })
}

func sighupIsRefused(t *testing.T) {
	w := newWorld(t)
	must(t, w.driver.Process.Signal(syscall.SIGHUP))
	w.logHas(t, "reload refused: with --offer dra a process does not hand over to another one")
	w.kubelet.prepare(t, newPod(t, w.apiServer, "vm", allocated{"gpu", first}))
}

func secondDriverWaitsForTheFirst(t *testing.T) {
	w := newWorld(t)
	pod := newPod(t, w.apiServer, "vm", allocated{"gpu", first})
	w.kubelet.prepare(t, pod)
	before := waitForAll(t, w.apiServer, 8)
	second := startDriver(t, w.apiServer, w.node, w.dirs)
	must(t, w.kubelet.UnprepareResources(context.Background(), pod))
	w.driver.end(t)
	w.driver = second
	w.logHas(t, "registered the DRA driver")
	w.kubelet.prepare(t, pod)
	if after := waitForAll(t, w.apiServer, 8); before[0].UID != after[0].UID {
		t.Fatal("the slices were created again")
	}
}

func driverThatWasAwayForLongPublishesAgain(t *testing.T) {
	w := newWorld(t)
	w.driver.end(t)
	// The kubelet deletes them after 30 s.
	eventually(t, "the slices are deleted", func() error {
		devices, slices, err := published(w.apiServer)
		if err == nil && len(slices) > 0 {
			err = notYet("%d devices", len(devices))
		}
		return err
	})
	vm := w.node.startVM(t, address, "")
	w.driver = startDriver(t, w.apiServer, w.node, w.dirs)
	// A held device is left out where the API server stores no taint.
	count := 8
	if !taintsAreStored {
		count = 7
	}
	waitForAll(t, w.apiServer, count)
	waitForTaint(t, w.apiServer, first, "held")
	w.node.killVM(t, vm)
}
