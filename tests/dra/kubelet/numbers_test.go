//go:build !older

package kubelet

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"math"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	drapb "k8s.io/kubelet/pkg/apis/dra/v1"
)

var (
	numbersSizes = flag.String("sizes", "8,256", "numbers of devices of the nodes of TestNumbers")
	numbersIdle  = flag.Duration("idle", 10*time.Minute, "how long TestNumbers leaves both drivers alone, on the first node")
)

const (
	// rounds is how often each figure is taken.
	rounds = 2
	// The takes are the samples of a round.
	startTakes   = 5
	restartTakes = 2
	holdTakes    = 5
	callTakes    = 200
	// stormTime is how long processes take and leave devices, each for stormHold.
	stormTime = 40 * time.Second
	stormHold = 4 * time.Second
	// quiet is longer than the library waits after an event of its slices before it checks them.
	quiet = 31 * time.Second
)

// TestNumbers measures the driver beside a minimal one on the Go helper library. Both run on one node with one kubelet and one API
// server, and take turns.
func TestNumbers(t *testing.T) {
	audit := newAuditLog(t)
	serverFlags = append(slices.Clone(serverFlags), audit.flags...)
	server := startAPIServer(t, t.TempDir())
	printMachine(t)
	for index, size := range strings.Split(*numbersSizes, ",") {
		count, err := strconv.Atoi(size)
		must(t, err)
		// The drivers of a node end with its test.
		t.Run(size, func(t *testing.T) {
			n := newNumbers(t, server, audit, count)
			for range rounds {
				n.measureStarts()
				n.measureCalls()
				n.measureRestarts()
				n.measureHolds()
				n.measureStorm()
			}
			if index == 0 {
				n.measureIdle(*numbersIdle)
			}
			n.table.print(fmt.Sprintf("%d devices", count))
			// The slices of this node would count as those of the next one.
			for _, d := range n.drivers {
				n.stop(d)
			}
		})
	}
}

// printMachine prints the versions, the programs and the state of the host.
func printMachine(t *testing.T) {
	t.Helper()
	release, err := os.ReadFile("/proc/sys/kernel/osrelease")
	must(t, err)
	load, err := os.ReadFile("/proc/loadavg")
	must(t, err)
	fmt.Printf("Linux %s, %d CPUs, load %s, %s\n", strings.TrimSpace(string(release)), runtime.NumCPU(),
		strings.Join(strings.Fields(string(load))[:3], " "), runtime.Version())
	for _, variable := range []string{"VFIO_TEST_PLUGIN", "VFIO_TEST_HELPER"} {
		file, err := os.Stat(program(t, variable))
		must(t, err)
		fmt.Printf("%s: %d bytes\n", file.Name(), file.Size())
	}
}

// measureStarts starts each driver without stored slices, beside a kubelet that runs.
func (n *numbers) measureStarts() {
	stored, registered := samples{}, samples{}
	for take := range startTakes {
		for _, d := range n.drivers {
			n.stop(d)
			began := time.Now()
			complete := n.slices.await(d.name, n.published)
			n.start(d)
			at := n.at(complete, d.label+" publishes")
			stored.add(d, at.Sub(began))
			eventually(n.t, d.label+" is registered", func() error { return n.registrations.since(d.name, began) })
			registered.add(d, n.registrations.of(d.name).Sub(began))
			if take == 0 {
				time.Sleep(3 * time.Second)
				n.table.add("memory after the start (VmRSS), MB", d, n.memory(d))
			}
		}
	}
	for _, d := range n.drivers {
		n.table.add("start of the driver to its registration, median, ms", d, registered.quantile(d, 0.5))
		n.table.add("start of the driver to stored slices, median, ms", d, stored.quantile(d, 0.5))
		n.table.add("start of the driver to stored slices, worst, ms", d, stored.quantile(d, 1))
	}
}

