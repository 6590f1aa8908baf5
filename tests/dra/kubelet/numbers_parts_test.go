//go:build !older

package kubelet

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	corev1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"
	drapb "k8s.io/kubelet/pkg/apis/dra/v1"
	"k8s.io/kubernetes/pkg/kubelet/pluginmanager/cache"
)

// measured is a driver that TestNumbers measures.
type measured struct {
	label string
	// name is its name in the API, and user the one of its token.
	name, user string
	kubeconfig string
	// client has the same rights.
	client  *kubernetes.Clientset
	socket  string
	command func() *exec.Cmd
	process *process
	// pods have prepared claims in turn, and uids are those of the claims, by their names.
	pods       []*corev1.Pod
	uids       map[string]string
	connection *grpc.ClientConn
	calls      drapb.DRAPluginClient
}

// numbers is a node with both drivers.
type numbers struct {
	*apiServer
	t             *testing.T
	audit         *auditLog
	slices        *sliceWatch
	registrations *registrations
	node          *simNode
	name          string
	dirs          directories
	kubelet       *kubelet
	// drivers are this project's and the one on the Go helper library.
	drivers []*measured
	devices []string
	table   *table
}

func newNumbers(t *testing.T, s *apiServer, audit *auditLog, count int) *numbers {
	t.Helper()
	n := &numbers{apiServer: s, t: t, audit: audit, slices: watchSlices(t, s), node: startNode(t), dirs: newDirectories(t),
		name: fmt.Sprintf("node-of-%d", count), registrations: &registrations{at: map[string]time.Time{}}}
	for index := 8; index < count; index++ {
		n.node.order(t, "add_gpu", map[string]any{"address": fmt.Sprintf("%04x:%02x:00.0", 1+index/32, index%32), "group": 1000 + index,
			"numa_node": index % 2}, &struct{}{})
	}
	// On a host these are in /run, which is in memory. The driver's directory is on the disk.
	memory, err := os.MkdirTemp("/dev/shm", "dra-")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(memory) })
	n.dirs.cdi, n.dirs.run = filepath.Join(memory, "cdi"), filepath.Join(memory, "run")
	must(t, os.Mkdir(n.dirs.run, 0o755))
	createNode(t, s, n.name)
	list := filepath.Join(n.dirs.root, "devices.json")
	ours, helper := n.driver("this driver", driverName, "driver", account), n.driver("Go helper", "helper.example.com", "helper", helperAccount)
	ours.command = func() *exec.Cmd {
		// The options of the manifests. All others have their defaults.
		return exec.Command(program(t, "VFIO_TEST_SIM_NODE"), "exec", program(t, "VFIO_TEST_PLUGIN"), "serve", "--log-format=json",
			"--listen=127.0.0.1:0", "--offer=dra", "--dra-driver="+ours.name, "--node="+n.name, "--kubeconfig="+ours.kubeconfig,
			"--root="+n.node.root, "--kubelet-root="+n.dirs.root, "--kubelet-dir="+n.dirs.kubelet, "--cdi-dir="+n.dirs.cdi,
			"--run-dir="+n.dirs.run)
	}
	helper.command = func() *exec.Cmd {
		return exec.Command(program(t, "VFIO_TEST_HELPER"), "-driver="+helper.name, "-node="+n.name, "-kubeconfig="+helper.kubeconfig,
			"-registry="+n.dirs.registry, "-plugin="+filepath.Dir(helper.socket), "-cdi="+n.dirs.cdi, "-devices="+list)
	}
	n.drivers = []*measured{ours, helper}
	n.table = &table{drivers: n.drivers, cells: map[string]map[*measured][]float64{}}
	n.startKubelet()
	// Both publish the same devices.
	complete := n.slices.await(ours.name, func(of []*resourceapi.ResourceSlice) bool { return len(untainted(of)) == count })
	n.start(ours)
	n.at(complete, "the driver publishes")
	devices := []resourceapi.Device{}
	for _, slice := range n.slices.of(ours.name) {
		devices = append(devices, slice.Spec.Devices...)
	}
	for _, device := range devices {
		n.devices = append(n.devices, device.Name)
	}
	content, err := json.Marshal(devices)
	must(t, err)
	must(t, os.WriteFile(list, content, 0o600))
	n.start(helper)
	ours.pods, ours.uids = n.podsOf(ours, "o")
	helper.pods, helper.uids = n.podsOf(helper, "h")
	return n
}

