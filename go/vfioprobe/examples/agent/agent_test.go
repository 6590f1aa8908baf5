package main

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	vfioprobe "github.com/vfio-probe/vfio-probe/go/vfioprobe"
	"github.com/vfio-probe/vfio-probe/go/vfioprobe/internal/simnode"
)

// TestMain runs the agent if a test started this program as the agent.
func TestMain(m *testing.M) {
	if os.Getenv("VFIO_PROBE_TEST_AS_AGENT") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// agent is a running agent process.
type agent struct {
	tb    testing.TB
	child *exec.Cmd
	url   string
}

func start(tb testing.TB, arguments ...string) agent {
	tb.Helper()
	child := exec.Command(os.Args[0], append([]string{"-listen", "127.0.0.1:0"}, arguments...)...)
	// go/test sets it to the static program.
	if program := os.Getenv("VFIO_PROBE_AGENT"); program != "" {
		child.Path = program
	}
	child.Env = append(os.Environ(), "VFIO_PROBE_TEST_AS_AGENT=1")
	log, err := child.StderrPipe()
	if err != nil {
		tb.Fatal(err)
	}
	if err := child.Start(); err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		child.Process.Kill()
		child.Wait()
	})
	lines := bufio.NewScanner(log)
	for lines.Scan() {
		if _, address, ok := strings.Cut(lines.Text(), "listening on "); ok {
			go io.Copy(io.Discard, log)
			return agent{tb, child, "http://" + address}
		}
	}
	tb.Fatal("the agent ended")
	return agent{}
}

func (a agent) get(path string) (int, string) {
	a.tb.Helper()
	response, err := http.Get(a.url + path)
	if err != nil {
		a.tb.Fatal(err)
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	if err != nil {
		a.tb.Fatal(err)
	}
	return response.StatusCode, string(body)
}

// eventually waits until the metrics contain all lines and no line that starts with one of none.
func (a agent) eventually(lines []string, none ...string) string {
	a.tb.Helper()
	var body string
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		_, body = a.get("/metrics")
		matches := true
		for _, line := range lines {
			matches = matches && strings.Contains("\n"+body, "\n"+line+"\n")
		}
		for _, line := range none {
			matches = matches && !strings.Contains("\n"+body, "\n"+line)
		}
		if matches {
			return body
		}
	}
	a.tb.Fatalf("not all of %q, or some of %q, in\n%s", lines, none, body)
	return ""
}

// becomes waits until /healthz has this status.
func (a agent) becomes(status int) {
	a.tb.Helper()
	var last int
	for end := time.Now().Add(30 * time.Second); time.Now().Before(end); time.Sleep(10 * time.Millisecond) {
		if last, _ = a.get("/healthz"); last == status {
			return
		}
	}
	a.tb.Fatalf("/healthz has the status %d, not %d", last, status)
}

// terminate sends SIGTERM and waits until the agent has ended with status 0.
func (a agent) terminate() {
	a.tb.Helper()
	if err := a.child.Process.Signal(syscall.SIGTERM); err != nil {
		a.tb.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- a.child.Wait() }()
	select {
	case err := <-ended:
		if err != nil {
			a.tb.Error(err)
		}
	case <-time.After(60 * time.Second):
		a.child.Process.Kill()
		a.tb.Fatal("the agent does not end")
	}
}

func TestMetricsFollowTheNode(t *testing.T) {
	node := simnode.New(t, "--eight-gpus")
	agent := start(t, "-root", node.Root, "-interval", "20ms")
	body := agent.eventually([]string{
		`vfio_group_state{group="51",state="free"} 1`,
		`vfio_group_state{group="51",state="held"} 0`,
		`vfio_group_viable{group="51"} 1`,
		`vfio_watch_events_total{kind="bound"} 8`,
		// Each group is found free.
		`vfio_watch_events_total{kind="freed"} 8`,
		`vfio_watch_failures_total 0`,
		`vfio_device_info{device="0000:df:00.0",device_id="2330",driver="vfio-pci",group="58",kind="pci",` +
			`model="GH100 [H100 SXM5 80GB]",numa_node="1",vendor_id="10de"} 1`,
		`vfio_device_state{device="0000:1b:00.0",state="free"} 1`,
		`vfio_device_state{device="0000:1b:00.0",state="held"} 0`,
		`vfio_device_state{device="0000:1b:00.0",state="absent"} 0`,
		`vfio_device_state{device="0000:1b:00.0",state="unknown"} 0`,
		fmt.Sprintf(`vfio_build_info{version="%s"} 1`, vfioprobe.Version()),
	}, "vfio_group_holder_info", "vfio_device_unreadable")
	for _, name := range []string{"vfio_build_info", "vfio_group_state", "vfio_group_viable", "vfio_device_info", "vfio_device_state"} {
		if !strings.Contains(body, "# HELP "+name+" ") || !strings.Contains(body, "# TYPE "+name+" gauge\n") {
			t.Errorf("no HELP or TYPE of %s", name)
		}
	}
	if !strings.Contains(body, "# TYPE vfio_watch_failures_total counter\n") {
		t.Error("no counter")
	}

	container := strings.Repeat("c0", 32)
	pid := node.StartVM(simnode.VM{
		Addresses: []string{simnode.FirstGPU}, PodUID: "0d9a1c7e-5b0a-4a57-9d3a-0123456789ab", ContainerID: container,
	})
	agent.eventually([]string{
		`vfio_group_state{group="51",state="free"} 0`,
		`vfio_group_state{group="51",state="held"} 1`,
		`vfio_device_state{device="0000:1b:00.0",state="free"} 0`,
		`vfio_device_state{device="0000:1b:00.0",state="held"} 1`,
		`vfio_group_uncovered_processes{group="51"} 0`,
		fmt.Sprintf(`vfio_group_holder_info{command="qemu-system-x86",container_id="%s",group="51",`+
			`pid="%d",pod_uid="0d9a1c7e-5b0a-4a57-9d3a-0123456789ab",via="group"} 1`, container, pid),
	})
	node.KillVM(pid)
	agent.eventually([]string{
		`vfio_group_state{group="51",state="free"} 1`,
		`vfio_group_state{group="51",state="held"} 0`,
		`vfio_watch_events_total{kind="freed"} 9`,
	}, "vfio_group_holder_info", "vfio_group_uncovered_processes")

	node.Unbind(simnode.SecondGPU)
	agent.eventually(nil, `vfio_group_state{group="52"`, `vfio_device_info{device="0000:3d:00.0"`,
		`vfio_device_state{device="0000:3d:00.0"`)
	if opens := node.Opens(53); opens != 0 {
		t.Errorf("%d opens", opens)
	}
}