// measureCalls prepares and unprepares claims of free devices: by the driver's socket, and by the kubelet's manager.
func (n *numbers) measureCalls() {
	ctx := context.Background()
	gets, disk, prepares, unprepares, managed, ended := samples{}, samples{}, samples{}, samples{}, samples{}, samples{}
	before := map[*measured]float64{}
	for _, d := range n.drivers {
		before[d] = n.cpu(d)
	}
	for call := range callTakes {
		for index := range n.drivers {
			d := n.drivers[(call+index)%len(n.drivers)]
			pod := d.pods[call%len(d.pods)]
			claim := claimOfCall(pod.Name, d.uids[pod.Name])
			gets.take(d, func() {
				must(n.t, second(d.client.ResourceV1().ResourceClaims("default").Get(ctx, pod.Name, metav1.GetOptions{})))
			})
			disk.take(d, n.replaceFile)
			prepares.take(d, func() { n.repeat(d, func() error { return prepareByCall(d, claim) }) })
			unprepares.take(d, func() { n.repeat(d, func() error { return unprepareByCall(d, claim) }) })
		}
	}
	for _, d := range n.drivers {
		n.table.add("CPU time of the driver for Prepare and Unprepare, ms", d, (n.cpu(d)-before[d])/callTakes)
	}
	for call := range callTakes {
		for index := range n.drivers {
			d := n.drivers[(call+index)%len(n.drivers)]
			pod := d.pods[call%len(d.pods)]
			managed.take(d, func() { n.repeat(d, func() error { return n.kubelet.PrepareResources(ctx, pod) }) })
			ended.take(d, func() { n.repeat(d, func() error { return n.kubelet.UnprepareResources(ctx, pod) }) })
		}
	}
	for _, d := range n.drivers {
		for _, row := range []struct {
			what string
			samples
		}{
			{"GET of the claim by the measuring program", gets},
			{"synchronized replacement of a file by the measuring program", disk},
			{"Prepare, by the driver's socket", prepares},
			{"Unprepare, by the driver's socket", unprepares},
			{"Prepare, by the kubelet's manager", managed},
			{"Unprepare, by the kubelet's manager", ended},
		} {
			n.table.add(row.what+", p50, ms", d, row.quantile(d, 0.5))
			n.table.add(row.what+", p99, ms", d, row.quantile(d, 0.99))
		}
		n.table.add("memory after 400 claims (VmRSS), MB", d, n.memory(d))
	}
}

// repeat repeats a call until it succeeds, as the kubelet does. Each refusal is printed.
func (n *numbers) repeat(d *measured, call func() error) {
	for attempt := 1; ; attempt++ {
		err := call()
		if err == nil {
			return
		}
		fmt.Printf("%s refused a call: %v\n", d.label, err)
		if attempt == 10 {
			n.t.Fatal("refused ten times")
		}
	}
}

func prepareByCall(d *measured, claim *drapb.Claim) error {
	ctx, cancel := context.WithTimeout(context.Background(), 45*time.Second)
	defer cancel()
	answer, err := d.calls.NodePrepareResources(ctx, &drapb.NodePrepareResourcesRequest{Claims: []*drapb.Claim{claim}})
	if failure := answer.GetClaims()[claim.Uid].GetError(); failure != "" {
		return errors.New(failure)
	}
	return err
}

func unprepareByCall(d *measured, claim *drapb.Claim) error {
	ctx, cancel := context.WithTimeout(context.Background(), 45*time.Second)
	defer cancel()
	answer, err := d.calls.NodeUnprepareResources(ctx, &drapb.NodeUnprepareResourcesRequest{Claims: []*drapb.Claim{claim}})
	if failure := answer.GetClaims()[claim.Uid].GetError(); failure != "" {
		return errors.New(failure)
	}
	return err
}

