package kubelet

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

const (
	nodeName   = "node-1"
	driverName = "vfio.example.com"
	// The users of the driver, and of the one that it is measured beside.
	account       = "system:serviceaccount:kube-system:vfio"
	helperAccount = "system:serviceaccount:kube-system:helper"
	// patience is the limit for everything that happens without a timeout of Kubernetes' own.
	patience = 180 * time.Second
)

// process is a program that ends with the test.
type process struct {
	*exec.Cmd
	done chan struct{}
	err  error
	// The path of the file with its output.
	log string
}

// start starts a program. Its output goes to a log, which is kept if the test fails. Then the end of the driver's is printed.
func start(t *testing.T, name string, command *exec.Cmd) *process {
	t.Helper()
	output := ""
	if command.Stderr == nil {
		path, log, err := createLog(t.Name() + "." + name)
		must(t, err)
		defer log.Close()
		command.Stderr, output = log, path
		t.Cleanup(func() {
			switch {
			case !t.Failed():
				_ = os.Remove(path)
			case name == "driver":
				t.Logf("the end of %s:\n%s", path, tailOf(path, 3000))
			}
		})
	}
	command.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := command.Start(); err != nil {
		t.Fatal(err)
	}
	p := &process{Cmd: command, done: make(chan struct{}), log: output}
	go func() {
		p.err = command.Wait()
		close(p.done)
	}()
	t.Cleanup(p.kill)
	return p
}

// kill kills the program, also one that is stopped.
func (p *process) kill() {
	_ = p.Process.Kill()
	<-p.done
}

// end sends SIGTERM and waits.
func (p *process) end(t *testing.T) {
	t.Helper()
	_ = p.Process.Signal(syscall.SIGTERM)
	select {
	case <-p.done:
	case <-time.After(patience):
		t.Fatal("the program ignores SIGTERM")
	}
	if p.err != nil {
		t.Fatalf("the program failed: %v", p.err)
	}
}

// program returns the path of a program that the runner has built.
func program(t *testing.T, variable string) string {
	t.Helper()
	path := os.Getenv(variable)
	if path == "" {
		t.Fatalf("%s is not set; run tests/dra/kubelet/run", variable)
	}
	return path
}

func freePort(t *testing.T) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	_, port, _ := net.SplitHostPort(listener.Addr().String())
	return port
}

// eventually waits until check succeeds.
func eventually(t *testing.T, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(patience)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v: %v", what, patience, err)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// apiServer is etcd and an API server with RBAC, on loopback.
type apiServer struct {
	server     *process
	admin      *kubernetes.Clientset
	kubeconfig string
}

// shared is the API server of all tests: its start takes seconds.
var shared *apiServer

// sharedAPIServer returns the API server without claims and slices.
func sharedAPIServer(t *testing.T) *apiServer {
	t.Helper()
	ctx, s := context.Background(), shared
	// A test may have stopped it.
	_ = s.server.Process.Signal(syscall.SIGCONT)
	eventually(t, "the API server is empty", func() error {
		err := s.admin.ResourceV1().ResourceSlices().DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{})
		if err == nil {
			err = s.admin.ResourceV1().ResourceClaims("default").DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{})
		}
		return err
	})
	return s
}

