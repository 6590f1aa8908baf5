package vfioprobe_test

import (
	"errors"
	"os"
	"slices"
	"strings"
	"syscall"
	"testing"

	vfioprobe "github.com/vfio-probe/vfio-probe/go/vfioprobe"
	"github.com/vfio-probe/vfio-probe/go/vfioprobe/internal/simnode"
)

func TestHostDriverMakesGroupNotViable(t *testing.T) {
	node, root := eightGPUs(t)
	equal(t, "alone", must(root.Group(51))(t), vfioprobe.Group{ID: 51, Members: 1, Viable: true})
	node.Add(map[string]any{"address": "0000:1b:00.1", "group": 51})
	equal(t, "shared", must(root.Group(51))(t), vfioprobe.Group{ID: 51, Members: 2, Viable: true})
	node.Bind("0000:1b:00.1", "snd_hda_intel")
	equal(t, "not viable", must(root.Group(51))(t), vfioprobe.Group{
		ID: 51, Members: 2, Offender: "0000:1b:00.1", OffenderDriver: "snd_hda_intel", Offenders: 1,
	})
	members := must(root.Members(51))(t)
	want := []vfioprobe.Member{
		{Name: simnode.FirstGPU, Driver: "vfio-pci", VFIO: true}, {Name: "0000:1b:00.1", Driver: "snd_hda_intel", Offends: true},
	}
	if !slices.Equal(members.Members, want) || members.Errors != nil {
		t.Errorf("%+v", members)
	}
	node.Add(map[string]any{"address": "0000:1b:00.2", "group": 51, "driver": "xhci_hcd"})
	equal(t, "offenders", must(root.Group(51))(t).Offenders, 2)
	equal(t, "second offender", must(root.Members(51))(t).Offenders()[1].Name, "0000:1b:00.2")
	// A group that is not viable can be opened.
	equal(t, "probe", must(root.Probe(51))(t).State, vfioprobe.Free)
}

func TestUnreadableMemberIsReported(t *testing.T) {
	node, root := eightGPUs(t)
	driver := "sys/devices/pci0000:00/" + simnode.FirstGPU + "/driver"
	node.Delete(driver)
	node.Write(driver, "no link")
	members := must(root.Members(51))(t)
	if len(members.Members) != 0 || len(members.Errors) != 1 {
		t.Fatalf("%+v", members)
	}
	failed := members.Errors[0]
	equal(t, "device", failed.Device, simnode.FirstGPU)
	equal(t, "group", failed.Group, 51)
	isAll(t, failed, syscall.EINVAL)
	equal(t, "unreadable", must(root.Group(51))(t).Unreadable, 1)
}

func TestUnreadableMemberErrorHasDeviceID(t *testing.T) {
	node, root := eightGPUs(t)
	node.Do("add_mdev", map[string]any{"uuid": uuid, "parent": simnode.FirstGPU, "type": "nvidia-35", "group": 51})
	for _, member := range []string{"sys/bus/mdev/devices/" + uuid, "sys/kernel/iommu_groups/51/devices/serial0"} {
		if err := errors.Join(os.RemoveAll(node.Root+"/"+member+"/driver"),
			os.MkdirAll(node.Root+"/"+member+"/driver", 0o755)); err != nil {
			t.Fatal(err)
		}
	}
	failed := must(root.Members(51))(t).Errors
	if len(failed) != 2 {
		t.Fatalf("%v", failed)
	}
	for _, err := range failed {
		want, named := "", "serial0"
		if !strings.Contains(err.Text, named) {
			want, named = uuid, uuid
		}
		equal(t, "device", err.Device, want)
		if !strings.Contains(err.Text, named) {
			t.Errorf("%q", err.Text)
		}
		isAll(t, err, syscall.EINVAL)
	}
}

func TestMissingGroupIsErrNotExist(t *testing.T) {
	_, root := eightGPUs(t)
	_, group := root.Group(999)
	_, members := root.Members(999)
	_, peek := root.Peek(999)
	_, none := root.Peek(vfioprobe.NoGroup)
	for _, err := range []error{group, members, peek, none} {
		isAll(t, err, os.ErrNotExist)
		if _, ok := err.(*vfioprobe.Error); !ok || !strings.HasPrefix(err.Error(), "vfio-probe: group ") {
			t.Errorf("%T %v", err, err)
		}
	}
}