// measureRestarts restarts the kubelet, which deletes the slices of both drivers.
func (n *numbers) measureRestarts() {
	registered, started, without := samples{}, samples{}, samples{}
	for range restartTakes {
		time.Sleep(quiet)
		n.disconnect()
		n.kubelet.end()
		// The kubelet's connections end.
		time.Sleep(time.Second)
		waits := map[*measured]chan time.Time{}
		gone := map[*measured]chan time.Time{}
		for _, d := range n.drivers {
			waits[d] = n.slices.await(d.name, n.publishedAgain(d))
			gone[d] = n.slices.await(d.name, isEmpty)
		}
		began := time.Now()
		n.startKubelet()
		for _, d := range n.drivers {
			deleted, at := n.at(gone[d], "the kubelet deletes the slices"), n.at(waits[d], d.label+" publishes again")
			must(n.t, n.registrations.since(d.name, began))
			started.add(d, at.Sub(began))
			registered.add(d, at.Sub(n.registrations.of(d.name)))
			without.add(d, at.Sub(deleted))
		}
		n.connect()
	}
	for _, d := range n.drivers {
		n.table.add("restart of the kubelet: registration to stored slices, worst, s", d, registered.quantile(d, 1)/1000)
		n.table.add("restart of the kubelet: its start to stored slices, worst, s", d, started.quantile(d, 1)/1000)
		n.table.add("restart of the kubelet: time without slices, worst, s", d, without.quantile(d, 1)/1000)
	}
}

// measureHolds lets a process of the host hold a device. Only this project's driver publishes that.
func (n *numbers) measureHolds() {
	d := n.drivers[0]
	held, free := samples{}, samples{}
	for take := range holdTakes {
		device := n.devices[take%len(n.devices)]
		// A write within the last second would delay the next one.
		time.Sleep(2 * time.Second)
		tainted := n.slices.await(d.name, isTainted(device, true))
		began := time.Now()
		vm := n.node.startVM(n.t, addressOf(device), "")
		held.add(d, n.at(tainted, "the taint is stored").Sub(began))
		time.Sleep(2 * time.Second)
		untainted := n.slices.await(d.name, isTainted(device, false))
		began = time.Now()
		n.node.killVM(n.t, vm)
		free.add(d, n.at(untainted, "the taint is removed").Sub(began))
	}
	n.table.add("hold by a process of the host to the stored taint, worst, s", d, held.quantile(d, 1)/1000)
	n.table.add("end of the hold to the removed taint, worst, s", d, free.quantile(d, 1)/1000)
}

// measureStorm lets processes take and leave devices in turn.
func (n *numbers) measureStorm() {
	ring := min(len(n.devices), 16)
	pids := make([]int, ring)
	began := time.Now()
	changes := 0
	for time.Since(began) < stormTime {
		// The devices are spread over all slices.
		slot := changes % ring
		address := addressOf(n.devices[slot*len(n.devices)/ring])
		if pids[slot] == 0 {
			pids[slot] = n.node.startVM(n.t, address, "")
		} else {
			n.node.killVM(n.t, pids[slot])
			pids[slot] = 0
		}
		changes++
		time.Sleep(time.Until(began.Add(time.Duration(changes) * stormHold / time.Duration(ring))))
	}
	ended := time.Now()
	for _, pid := range pids {
		if pid != 0 {
			n.node.killVM(n.t, pid)
		}
	}
	eventually(n.t, "no device is tainted", func() error { return n.slices.check(n.drivers[0].name, hasNoTaints) })
	fmt.Printf("storm: %d holds and releases in %.1f s\n", changes, ended.Sub(began).Seconds())
	for _, d := range n.drivers {
		writes := n.audit.between(n.t, d.user, began, ended).writes()
		n.table.add("writes a second while devices are taken and left", d, float64(len(writes))/ended.Sub(began).Seconds())
		n.table.add("most writes within a second", d, float64(most(writes, time.Second)))
	}
}