// startAPIServer starts both and creates the node, the driver's account and its rights.
func startAPIServer(t *testing.T, directory string) *apiServer {
	t.Helper()
	client, peer, port := freePort(t), freePort(t), freePort(t)
	etcd := "http://127.0.0.1:" + client
	start(t, "etcd", exec.Command(program(t, "VFIO_TEST_ETCD"), "--data-dir="+filepath.Join(directory, "etcd"),
		"--listen-client-urls="+etcd, "--advertise-client-urls="+etcd, "--listen-peer-urls=http://127.0.0.1:"+peer,
		"--unsafe-no-fsync", "--log-level=error"))
	keys := filepath.Join(directory, "key.pem")
	if err := os.WriteFile(keys, newKey(t), 0o600); err != nil {
		t.Fatal(err)
	}
	tokens := filepath.Join(directory, "tokens")
	if err := os.WriteFile(tokens, []byte("admin,admin,1,system:masters\ndriver,"+account+",2\nstranger,stranger,3\nhelper,"+helperAccount+",4\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	arguments := append([]string{"--etcd-servers=" + etcd,
		"--bind-address=127.0.0.1", "--secure-port=" + port, "--cert-dir=" + filepath.Join(directory, "certificates"),
		"--token-auth-file=" + tokens, "--authorization-mode=RBAC", "--service-cluster-ip-range=10.0.0.0/24",
		"--service-account-issuer=https://kubernetes.default.svc", "--service-account-key-file=" + keys,
		"--service-account-signing-key-file=" + keys, "--disable-admission-plugins=ServiceAccount"}, serverFlags...)
	server := start(t, "kube-apiserver", exec.Command(program(t, "VFIO_TEST_APISERVER"), arguments...))
	s := &apiServer{server: server, kubeconfig: filepath.Join(directory, "kubeconfig")}
	// The server has written its certificate when it listens. Another program may have the port.
	certificate := filepath.Join(directory, "certificates", "apiserver.crt")
	eventually(t, "the API server listens", func() error {
		select {
		case <-server.done:
			t.Fatalf("the API server ended: %v", server.err)
		default:
		}
		connection, err := net.Dial("tcp", "127.0.0.1:"+port)
		if err == nil {
			_ = connection.Close()
			_, err = os.Stat(certificate)
		}
		return err
	})
	config := func(token string) *rest.Config {
		return &rest.Config{Host: "https://127.0.0.1:" + port, BearerToken: token, QPS: 1000, Burst: 1000, Timeout: 10 * time.Second,
			TLSClientConfig: rest.TLSClientConfig{CAFile: certificate}}
	}
	var err error
	s.admin, err = kubernetes.NewForConfig(config("admin"))
	must(t, err)
	eventually(t, "the API server starts", func() error {
		return second(s.admin.CoreV1().Namespaces().Get(context.Background(), "default", metav1.GetOptions{}))
	})
	ctx := context.Background()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: nodeName}}
	must(t, second(s.admin.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{})))
	role := &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "vfio"}, Rules: []rbacv1.PolicyRule{
		{APIGroups: []string{"resource.k8s.io"}, Resources: []string{"resourceslices"},
			Verbs: []string{"get", "list", "watch", "create", "update", "delete"}},
		{APIGroups: []string{"resource.k8s.io"}, Resources: []string{"resourceclaims"}, Verbs: []string{"get"}},
		{APIGroups: []string{""}, Resources: []string{"nodes"}, Verbs: []string{"get"}},
		{APIGroups: []string{""}, Resources: []string{"events"}, Verbs: []string{"create"}},
	}}
	must(t, second(s.admin.RbacV1().ClusterRoles().Create(ctx, role, metav1.CreateOptions{})))
	binding := &rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "vfio"},
		RoleRef: rbacv1.RoleRef{APIGroup: "rbac.authorization.k8s.io", Kind: "ClusterRole", Name: "vfio"},
		Subjects: []rbacv1.Subject{{Kind: "User", Name: account, APIGroup: "rbac.authorization.k8s.io"},
			{Kind: "User", Name: helperAccount, APIGroup: "rbac.authorization.k8s.io"}}}
	must(t, second(s.admin.RbacV1().ClusterRoleBindings().Create(ctx, binding, metav1.CreateOptions{})))
	of := config("driver")
	file := clientcmdapi.NewConfig()
	file.Clusters["c"] = &clientcmdapi.Cluster{Server: of.Host, CertificateAuthority: of.CAFile}
	file.AuthInfos["u"] = &clientcmdapi.AuthInfo{Token: of.BearerToken}
	file.Contexts["x"] = &clientcmdapi.Context{Cluster: "c", AuthInfo: "u"}
	file.CurrentContext = "x"
	must(t, clientcmd.WriteToFile(*file, s.kubeconfig))
	return s
}

func second[T any](_ T, err error) error { return err }

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// simNode is a simulated node with eight GPUs in the groups 51 to 58.
type simNode struct {
	root    string
	orders  *json.Encoder
	replies *bufio.Scanner
}

