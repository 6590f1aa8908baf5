package vfioprobe_test

import (
	"os"
	"testing"
	"time"

	vfioprobe "github.com/vfio-probe/vfio-probe/go/vfioprobe"
	"github.com/vfio-probe/vfio-probe/go/vfioprobe/internal/simnode"
)

func TestDeviceNodesAreThoseOfTheGroup(t *testing.T) {
	_, root := eightGPUs(t)
	paths := map[vfioprobe.NodeKind]string{}
	for _, node := range must(root.DeviceNodes(simnode.First))(t) {
		paths[node.Kind] = node.Path
		equal(t, "device", node.Device != "", node.Kind == vfioprobe.NodeCdev)
	}
	equal(t, "group", paths[vfioprobe.NodeGroup], "vfio/51")
	_, err := root.DeviceNodes(999)
	isAll(t, err, os.ErrNotExist)
	_, err = root.DeviceNodes(vfioprobe.NoGroup)
	isAll(t, err, vfioprobe.ErrInvalid)
}

func TestHardwareOfAbsentFunctionIsErrNotExist(t *testing.T) {
	_, root := eightGPUs(t)
	_, err := root.Hardware("0000:ff:1f.7")
	isAll(t, err, os.ErrNotExist)
	_, err = root.Hardware("card0")
	isAll(t, err, vfioprobe.ErrInvalid)
	must(root.Hardware(simnode.FirstGPU))(t)
}

func TestHolderHasUserAndStart(t *testing.T) {
	node, root := eightGPUs(t)
	node.StartVM(simnode.VM{Addresses: []string{simnode.FirstGPU}})
	holder := must(root.Holders(51))(t).Holders[0]
	equal(t, "user", holder.UID, uint32(os.Geteuid()))
	// The start is exact to a second, and the clock of a host may be set.
	if since := time.Since(holder.Started); since < -2*time.Second || since > 5*time.Minute {
		t.Errorf("started %v ago", since)
	}
}

func TestNegativeTimeoutIsInvalid(t *testing.T) {
	node, root := eightGPUs(t)
	_, err := root.ProbeWithin(51, -1)
	isAll(t, err, vfioprobe.ErrInvalid)
	_, err = root.SnapshotWithProbes(-1)
	isAll(t, err, vfioprobe.ErrInvalid)
	equal(t, "opens", node.Opens(51), 0)
}
