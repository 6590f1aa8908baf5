package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"

	resourceapi "k8s.io/api/resource/v1"
	"k8s.io/kubernetes/pkg/registry/resource/deviceclass"
	"k8s.io/kubernetes/pkg/registry/resource/resourceslice"
)

const (
	driver   = "vfio-probe.github.io"
	nodeName = "node-1"
)

// programs are the programs under test, and the version of Kubernetes for which slices are printed.
type programs struct {
	plugin, simNode, minor string
}

// node is a simulated node. It ends with its VMs when its input is closed.
type node struct {
	programs *programs
	root     string
	process  *exec.Cmd
	orders   io.WriteCloser
	replies  *bufio.Scanner
}

func (p *programs) start(options ...string) (*node, error) {
	process := exec.Command(p.simNode, append([]string{"serve"}, options...)...)
	orders, err := process.StdinPipe()
	if err != nil {
		return nil, err
	}
	output, err := process.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := process.Start(); err != nil {
		return nil, err
	}
	n := &node{programs: p, process: process, orders: orders, replies: bufio.NewScanner(output)}
	reply, err := n.reply()
	if err != nil {
		return nil, err
	}
	n.root, _ = reply["root"].(string)
	return n, nil
}

func (n *node) end() {
	_ = n.orders.Close()
	_ = n.process.Wait()
}

func (n *node) reply() (map[string]any, error) {
	if !n.replies.Scan() {
		return nil, errors.New("the simulated node has ended")
	}
	reply := map[string]any{}
	if err := json.Unmarshal(n.replies.Bytes(), &reply); err != nil {
		return nil, err
	}
	if text, failed := reply["error"]; failed {
		return nil, fmt.Errorf("order: %v", text)
	}
	return reply, nil
}

// order gives an order with its fields.
func (n *node) order(name string, fields map[string]any) error {
	_, err := n.ask(name, fields)
	return err
}

// ask gives an order with its fields and returns the reply.
func (n *node) ask(name string, fields map[string]any) (map[string]any, error) {
	line, err := json.Marshal(map[string]any{name: fields})
	if err != nil {
		return nil, err
	}
	if _, err := fmt.Fprintf(n.orders, "%s\n", line); err != nil {
		return nil, err
	}
	return n.reply()
}

// addGPUs adds GPUs, each in a group of its own from 100 on.
func (n *node) addGPUs(count int) error {
	for index := range count {
		address := fmt.Sprintf("0000:%02x:%02x.0", 0x40+index/32, index%32)
		fields := map[string]any{"address": address, "group": 100 + index, "numa_node": index % 2}
		if err := n.order("add_gpu", fields); err != nil {
			return err
		}
	}
	return nil
}

// run runs a command of the plugin on the node, and returns its output and its messages.
func (n *node) run(words ...string) ([]byte, string, error) {
	// No kubelet, no serve, and no names of models.
	words = append(words, "--root", n.root, "--kubelet-dir", filepath.Join(n.root, "none"),
		"--run-dir", filepath.Join(n.root, "none"), "--pci-ids", "/dev/null")
	// Without CAP_SYS_ADMIN the kernel returns EBUSY for groups that are held.
	command := exec.Command(n.programs.simNode, append([]string{"exec", n.programs.plugin}, words...)...)
	var out, messages bytes.Buffer
	command.Stdout, command.Stderr = &out, &messages
	if err := command.Run(); err != nil {
		return nil, "", fmt.Errorf("%s: %w: %s", strings.Join(words, " "), err, messages.String())
	}
	return out.Bytes(), messages.String(), nil
}

// printed returns what the plugin would publish for this version of Kubernetes.
func (n *node) printed(words ...string) ([]byte, string, error) {
	command := []string{"dra", "slices"}
	if !slices.Contains(words, "--node") {
		command = append(command, "--node", nodeName)
	}
	if !slices.Contains(words, "--kubernetes") {
		command = append(command, "--kubernetes", "1."+n.programs.minor)
	}
	return n.run(append(command, words...)...)
}

// publish prints the slices, lets the API server create them and returns what it stores, and the plugin's messages. Nothing may be
// lost: what is stored has all taints and counters that were sent.
func (n *node) publish(words ...string) ([]*resourceapi.ResourceSlice, string, error) {
	text, messages, err := n.printed(words...)
	if err != nil {
		return nil, "", err
	}
	stored, err := createAll[resourceapi.ResourceSlice](resourceslice.Strategy, "resourceslices", text)
	if err != nil {
		return nil, "", err
	}
	var sent struct{ Items []*resourceapi.ResourceSlice }
	if err := json.Unmarshal(text, &sent); err != nil {
		return nil, "", err
	}
	devices, tainted, counted := count(stored)
	if d, t, c := count(sent.Items); d != devices || t != tainted || c != counted {
		return nil, "", fmt.Errorf("sent %d devices, %d taints, %d counted; stored %d, %d, %d", d, t, c, devices, tainted, counted)
	}
	return stored, messages, nil
}

// scheduler returns a scheduler with the slices and classes of the node.
func (n *node) scheduler(words ...string) (*scheduler, string, error) {
	stored, messages, err := n.publish(words...)
	if err != nil {
		return nil, "", err
	}
	// What both commands understand.
	command := []string{"dra", "classes", "--extended"}
	for index, word := range words {
		if word == "--pools" || word == "--dra-driver" || word == "--select" {
			command = append(command, words[index:index+2]...)
		}
	}
	text, _, err := n.run(command...)
	if err != nil {
		return nil, "", err
	}
	all, err := createAll[resourceapi.DeviceClass](deviceclass.Strategy, "deviceclasses", text)
	return newScheduler(stored, all), messages, err
}
