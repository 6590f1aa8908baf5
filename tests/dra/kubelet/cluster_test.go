package kubelet

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourceapi "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
)

// schedulerConfig has the scheduler try a pod again after a second: a random step waits for that.
const schedulerConfig = `apiVersion: kubescheduler.config.k8s.io/v1
kind: KubeSchedulerConfiguration
clientConnection: {kubeconfig: %s, qps: 1000, burst: 1000}
leaderElection: {leaderElect: false}
podInitialBackoffSeconds: 1
podMaxBackoffSeconds: 1
`

// startControllers starts the scheduler and the controllers that work with claims: the claim controller, the evictor of devices
// with the taint NoExecute, and the garbage collector, which deletes the claims of deleted pods.
func startControllers(t *testing.T, s *apiServer, directory string) {
	t.Helper()
	// The controllers give up if it takes the API server long to create its roles.
	eventually(t, "the API server is ready", func() error {
		return s.admin.RESTClient().Get().AbsPath("/readyz").Do(context.Background()).Error()
	})
	kubeconfig := filepath.Join(directory, "controllers")
	file, err := clientcmd.LoadFromFile(s.kubeconfig)
	must(t, err)
	file.AuthInfos["u"].Token = "admin"
	must(t, clientcmd.WriteToFile(*file, kubeconfig))
	config := filepath.Join(directory, "scheduler.yaml")
	must(t, os.WriteFile(config, fmt.Appendf(nil, schedulerConfig, kubeconfig), 0o600))
	start(t, "kube-scheduler", exec.Command(program(t, "VFIO_TEST_SCHEDULER"), "--config="+config, "--secure-port=0"))
	start(t, "kube-controller-manager", exec.Command(program(t, "VFIO_TEST_CONTROLLER_MANAGER"), "--kubeconfig="+kubeconfig,
		"--leader-elect=false", "--secure-port=0", "--kube-api-qps=1000", "--kube-api-burst=1000",
		"--controllers=resourceclaim-controller,device-taint-eviction-controller,garbage-collector-controller"))
}

// createClasses creates the class of the devices and the templates of claims for one device and for two.
func createClasses(t *testing.T, s *apiServer) {
	t.Helper()
	ctx := context.Background()
	selector := resourceapi.DeviceSelector{CEL: &resourceapi.CELDeviceSelector{Expression: `device.driver == "` + driverName + `"`}}
	class := &resourceapi.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "vfio"},
		Spec: resourceapi.DeviceClassSpec{Selectors: []resourceapi.DeviceSelector{selector}}}
	must(t, second(s.admin.ResourceV1().DeviceClasses().Create(ctx, class, metav1.CreateOptions{})))
	for name, count := range map[string]int64{"one": 1, "two": 2} {
		exactly := &resourceapi.ExactDeviceRequest{DeviceClassName: "vfio", AllocationMode: resourceapi.DeviceAllocationModeExactCount, Count: count}
		request := resourceapi.DeviceRequest{Name: "gpu", Exactly: exactly}
		template := &resourceapi.ResourceClaimTemplate{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: resourceapi.ResourceClaimTemplateSpec{
			Spec: resourceapi.ResourceClaimSpec{Devices: resourceapi.DeviceClaim{Requests: []resourceapi.DeviceRequest{request}}}}}
		must(t, second(s.admin.ResourceV1().ResourceClaimTemplates("default").Create(ctx, template, metav1.CreateOptions{})))
	}
}

// createNode creates a node that the scheduler can use.
func createNode(t *testing.T, s *apiServer, name string) {
	t.Helper()
	ctx, nodes := context.Background(), s.admin.CoreV1().Nodes()
	node, err := nodes.Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelHostname: name}}},
		metav1.CreateOptions{})
	must(t, err)
	// Admission taints a new node as not ready.
	node.Spec.Taints = nil
	node, err = nodes.Update(ctx, node, metav1.UpdateOptions{})
	must(t, err)
	node.Status.Allocatable = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("64"), corev1.ResourceMemory: resource.MustParse("64Gi"),
		corev1.ResourcePods: resource.MustParse("110")}
	node.Status.Capacity = node.Status.Allocatable
	node.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}
	must(t, second(nodes.UpdateStatus(ctx, node, metav1.UpdateOptions{})))
}

// proxy is the way from one node to the API server. It can be interrupted, so that the API server seems away from this node.
type proxy struct {
	address string
	target  string
	mu      sync.Mutex
	// gate is closed while data passes.
	gate    chan struct{}
	refuses bool
	open    map[net.Conn]bool
}

func startProxy(t *testing.T, target string) *proxy {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	must(t, err)
	p := &proxy{address: listener.Addr().String(), target: target, gate: make(chan struct{}), open: map[net.Conn]bool{}}
	close(p.gate)
	go func() {
		for {
			connection, err := listener.Accept()
			if err != nil {
				return
			}
			go p.serve(connection)
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		p.interrupt(true)
		p.resume()
	})
	return p
}

func (p *proxy) serve(client net.Conn) {
	server, err := net.Dial("tcp", p.target)
	p.mu.Lock()
	if err != nil || p.refuses {
		p.mu.Unlock()
		_ = client.Close()
		if err == nil {
			_ = server.Close()
		}
		return
	}
	p.open[client], p.open[server] = true, true
	p.mu.Unlock()
	go p.copy(server, client)
	p.copy(client, server)
}

// copy copies until either end closes. What was sent before an interruption that only delays arrives after it, also if the sender
// has gone meanwhile.
func (p *proxy) copy(to, from net.Conn) {
	defer func() {
		p.mu.Lock()
		delete(p.open, from)
		p.mu.Unlock()
		_ = to.Close()
	}()
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		p.mu.Lock()
		gate := p.gate
		p.mu.Unlock()
		<-gate
		if n > 0 {
			if _, failed := to.Write(buffer[:n]); failed != nil {
				return
			}
		}
		if err != nil {
			return
		}
	}
}

// interrupt delays all data, or closes all connections and refuses new ones.
func (p *proxy) interrupt(refuse bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.gate:
		p.gate = make(chan struct{})
	default:
	}
	p.refuses = refuse
	if refuse {
		for connection := range p.open {
			_ = connection.Close()
		}
	}
}

func (p *proxy) resume() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.refuses = false
	select {
	case <-p.gate:
	default:
		close(p.gate)
	}
}

// through returns a client and a kubeconfig that reach the API server by the proxy.
func (p *proxy) through(t *testing.T, s *apiServer, directory string) (*kubernetes.Clientset, string) {
	t.Helper()
	file, err := clientcmd.LoadFromFile(s.kubeconfig)
	must(t, err)
	cluster := file.Clusters["c"]
	cluster.Server = "https://" + p.address
	path := filepath.Join(directory, "kubeconfig")
	must(t, clientcmd.WriteToFile(*file, path))
	client, err := kubernetes.NewForConfig(&rest.Config{Host: cluster.Server, BearerToken: "admin", QPS: 1000, Burst: 1000, Timeout: 10 * time.Second,
		TLSClientConfig: rest.TLSClientConfig{CAFile: cluster.CertificateAuthority}})
	must(t, err)
	return client, path
}

// hostOf returns the address of the API server.
func hostOf(t *testing.T, s *apiServer) string {
	t.Helper()
	file, err := clientcmd.LoadFromFile(s.kubeconfig)
	must(t, err)
	return strings.TrimPrefix(file.Clusters["c"].Server, "https://")
}
