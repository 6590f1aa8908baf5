package vfioprobe_test

import (
	"fmt"
	"strings"
	"testing"

	vfioprobe "github.com/vfio-probe/vfio-probe/go/vfioprobe"
	"github.com/vfio-probe/vfio-probe/go/vfioprobe/internal/simnode"
)

const podUID = "0d9a1c7e-5b0a-4a57-9d3a-0123456789ab"

var containerID = strings.Repeat("c0", 32)

func TestHoldersNameProcessPodAndContainer(t *testing.T) {
	node, root := eightGPUs(t)
	pid := node.StartVM(simnode.VM{
		Addresses: []string{simnode.FirstGPU, simnode.SecondGPU}, PodUID: podUID, ContainerID: containerID,
	})
	found := must(root.Holders(51, 52, 53))(t)
	equal(t, "holders", len(found.Holders), 2)
	for _, holder := range found.Holders {
		if holder.StartTime == 0 || holder.Group != 51 && holder.Group != 52 {
			t.Errorf("%+v", holder)
		}
		equal(t, "text", holder.String(), fmt.Sprintf("pid %d (qemu-system-x86), pod %s", pid, podUID))
		holder.StartTime, holder.Group = 0, 0
		equal(t, "holder", holder, vfioprobe.Holder{
			PID: pid, Command: "qemu-system-x86", Via: vfioprobe.ViaGroup, InPod: vfioprobe.InPodYes, PodUID: podUID,
			ContainerID: containerID,
		})
	}
	if found.Coverage.Processes == 0 || !found.Coverage.Complete() {
		t.Errorf("%+v", found.Coverage)
	}
	equal(t, "of a free group", len(must(root.Holders(53))(t).Holders), 0)
	equal(t, "of no group", len(must(root.Holders())(t).Holders), 0)
}

func TestCoverageIsCompleteOnlyIfAllWereRead(t *testing.T) {
	const host = vfioprobe.PIDNamespaceHost
	for looked, complete := range map[vfioprobe.ScanCoverage]bool{
		{}:                                 false,
		{Processes: 3}:                     false,
		{Processes: 3, PIDNamespace: host}: true,
		{Processes: 3, PIDNamespace: host, Unreadable: 1}:           false,
		{Processes: 3, PIDNamespace: host, Unattributed: 1}:         false,
		{Processes: 3, PIDNamespace: host, Unsearched: 1}:           false,
		{Processes: 3, PIDNamespace: vfioprobe.PIDNamespaceForeign}: false,
	} {
		equal(t, "complete", looked.Complete(), complete)
	}
}

func TestForeignPIDNamespaceIsReported(t *testing.T) {
	node, root := eightGPUs(t)
	node.Delete("proc/1/ns/pid")
	node.Do("link", map[string]any{"path": "proc/1/ns/pid", "target": "pid:[4026532178]"})
	found := must(root.Holders(51))(t)
	equal(t, "namespace", found.Coverage.PIDNamespace, vfioprobe.PIDNamespaceForeign)
	equal(t, "complete", found.Coverage.Complete(), false)
	equal(t, "unreadable", found.Coverage.Unreadable, 0)
}

func TestSandboxOfUnknownPodIsNeitherPodNorNone(t *testing.T) {
	node, root := eightGPUs(t)
	pid := node.StartVM(simnode.VM{Addresses: []string{simnode.FirstGPU}})
	equal(t, "without a pod", must(root.Holders(51))(t).Holders[0].InPod, vfioprobe.InPodNo)
	node.Write(fmt.Sprintf("proc/%d/cgroup", pid), "0::/kata_overhead/"+containerID+"\n")
	holder := must(root.Holders(51))(t).Holders[0]
	equal(t, "in a pod", holder.InPod, vfioprobe.InPodUnknown)
	equal(t, "pod", holder.PodUID, "")
	equal(t, "container", holder.ContainerID, containerID)
}

func TestHoldersWithoutProcFail(t *testing.T) {
	_, err := open(t, t.TempDir()).Holders(51)
	if err == nil || !strings.Contains(err.Error(), "proc") {
		t.Error(err)
	}
}
