package kubelet

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/record"
	"k8s.io/klog/v2"
	pluginwatcherapi "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
	"k8s.io/kubernetes/pkg/kubelet/cm/dra"
	"k8s.io/kubernetes/pkg/kubelet/config"
	"k8s.io/kubernetes/pkg/kubelet/pluginmanager"
	"k8s.io/kubernetes/pkg/kubelet/pluginmanager/cache"
)

// kubelet is the kubelet's DRA manager with its plugin manager.
type kubelet struct {
	*dra.Manager
	cancel context.CancelFunc
}

// startKubelet starts them. They continue with the state that an earlier one has left in the directory.
func startKubelet(t *testing.T, s *apiServer, d directories) *kubelet {
	t.Helper()
	return startKubeletOf(t, s.admin, nodeName, d)
}

func startKubeletOf(t *testing.T, client *kubernetes.Clientset, name string, d directories) *kubelet {
	t.Helper()
	return startKubeletWith(t, client, name, d, func(handler cache.PluginHandler) cache.PluginHandler { return handler })
}

// startKubeletWith starts them with another handler of registrations, which is made from the DRA manager's.
func startKubeletWith(t *testing.T, client *kubernetes.Clientset, name string, d directories,
	handler func(cache.PluginHandler) cache.PluginHandler) *kubelet {
	t.Helper()
	// The record of claims is in the kubelet's root directory, where the driver reads it.
	manager, err := dra.NewManager(klog.Background(), client, d.root)
	must(t, err)
	ctx, cancel := context.WithCancel(context.Background())
	sources := config.NewSourcesReady(func(sets.Set[string]) bool { return true })
	node := getNode(func(ctx context.Context) (*corev1.Node, error) {
		return client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
	})
	// No pod is active: the loop that unprepares the claims of inactive pods runs first after a minute.
	must(t, manager.Start(ctx, func() []*corev1.Pod { return nil }, node, config.NewSourcesReady(func(sets.Set[string]) bool { return false })))
	needInotify(t)
	plugins := pluginmanager.NewPluginManager(d.registry, record.NewFakeRecorder(100))
	plugins.AddHandler(pluginwatcherapi.DRAPlugin, handler(manager.GetWatcherHandler()))
	go runPlugins(ctx, plugins, sources)
	k := &kubelet{Manager: manager, cancel: cancel}
	t.Cleanup(k.end)
	return k
}

// needInotify waits until there is an inotify instance for the plugin manager, which finds no driver without one and says so only in a log.
func needInotify(t *testing.T) {
	t.Helper()
	eventually(t, "an inotify instance is left of fs.inotify.max_user_instances", func() error {
		descriptor, err := syscall.InotifyInit1(syscall.IN_CLOEXEC)
		if err == nil {
			err = syscall.Close(descriptor)
		}
		return err
	})
}

// needInotifyFor fails if this user may not have enough inotify instances for some nodes: four of the driver and one of the plugin
// manager each.
func needInotifyFor(t *testing.T, nodes int) {
	t.Helper()
	const setting = "/proc/sys/fs/inotify/max_user_instances"
	content, err := os.ReadFile(setting)
	must(t, err)
	limit, err := strconv.Atoi(strings.TrimSpace(string(content)))
	must(t, err)
	// The rest is for what else runs here.
	if needed := 5*nodes + 16; limit < needed {
		t.Fatalf("%s is %d, and %d nodes need %d: raise it, or take fewer nodes", setting, limit, nodes, needed)
	}
}

// end ends them as the exit of the kubelet does.
func (k *kubelet) end() {
	k.cancel()
	stopManager(k.Manager)
}

// allocated is a device that a claim is allocated, for one request.
type allocated struct{ request, device string }

// newPod creates a claim that is allocated these devices and reserved for a pod, as the scheduler does, and returns the pod.
func newPod(t *testing.T, s *apiServer, name string, devices ...allocated) *corev1.Pod {
	t.Helper()
	return newPodOf(t, s, driverName, nodeName, name, devices...)
}

