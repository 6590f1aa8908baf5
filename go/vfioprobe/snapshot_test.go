package vfioprobe_test

import (
	"testing"
	"time"

	vfioprobe "github.com/vfio-probe/vfio-probe/go/vfioprobe"
	"github.com/vfio-probe/vfio-probe/go/vfioprobe/internal/simnode"
)

func groupOf(t *testing.T, snapshot vfioprobe.Snapshot, id vfioprobe.GroupID) vfioprobe.GroupSnapshot {
	t.Helper()
	group, found := snapshot.Group(id)
	if !found {
		t.Fatalf("no group %d in %+v", id, snapshot)
	}
	return group
}

func TestSnapshotShowsHolderWithoutProbe(t *testing.T) {
	node, root := eightGPUs(t)
	pid := node.StartVM(simnode.VM{Addresses: []string{simnode.FirstGPU}, PodUID: podUID, GroupOnly: true})
	snapshot := must(root.Snapshot())(t)
	equal(t, "devices", len(snapshot.Devices), 8)
	equal(t, "errors", len(snapshot.Errors), 0)
	equal(t, "complete", snapshot.Coverage.Complete(), true)
	held := groupOf(t, snapshot, 51)
	equal(t, "state", held.Occupancy.State, vfioprobe.Held)
	equal(t, "evidence", held.Evidence, vfioprobe.EvidenceHolder)
	equal(t, "peek", held.Peek, vfioprobe.LooksFree)
	equal(t, "holders", len(held.Holders), 1)
	equal(t, "holder", held.Holders[0].PID, pid)
	free := groupOf(t, snapshot, 52)
	equal(t, "state of a free group", free.Occupancy.State, vfioprobe.Free)
	equal(t, "its evidence", free.Evidence, vfioprobe.EvidenceEnable)
	equal(t, "its holders", len(free.Holders), 0)
	equal(t, "opens", node.Opens(52), 0)
	if _, found := snapshot.Group(999); found {
		t.Error("a group that no device has")
	}
}

func TestSnapshotWithProbesPrefersTheOpen(t *testing.T) {
	node, root := eightGPUs(t)
	node.StartVM(simnode.VM{Addresses: []string{simnode.FirstGPU}, GroupOnly: true})
	snapshot := must(root.SnapshotWithProbes(10 * time.Second))(t)
	for id, state := range map[vfioprobe.GroupID]vfioprobe.State{51: vfioprobe.Held, 52: vfioprobe.Free} {
		group := groupOf(t, snapshot, id)
		equal(t, "state", group.Occupancy.State, state)
		equal(t, "evidence", group.Evidence, vfioprobe.EvidenceOpen)
	}
}
