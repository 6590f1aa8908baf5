// Package simnode runs the simulated node, the program vfio-sim-node, for tests and examples.
package simnode

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"testing"
)

// Groups and addresses of the first and the second GPU of an eight-GPU node.
const (
	First, FirstGPU   = 51, "0000:1b:00.0"
	Second, SecondGPU = 52, "0000:3d:00.0"
)

// Node is a running simulated node.
type Node struct {
	// Root is the directory that contains sys, dev and proc.
	Root string

	child    *exec.Cmd
	commands io.WriteCloser
	replies  *bufio.Reader
	fail     func(string, ...any)
}

// VM describes a VM to start.
type VM struct {
	Addresses   []string `json:"addresses"`
	PodUID      string   `json:"pod_uid,omitempty"`
	ContainerID string   `json:"container_id,omitempty"`
	// GroupOnly means that the VM opens the group but no device of it.
	GroupOnly bool `json:"group_only,omitempty"`
}

// New starts a node, which ends with the test.
func New(tb testing.TB, options ...string) *Node {
	tb.Helper()
	node, err := start(options, tb.Fatalf)
	if err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(node.Close)
	return node
}

// Start starts a node outside a test, such as in an example. It panics on errors.
func Start(options ...string) *Node {
	fail := func(format string, values ...any) { panic(fmt.Sprintf(format, values...)) }
	node, err := start(options, fail)
	if err != nil {
		fail("%v", err)
	}
	return node
}

func start(options []string, fail func(string, ...any)) (*Node, error) {
	program := os.Getenv("VFIO_SIM_NODE")
	if program == "" {
		return nil, errors.New("VFIO_SIM_NODE is not set to the path of vfio-sim-node; run go/test")
	}
	child := exec.Command(program, append([]string{"serve"}, options...)...)
	child.Stderr = os.Stderr
	commands, err := child.StdinPipe()
	if err != nil {
		return nil, err
	}
	replies, err := child.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := child.Start(); err != nil {
		return nil, err
	}
	node := &Node{child: child, commands: commands, replies: bufio.NewReader(replies), fail: fail}
	var hello struct{ Root string }
	if err := node.reply(&hello); err != nil {
		child.Process.Kill()
		child.Wait()
		return nil, err
	}
	node.Root = hello.Root
	return node, nil
}

// Close ends the node and its VMs and removes the directory.
func (n *Node) Close() {
	n.commands.Close()
	n.child.Wait()
}

func (n *Node) reply(into any) error {
	line, err := n.replies.ReadBytes('\n')
	if err != nil {
		return fmt.Errorf("vfio-sim-node ended: %w", err)
	}
	return json.Unmarshal(line, into)
}

// Do sends a command and returns the reply.
func (n *Node) Do(name string, what any) map[string]any {
	line, err := json.Marshal(map[string]any{name: what})
	if err != nil {
		n.fail("%s: %v", name, err)
	}
	if _, err := n.commands.Write(append(line, '\n')); err != nil {
		n.fail("%s: %v", name, err)
	}
	var reply map[string]any
	if err := n.reply(&reply); err != nil {
		n.fail("%s: %v", name, err)
	}
	if failed, ok := reply["error"]; ok {
		n.fail("%s: %v", name, failed)
	}
	return reply
}

func (n *Node) number(reply map[string]any, name string) int {
	number, ok := reply[name].(float64)
	if !ok {
		n.fail("no %s in the reply %v", name, reply)
	}
	return int(number)
}

// StartVM starts a VM and returns its pid.
func (n *Node) StartVM(vm VM) int { return n.number(n.Do("start_vm", vm), "pid") }

// KillVM ends a VM and waits until its groups are free.
func (n *Node) KillVM(pid int) { n.Do("kill_vm", map[string]any{"pid": pid}) }

// Opens returns how often processes other than the VMs opened the group successfully.
func (n *Node) Opens(group int) int {
	return n.number(n.Do("opens", map[string]any{"group": group}), "opens")
}

// Add adds a function. Fields without a value are those of an Ethernet controller without a driver.
func (n *Node) Add(function map[string]any) { n.Do("add", function) }

// Bind binds a function to a driver.
func (n *Node) Bind(address, driver string) {
	n.Do("bind", map[string]any{"address": address, "driver": driver})
}

// Unbind unbinds a function.
func (n *Node) Unbind(address string) { n.Do("unbind", map[string]any{"address": address}) }

// Write writes a file of the tree.
func (n *Node) Write(path, content string) {
	n.Do("write", map[string]any{"path": path, "content": content})
}

// Delete removes a file, link or directory of the tree.
func (n *Node) Delete(path string) { n.Do("delete", map[string]any{"path": path}) }

// Link creates a symbolic link in the tree.
func (n *Node) Link(path, target string) {
	n.Do("link", map[string]any{"path": path, "target": target})
}