// driver returns a driver with a kubeconfig of its own.
func (n *numbers) driver(label, name, token, user string) *measured {
	d := &measured{label: label, name: name, user: user, kubeconfig: filepath.Join(n.dirs.root, token+".kubeconfig"),
		socket: filepath.Join(n.dirs.root, "plugins", name, "dra.sock")}
	file, err := clientcmd.LoadFromFile(n.apiServer.kubeconfig)
	must(n.t, err)
	file.AuthInfos["u"].Token = token
	must(n.t, clientcmd.WriteToFile(*file, d.kubeconfig))
	d.client = clientOf(n.t, d.kubeconfig, token)
	return d
}

// clientOf returns a client without a limit for requests and without a timeout, which would end watches.
func clientOf(t *testing.T, kubeconfig, token string) *kubernetes.Clientset {
	t.Helper()
	config, err := clientcmd.BuildConfigFromFlags("", kubeconfig)
	must(t, err)
	config.BearerToken, config.QPS = token, -1
	client, err := kubernetes.NewForConfig(config)
	must(t, err)
	return client
}

func (n *numbers) start(d *measured) {
	n.t.Helper()
	d.process = start(n.t, "driver", d.command())
	n.connectTo(d)
}

// stop ends a driver, and leaves nothing of it behind in the kubelet and in the API server.
func (n *numbers) stop(d *measured) {
	n.t.Helper()
	n.disconnectFrom(d)
	began := time.Now()
	d.process.end(n.t)
	eventually(n.t, "the kubelet has forgotten "+d.name, func() error { return n.registrations.since("-"+d.name, began) })
	eventually(n.t, "the slices of "+d.name+" are deleted", func() error {
		err := n.admin.ResourceV1().ResourceSlices().DeleteCollection(context.Background(), metav1.DeleteOptions{},
			metav1.ListOptions{FieldSelector: "spec.driver=" + d.name})
		if err == nil {
			err = n.slices.check(d.name, isEmpty)
		}
		return err
	})
}

func (n *numbers) connectTo(d *measured) {
	var err error
	d.connection, err = grpc.NewClient("unix:"+d.socket, grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithAuthority("localhost"))
	must(n.t, err)
	d.calls = drapb.NewDRAPluginClient(d.connection)
}

// disconnect closes the connections to both drivers: the kubelet's must be the only one.
func (n *numbers) disconnect() {
	for _, d := range n.drivers {
		n.disconnectFrom(d)
	}
}

func (n *numbers) disconnectFrom(d *measured) {
	must(n.t, d.connection.Close())
}

// connect makes them again. They connect with the next call.
func (n *numbers) connect() {
	for _, d := range n.drivers {
		n.connectTo(d)
	}
}

func (n *numbers) startKubelet() {
	n.kubelet = startKubeletWith(n.t, n.admin, n.name, n.dirs, func(handler cache.PluginHandler) cache.PluginHandler {
		n.registrations.PluginHandler = handler
		return n.registrations
	})
}

// published returns whether the slices have all devices.
func (n *numbers) published(of []*resourceapi.ResourceSlice) bool {
	return len(untainted(of)) == len(n.devices)
}

// publishedAgain returns whether all devices are in other slices than now.
func (n *numbers) publishedAgain(d *measured) func([]*resourceapi.ResourceSlice) bool {
	before := map[string]bool{}
	for _, slice := range n.slices.of(d.name) {
		before[string(slice.UID)] = true
	}
	return func(of []*resourceapi.ResourceSlice) bool {
		for _, slice := range of {
			if before[string(slice.UID)] {
				return false
			}
		}
		return n.published(of)
	}
}

func isEmpty(of []*resourceapi.ResourceSlice) bool { return len(of) == 0 }

func isTainted(device string, has bool) func([]*resourceapi.ResourceSlice) bool {
	return func(of []*resourceapi.ResourceSlice) bool {
		for _, slice := range of {
			for _, listed := range slice.Spec.Devices {
				if listed.Name == device {
					return (len(listed.Taints) > 0) == has
				}
			}
		}
		return false
	}
}