// measureIdle leaves both drivers alone. Each half of the time is a round.
func (n *numbers) measureIdle(idle time.Duration) {
	n.disconnect()
	// What was measured before has an end.
	time.Sleep(quiet)
	half := idle / rounds
	for range rounds {
		began := time.Now()
		time.Sleep(half)
		ended := time.Now()
		hours := ended.Sub(began).Hours()
		for _, d := range n.drivers {
			requests := n.audit.between(n.t, d.user, began, ended)
			fmt.Printf("%s, %.0f s idle: %s\n", d.label, ended.Sub(began).Seconds(), requests)
			n.table.add("writes in an idle hour, scaled", d, float64(len(requests.writes()))/hours)
			n.table.add("requests in an idle hour, scaled", d, float64(len(requests))/hours)
			n.table.add("connections to the API server", d, float64(n.connections(d)))
			n.table.add("open watches", d, float64(n.audit.watches(n.t, d.user)))
			n.table.add("memory while idle (VmRSS), MB", d, n.memory(d))
		}
	}
	n.connect()
}

// samples are durations in milliseconds, by driver.
type samples map[*measured][]float64

func (s samples) add(d *measured, duration time.Duration) {
	s[d] = append(s[d], float64(duration.Microseconds())/1000)
}

func (s samples) take(d *measured, call func()) {
	began := time.Now()
	call()
	s.add(d, time.Since(began))
}

// quantile returns the smallest sample that at least this part of all samples does not exceed.
func (s samples) quantile(d *measured, part float64) float64 {
	sorted := slices.Sorted(slices.Values(s[d]))
	return sorted[max(0, int(math.Ceil(part*float64(len(sorted))))-1)]
}

// table has the figures in the order in which they were measured first.
type table struct {
	drivers []*measured
	rows    []string
	cells   map[string]map[*measured][]float64
}

func (t *table) add(row string, d *measured, value float64) {
	if t.cells[row] == nil {
		t.rows = append(t.rows, row)
		t.cells[row] = map[*measured][]float64{}
	}
	t.cells[row][d] = append(t.cells[row][d], value)
}

// print prints the figures of each round, and the ratio of the drivers' means.
func (t *table) print(title string) {
	fmt.Printf("\n| %s | %s | %s | ratio |\n| --- | --- | --- | --- |\n", title, t.drivers[0].label, t.drivers[1].label)
	for _, row := range t.rows {
		fmt.Printf("| %s |", row)
		var means []float64
		for _, d := range t.drivers {
			values := t.cells[row][d]
			if values == nil {
				fmt.Print(" not offered |")
				continue
			}
			sum := 0.0
			var texts []string
			for _, value := range values {
				sum += value
				texts = append(texts, strconv.FormatFloat(value, 'f', digits(value), 64))
			}
			means = append(means, sum/float64(len(values)))
			fmt.Printf(" %s |", strings.Join(texts, ", "))
		}
		if len(means) == 2 && means[1] != 0 {
			fmt.Printf(" %.2f |\n", means[0]/means[1])
		} else {
			fmt.Print(" |\n")
		}
	}
	fmt.Println()
}

// digits returns how many digits after the point a figure has.
func digits(value float64) int {
	if value == math.Trunc(value) || math.Abs(value) >= 100 {
		return 0
	}
	return 2
}

// podsOf creates a claim for each of some devices, and returns their pods with the uids of the claims.
func (n *numbers) podsOf(d *measured, prefix string) (pods []*corev1.Pod, uids map[string]string) {
	uids = map[string]string{}
	for index := range 8 {
		// The uid of a pod is made of the first letters of its name.
		name := fmt.Sprintf("%s%d-%d", prefix, index, len(n.devices))
		pod := newPodOf(n.t, n.apiServer, d.name, n.name, name, allocated{"gpu", n.devices[index]})
		pods, uids[name] = append(pods, pod), uidOf(n.t, n.apiServer, name)
	}
	return pods, uids
}