// newPodOf does so with devices of any driver and pool.
func newPodOf(t *testing.T, s *apiServer, driver, pool, name string, devices ...allocated) *corev1.Pod {
	t.Helper()
	ctx, claims := context.Background(), s.admin.ResourceV1().ResourceClaims("default")
	claim := &resourceapi.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Name: name}}
	results := []resourceapi.DeviceRequestAllocationResult{}
	for _, device := range devices {
		exactly := &resourceapi.ExactDeviceRequest{DeviceClassName: "vfio"}
		claim.Spec.Devices.Requests = append(claim.Spec.Devices.Requests, resourceapi.DeviceRequest{Name: device.request, Exactly: exactly})
		results = append(results, resourceapi.DeviceRequestAllocationResult{
			Request: device.request, Driver: driver, Pool: pool, Device: device.device})
	}
	claim, err := claims.Create(ctx, claim, metav1.CreateOptions{})
	must(t, err)
	uid := types.UID("00000000-0000-0000-0000-" + (hex.EncodeToString([]byte(name)) + "000000000000")[:12])
	claim.Status.Allocation = &resourceapi.AllocationResult{Devices: resourceapi.DeviceAllocationResult{Results: results}}
	claim.Status.ReservedFor = []resourceapi.ResourceClaimConsumerReference{{Resource: "pods", Name: name, UID: uid}}
	must(t, second(claims.UpdateStatus(ctx, claim, metav1.UpdateOptions{})))
	return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: name, UID: uid},
		Spec: corev1.PodSpec{
			ResourceClaims: []corev1.PodResourceClaim{{Name: "gpus", ResourceClaimName: &name}},
			Containers: []corev1.Container{{Name: "compute",
				Resources: corev1.ResourceRequirements{Claims: []corev1.ResourceClaim{{Name: "gpus"}}}}}}}
}

// published returns all devices of the stored slices, by name, with the names of their taints.
func published(s *apiServer) (map[string][]resourceapi.DeviceTaint, []resourceapi.ResourceSlice, error) {
	list, err := s.admin.ResourceV1().ResourceSlices().List(context.Background(), metav1.ListOptions{})
	if err != nil {
		return nil, nil, err
	}
	devices := map[string][]resourceapi.DeviceTaint{}
	for _, slice := range list.Items {
		for _, device := range slice.Spec.Devices {
			devices[device.Name] = device.Taints
		}
	}
	return devices, list.Items, nil
}

// waitForTaint waits until a device has a taint, or none for an empty key. Where taints are dropped, a device that would have one
// must be missing.
func waitForTaint(t *testing.T, s *apiServer, device, key string) {
	t.Helper()
	eventually(t, device+" has the taint "+key, func() error { return hasTaint(s, device, key) })
}

func hasTaint(s *apiServer, device, key string) error {
	devices, _, err := published(s)
	if err != nil {
		return err
	}
	taints, listed := devices[device]
	switch {
	case !taintsAreStored && key != "" && listed:
		return notYet("published")
	case !taintsAreStored && key != "":
		return nil
	case !listed:
		return notYet("not published")
	case key == "" && len(taints) > 0:
		return notYet("%v", taints)
	case key != "" && (len(taints) != 1 || taints[0].Key != driverName+"/"+key || taints[0].Effect != resourceapi.DeviceTaintEffectNoSchedule):
		return notYet("%v", taints)
	}
	return nil
}

// waitForAll waits until n devices are published.
func waitForAll(t *testing.T, s *apiServer, n int) []resourceapi.ResourceSlice {
	t.Helper()
	var all []resourceapi.ResourceSlice
	eventually(t, "the devices are published", func() error {
		devices, slices, err := published(s)
		all = slices
		if err == nil && len(devices) != n {
			err = notYet("%d devices", len(devices))
		}
		return err
	})
	return all
}

// prepare prepares a pod's claim, which must succeed. The kubelet's plugin manager may not have registered the driver yet.
func (k *kubelet) prepare(t *testing.T, pod *corev1.Pod) {
	t.Helper()
	eventually(t, "the claim of "+pod.Name+" is prepared", func() error { return k.PrepareResources(context.Background(), pod) })
}

func newKey(t *testing.T) []byte {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	must(t, err)
	encoded, err := x509.MarshalECPrivateKey(key)
	must(t, err)
	return pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: encoded})
}
