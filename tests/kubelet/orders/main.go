// Command orders plays hand-overs between two device plugins with the kubelet's own device manager, one for each order of
// their steps, and prints for how long each left the node without allocatable devices. docs/upgrades.md explains the orders.
//
// It starts the program in its first argument, which uses /var/lib/kubelet: run it in a mount namespace. It fails if an order
// leaves a gap that docs/upgrades.md does not have, or none where that page has one.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"time"
)

// kubelet is a running device manager.
type kubelet struct {
	process *exec.Cmd
	in      *json.Encoder
	out     *bufio.Scanner
	version string
}

// reply has the fields of a reply that this program reads.
type reply struct {
	OK          bool           `json:"ok"`
	Error       string         `json:"error"`
	Version     string         `json:"version"`
	Allocatable map[string]int `json:"allocatable"`
}

// startKubelet starts the program with empty directories.
func startKubelet(program string) (*kubelet, error) {
	if err := os.RemoveAll(pluginDir); err != nil {
		return nil, err
	}
	process := exec.Command(program)
	in, err := process.StdinPipe()
	if err != nil {
		return nil, err
	}
	out, err := process.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := process.Start(); err != nil {
		return nil, err
	}
	k := &kubelet{process: process, in: json.NewEncoder(in), out: bufio.NewScanner(out)}
	started, err := k.call("start")
	k.version = started.Version
	return k, err
}

func (k *kubelet) call(op string) (reply, error) {
	var r reply
	if err := k.in.Encode(map[string]string{"op": op}); err != nil {
		return r, err
	}
	if !k.out.Scan() {
		return r, fmt.Errorf("the kubelet has ended: %w", k.out.Err())
	}
	if err := json.Unmarshal(k.out.Bytes(), &r); err != nil {
		return r, err
	}
	if !r.OK {
		return r, fmt.Errorf("%s: %s", op, r.Error)
	}
	return r, nil
}

// allocatable returns the number of healthy devices.
func (k *kubelet) allocatable() (int, error) {
	r, err := k.call("capacity")
	return r.Allocatable[resource], err
}

// waitFor waits until the number of allocatable devices is as wanted.
func (k *kubelet) waitFor(wanted int) error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		found, err := k.allocatable()
		if err != nil || found == wanted {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%d devices are allocatable, not %d", found, wanted)
		}
		time.Sleep(time.Millisecond)
	}
}

func (k *kubelet) stop() {
	_ = k.process.Process.Kill()
	_ = k.process.Wait()
}

// sample asks for allocatable devices without a pause until stop is closed, and sends for how long there were fewer.
func (k *kubelet) sample(stop <-chan struct{}, gap chan<- time.Duration) {
	var missing time.Duration
	last := time.Now()
	for {
		found, err := k.allocatable()
		now := time.Now()
		if err != nil || found < devices {
			missing += now.Sub(last)
		}
		last = now
		select {
		case <-stop:
			gap <- missing
			return
		default:
		}
	}
}

// play runs one order with a kubelet of its own. It returns for how long devices were missing during the order, and whether
// the kubelet noticed the end of the last plugin afterwards.
func play(program string, o order) (version string, gap time.Duration, noticed bool, err error) {
	k, err := startKubelet(program)
	if err != nil {
		return "", 0, false, err
	}
	defer k.stop()
	first, err := serve("first.sock")
	if err != nil {
		return k.version, 0, false, err
	}
	if err := first.register(); err != nil {
		return k.version, 0, false, err
	}
	if err := k.waitFor(devices); err != nil {
		return k.version, 0, false, err
	}
	stop, gaps := make(chan struct{}), make(chan time.Duration)
	go k.sample(stop, gaps)
	last, err := o.steps(first)
	// What the kubelet does late still counts.
	time.Sleep(500 * time.Millisecond)
	close(stop)
	gap = <-gaps
	if err != nil {
		return k.version, gap, false, err
	}
	if err := k.waitFor(devices); err != nil {
		return k.version, gap, false, err
	}
	last.end()
	time.Sleep(500 * time.Millisecond)
	found, err := k.allocatable()
	return k.version, gap, found == 0, err
}

// isOlder returns whether a kubelet keeps its clients by the resource's name alone: up to 1.36.
func isOlder(version string) bool {
	var minor int
	_, err := fmt.Sscanf(version, "v1.%d.", &minor)
	return err == nil && minor <= 36
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: orders KUBELET")
		os.Exit(2)
	}
	failed := 0
	for _, o := range orders {
		version, gap, noticed, err := play(os.Args[1], o)
		expected := o.newer
		if isOlder(version) {
			expected = o.older
		}
		found := outcome{gap: gap > 0, noticed: noticed}
		verdict := "ok"
		if err != nil || found != expected {
			verdict = fmt.Sprintf("FAILED, expected %+v, error %v", expected, err)
			failed++
		}
		fmt.Printf("%s: %s: gap %.1f ms, end of the last plugin noticed: %t: %s\n", version, o.name, gap.Seconds()*1000, noticed, verdict)
	}
	fmt.Printf("%d passed, %d failed\n", len(orders)-failed, failed)
	if failed > 0 {
		os.Exit(1)
	}
}