func TestUnreadableDeviceIsCounted(t *testing.T) {
	node := simnode.New(t, "--eight-gpus")
	node.Write("sys/bus/pci/devices/0000:4e:00.0/uevent", "nonsense\n")
	// Two entries that name no device have the same labels.
	node.Link("sys/class/vfio-dev/loop", "loop")
	node.Link("sys/class/vfio-dev/loop2", "loop2")
	agent := start(t, "-root", node.Root, "-interval", "20ms")
	agent.eventually([]string{
		`vfio_device_unreadable{device="0000:4e:00.0",kind="malformed"} 1`,
		`vfio_device_unreadable{device="",kind="malformed"} 2`,
		`vfio_group_state{group="51",state="free"} 1`,
		`vfio_watch_failures_total 0`,
	}, `vfio_device_info{device="0000:4e:00.0"`)
}

func TestFailedPassMakesAgentUnhealthy(t *testing.T) {
	node := simnode.New(t, "--eight-gpus")
	agent := start(t, "-root", node.Root, "-interval", "10ms")
	if status, body := agent.get("/healthz"); status != http.StatusOK || body != "ok\n" {
		t.Errorf("%d %q", status, body)
	}
	if status, _ := agent.get("/missing"); status != http.StatusNotFound {
		t.Errorf("%d", status)
	}
	// A pass during the move would know a part of the devices.
	agent.eventually([]string{`vfio_watch_events_total{kind="ready"} 1`})
	sys, away := filepath.Join(node.Root, "sys"), filepath.Join(node.Root, "away")
	if err := os.Rename(sys, away); err != nil {
		t.Fatal(err)
	}
	agent.eventually(nil, "vfio_watch_failures_total 0")
	agent.becomes(http.StatusServiceUnavailable)
	// The watch keeps its state.
	agent.eventually([]string{`vfio_group_state{group="51",state="free"} 1`})
	if err := os.Rename(away, sys); err != nil {
		t.Fatal(err)
	}
	agent.becomes(http.StatusOK)
}

func TestSIGTERMExitsWithZero(t *testing.T) {
	node := simnode.New(t)
	agent := start(t, "-root", node.Root)
	agent.get("/healthz")
	agent.terminate()
}

func TestHangingRequestIsClosedOnExit(t *testing.T) {
	node := simnode.New(t)
	agent := start(t, "-root", node.Root)
	connection, err := net.Dial("tcp", strings.TrimPrefix(agent.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer connection.Close()
	// The server waits for a request body that is never sent.
	if _, err := io.WriteString(connection, "GET /healthz HTTP/1.1\r\nHost: agent\r\nContent-Length: 10\r\n\r\n"); err != nil {
		t.Fatal(err)
	}
	// The server accepts connections in their order, so it has that one when it responds to this.
	agent.get("/healthz")
	agent.terminate()
	if err := connection.SetReadDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	if _, err := io.Copy(io.Discard, connection); errors.Is(err, os.ErrDeadlineExceeded) {
		t.Error("the connection is still open")
	}
}

func TestBadFlagsExitWithUsage(t *testing.T) {
	for _, bad := range []struct {
		arguments []string
		code      int
		text      string
	}{
		{[]string{"-root", "/no/such"}, 1, "No such file or directory"},
		{[]string{"-listen", "nowhere"}, 1, "missing port"},
		{[]string{"-interval", "0"}, 2, "Usage"},
		{[]string{"-interval", "soon"}, 2, "invalid value"},
		{[]string{"stray"}, 2, "Usage"},
	} {
		child := exec.Command(os.Args[0], append([]string{"-root", t.TempDir()}, bad.arguments...)...)
		child.Env = append(os.Environ(), "VFIO_PROBE_TEST_AS_AGENT=1")
		out, err := child.CombinedOutput()
		if code := child.ProcessState.ExitCode(); err == nil || code != bad.code || !strings.Contains(string(out), bad.text) {
			t.Errorf("%q: %d %s", bad.arguments, code, out)
		}
	}
}