func startNode(t *testing.T) *simNode {
	t.Helper()
	command := exec.Command(program(t, "VFIO_TEST_SIM_NODE"), "serve", "--eight-gpus")
	in, err := command.StdinPipe()
	must(t, err)
	out, err := command.StdoutPipe()
	must(t, err)
	start(t, "node", command)
	n := &simNode{orders: json.NewEncoder(in), replies: bufio.NewScanner(out)}
	t.Cleanup(func() { _ = in.Close() })
	var first struct{ Root string }
	n.reply(t, &first)
	n.root = first.Root
	return n
}

func (n *simNode) reply(t *testing.T, reply any) {
	t.Helper()
	if !n.replies.Scan() {
		t.Fatalf("the node has ended: %v", n.replies.Err())
	}
	var failure struct{ Error string }
	must(t, json.Unmarshal(n.replies.Bytes(), &failure))
	if failure.Error != "" {
		t.Fatal(failure.Error)
	}
	must(t, json.Unmarshal(n.replies.Bytes(), reply))
}

func (n *simNode) order(t *testing.T, name string, fields map[string]any, reply any) {
	t.Helper()
	must(t, n.orders.Encode(map[string]any{name: fields}))
	n.reply(t, reply)
}

// startVM starts a process that holds the group of a device. Without a pod it is a process of the host.
func (n *simNode) startVM(t *testing.T, address, podUID string) int {
	t.Helper()
	fields := map[string]any{"addresses": []string{address}}
	if podUID != "" {
		fields["pod_uid"] = podUID
	}
	var vm struct{ PID int }
	n.order(t, "start_vm", fields, &vm)
	return vm.PID
}

func (n *simNode) killVM(t *testing.T, pid int) {
	t.Helper()
	n.order(t, "kill_vm", map[string]any{"pid": pid}, &struct{}{})
}

// opens returns how often a process other than a VM has opened a group.
func (n *simNode) opens(t *testing.T, group int) int {
	t.Helper()
	var reply struct{ Opens int }
	n.order(t, "opens", map[string]any{"group": group}, &reply)
	return reply.Opens
}

func (n *simNode) write(t *testing.T, path, content string) {
	t.Helper()
	n.order(t, "write", map[string]any{"path": path, "content": content}, &struct{}{})
}

// directories are those that the kubelet, the driver and the container runtime share.
type directories struct{ root, registry, plugins, cdi, kubelet, run string }

func newDirectories(t *testing.T) directories {
	t.Helper()
	// The path of a socket has at most 108 bytes.
	root, err := os.MkdirTemp("", "dra-")
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	d := directories{root: root, registry: filepath.Join(root, "plugins_registry"), plugins: filepath.Join(root, "plugins", driverName),
		cdi: filepath.Join(root, "cdi"), kubelet: filepath.Join(root, "kubelet"), run: filepath.Join(root, "run")}
	for _, path := range []string{d.registry, d.kubelet, d.run} {
		must(t, os.MkdirAll(path, 0o755))
	}
	return d
}

// startDriver starts the driver without CAP_SYS_ADMIN, with which it would not get EBUSY of the simulated groups.
func startDriver(t *testing.T, s *apiServer, n *simNode, d directories, options ...string) *process {
	t.Helper()
	arguments := []string{"exec", program(t, "VFIO_TEST_PLUGIN"), "serve", "--offer=dra", "--dra-driver=" + driverName,
		"--node=" + nodeName, "--kubeconfig=" + s.kubeconfig, "--root=" + n.root, "--kubelet-root=" + d.root,
		"--kubelet-dir=" + d.kubelet, "--cdi-dir=" + d.cdi, "--run-dir=" + d.run, "--pci-ids=/dev/null",
		"--interval=200ms", "--log-level=debug"}
	if !slices.ContainsFunc(options, func(option string) bool { return strings.HasPrefix(option, "--settling") }) {
		arguments = append(arguments, "--settling=500ms")
	}
	return start(t, "driver", exec.Command(program(t, "VFIO_TEST_SIM_NODE"), append(arguments, options...)...))
}

// run executes a program and returns its output.
func run(command *exec.Cmd) (string, error) {
	var output bytes.Buffer
	command.Stdout, command.Stderr = &output, &output
	err := command.Run()
	return strings.TrimSpace(output.String()), err
}

var errNotYet = errors.New("not yet")

func notYet(format string, arguments ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{errNotYet}, arguments...)...)
}