func hasNoTaints(of []*resourceapi.ResourceSlice) bool {
	for _, slice := range of {
		for _, device := range slice.Spec.Devices {
			if len(device.Taints) > 0 {
				return false
			}
		}
	}
	return true
}

// at waits for the time at which something happens.
func (n *numbers) at(happens chan time.Time, what string) time.Time {
	n.t.Helper()
	select {
	case at := <-happens:
		return at
	case <-time.After(patience):
		n.t.Fatalf("%s: not within %v", what, patience)
		return time.Time{}
	}
}

// memory returns the resident memory of a driver in MB.
func (n *numbers) memory(d *measured) float64 {
	n.t.Helper()
	content, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", d.process.Process.Pid))
	must(n.t, err)
	_, after, _ := strings.Cut(string(content), "VmRSS:")
	kilobytes, err := strconv.ParseFloat(strings.Fields(after)[0], 64)
	must(n.t, err)
	return kilobytes * 1024 / 1e6
}

// cpu returns the CPU time of a driver's threads so far in milliseconds.
func (n *numbers) cpu(d *measured) float64 {
	n.t.Helper()
	paths, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", d.process.Process.Pid))
	must(n.t, err)
	sum := 0.0
	for _, path := range paths {
		// A thread may have ended.
		if content, err := os.ReadFile(path); err == nil {
			nanoseconds, err := strconv.ParseFloat(strings.Fields(string(content))[0], 64)
			must(n.t, err)
			sum += nanoseconds / 1e6
		}
	}
	return sum
}

// connections returns how many TCP connections a driver has. It has them only to the API server.
func (n *numbers) connections(d *measured) int {
	n.t.Helper()
	_, port, _ := strings.Cut(hostOf(n.t, n.apiServer), ":")
	number, err := strconv.Atoi(port)
	must(n.t, err)
	content, err := os.ReadFile("/proc/net/tcp")
	must(n.t, err)
	established := map[string]bool{}
	for line := range strings.Lines(string(content)) {
		// The fields are: number, local address, remote address, state, ..., inode. The state 01 is an established connection.
		fields := strings.Fields(line)
		if len(fields) > 9 && strings.HasSuffix(fields[2], fmt.Sprintf(":%04X", number)) && fields[3] == "01" {
			established["socket:["+fields[9]+"]"] = true
		}
	}
	directory := fmt.Sprintf("/proc/%d/fd", d.process.Process.Pid)
	descriptors, err := os.ReadDir(directory)
	must(n.t, err)
	count := 0
	for _, descriptor := range descriptors {
		if target, err := os.Readlink(filepath.Join(directory, descriptor.Name())); err == nil && established[target] {
			count++
		}
	}
	return count
}

// replaceFile writes a file on the disk of the driver's directory as the driver and the kubelet write their records.
func (n *numbers) replaceFile() {
	path := filepath.Join(n.dirs.plugins, "file")
	file, err := os.Create(path + ".new")
	must(n.t, err)
	_, err = file.Write(make([]byte, 1024))
	must(n.t, err)
	must(n.t, file.Sync())
	must(n.t, file.Close())
	must(n.t, os.Rename(path+".new", path))
	directory, err := os.Open(n.dirs.plugins)
	must(n.t, err)
	must(n.t, directory.Sync())
	must(n.t, directory.Close())
}

// registrations records when the kubelet begins to register a plugin, and with a `-` before the name when it has removed one.
type registrations struct {
	cache.PluginHandler
	mu sync.Mutex
	at map[string]time.Time
}

func (r *registrations) RegisterPlugin(ctx context.Context, name, endpoint string, versions []string, timeout *time.Duration) error {
	r.record(name)
	return r.PluginHandler.RegisterPlugin(ctx, name, endpoint, versions, timeout)
}

func (r *registrations) DeRegisterPlugin(ctx context.Context, name, endpoint string) {
	r.PluginHandler.DeRegisterPlugin(ctx, name, endpoint)
	r.record("-" + name)
}

func (r *registrations) record(name string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.at[name] = time.Now()
}

func (r *registrations) of(name string) time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.at[name]
}

// since returns an error if nothing was recorded since then.
func (r *registrations) since(name string, began time.Time) error {
	if !r.of(name).After(began) {
		return errors.New("not since " + began.String())
	}
	return nil
}
