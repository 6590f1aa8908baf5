package vfioprobe_test

import (
	"cmp"
	"errors"
	"os"
	"slices"
	"syscall"
	"testing"

	vfioprobe "github.com/vfio-probe/vfio-probe/go/vfioprobe"
	"github.com/vfio-probe/vfio-probe/go/vfioprobe/internal/simnode"
)

const uuid = "4b5a1c7e-5b0a-4a57-9d3a-0123456789ab"

// byID returns the device of a scan with this id.
func byID(tb testing.TB, scan vfioprobe.Scan, id string) vfioprobe.Device {
	tb.Helper()
	at := slices.IndexFunc(scan.Devices, func(device vfioprobe.Device) bool { return device.ID == id })
	if at < 0 {
		tb.Fatalf("no %s in %v", id, scan.Devices)
	}
	return scan.Devices[at]
}

func TestScanFillsEveryField(t *testing.T) {
	node, root := eightGPUs(t)
	node.Do("add_mdev", map[string]any{
		"uuid": uuid, "parent": simnode.FirstGPU, "type": "nvidia-35", "group": 71, "cdev": 40,
	})
	scan := must(root.Scan())(t)
	equal(t, "devices", len(scan.Devices), 9)
	equal(t, "errors", len(scan.Errors), 0)
	if !slices.IsSortedFunc(scan.Devices, func(a, b vfioprobe.Device) int { return cmp.Compare(a.ID, b.ID) }) {
		t.Errorf("not ordered by ID: %v", scan.Devices)
	}
	gpu := byID(t, scan, simnode.FirstGPU)
	if gpu.Cdev < 0 {
		t.Errorf("cdev: %d", gpu.Cdev)
	}
	gpu.Cdev = 7
	equal(t, "gpu", gpu, vfioprobe.Device{
		ID: simnode.FirstGPU, Vendor: 0x10de, Device: 0x2330, SubsystemVendor: 0x10de, SubsystemDevice: 0x16c1,
		Class: 0x030200, Driver: "vfio-pci", Group: 51, NUMANode: 0, SRIOV: vfioprobe.SRIOVNone, VFs: 0, Cdev: 7,
		Kind: vfioprobe.KindPCI,
	})
	mdev := byID(t, scan, uuid)
	equal(t, "mdev", mdev, vfioprobe.Device{
		ID: uuid, Vendor: 0x10de, Device: 0x2330, SubsystemVendor: 0x10de, SubsystemDevice: 0x16c1, Class: 0x030200,
		Driver: "vfio_mdev", Group: 71, NUMANode: 0, Cdev: 40, Kind: vfioprobe.KindMdev, VGPUType: "nvidia-35",
		Parent: simnode.FirstGPU,
	})
}

func TestAbsentValuesDifferFromZero(t *testing.T) {
	// Before Linux 6.1 devices are found by driver, so that one without a group is found too.
	node := simnode.New(t, "--before-6.1")
	root := open(t, node.Root)
	node.Add(map[string]any{"address": "0000:01:00.0", "group": nil, "driver": "vfio-pci", "numa_node": -1})
	node.Add(map[string]any{"address": "0000:02:00.0", "group": 0, "driver": "vfio-pci", "numa_node": 0})
	scan := must(root.Scan())(t)
	none, zero := byID(t, scan, "0000:01:00.0"), byID(t, scan, "0000:02:00.0")
	equal(t, "no group", none.Group, vfioprobe.NoGroup)
	equal(t, "no NUMA node", none.NUMANode, -1)
	equal(t, "group 0", zero.Group, 0)
	equal(t, "NUMA node 0", zero.NUMANode, 0)
	equal(t, "text", none.Group.String()+" "+zero.Group.String(), "none 0")
	equal(t, "no cdev", zero.Cdev, -1)
}

func TestVirtualFunctionsHaveRoleAndParent(t *testing.T) {
	node, root := eightGPUs(t)
	node.Add(map[string]any{"address": "0000:21:00.0", "group": 61, "driver": "vfio-pci", "sriov_numvfs": 2})
	node.Add(map[string]any{"address": "0000:21:00.4", "group": 62, "driver": "vfio-pci", "physfn": "0000:21:00.0"})
	scan := must(root.Scan())(t)
	physical, virtual := byID(t, scan, "0000:21:00.0"), byID(t, scan, "0000:21:00.4")
	equal(t, "physical", physical.SRIOV, vfioprobe.SRIOVPhysical)
	equal(t, "virtual functions", physical.VFs, 2)
	equal(t, "virtual", virtual.SRIOV, vfioprobe.SRIOVVirtual)
	equal(t, "parent", virtual.Parent, "0000:21:00.0")
}

func TestDeviceEqualsScanExceptCdev(t *testing.T) {
	_, root := eightGPUs(t)
	scanned := byID(t, must(root.Scan())(t), simnode.SecondGPU)
	scanned.Cdev = -1
	equal(t, "device", must(root.Device(simnode.SecondGPU))(t), scanned)
}

func TestUnreadableDeviceDoesNotAffectOthers(t *testing.T) {
	node, root := eightGPUs(t)
	node.Write("sys/bus/pci/devices/"+simnode.FirstGPU+"/uevent", "DRIVER=vfio-pci\nnonsense\n")
	node.Do("make_unreadable", map[string]any{"path": "sys/bus/pci/devices/" + simnode.SecondGPU + "/uevent"})
	scan := must(root.Scan())(t)
	equal(t, "devices", len(scan.Devices), 6)
	if len(scan.Errors) != 2 {
		t.Fatalf("errors: %v", scan.Errors)
	}
	malformed, unreadable := scan.Errors[0], scan.Errors[1]
	isAll(t, malformed, vfioprobe.ErrMalformed)
	isNone(t, malformed, os.ErrNotExist, os.ErrPermission, vfioprobe.ErrInvalid)
	equal(t, "malformed", *malformed, vfioprobe.Error{
		Kind: vfioprobe.ErrorMalformed, Device: simnode.FirstGPU, Group: vfioprobe.NoGroup,
		Path: "sys/bus/pci/devices/" + simnode.FirstGPU + "/uevent",
		Text: simnode.FirstGPU + ": uevent: unexpected content",
	})
	equal(t, "device", unreadable.Device, simnode.SecondGPU)
	// The simulated node replaces the file by a directory for root, and removes the read permission for others.
	if os.Geteuid() == 0 {
		isAll(t, unreadable, syscall.EISDIR)
	} else {
		isAll(t, unreadable, syscall.EACCES, os.ErrPermission)
	}
	_, err := root.Device(simnode.FirstGPU)
	isAll(t, err, vfioprobe.ErrMalformed)
}

func TestListsLargerThanTheArrayAreComplete(t *testing.T) {
	node := simnode.New(t)
	root := open(t, node.Root)
	for bus := range 40 {
		address := "0000:" + string("0123456789abcdef"[bus/16]) + string("0123456789abcdef"[bus%16]) + ":01.0"
		node.Do("add_gpu", map[string]any{"address": address, "group": 100, "numa_node": 0})
	}
	for range 2 {
		equal(t, "devices", len(must(root.Scan())(t).Devices), 40)
		equal(t, "members", len(must(root.Members(100))(t).Members), 40)
	}
}

func TestScanWithoutSysfsFails(t *testing.T) {
	root := open(t, t.TempDir())
	_, err := root.Scan()
	isAll(t, err, os.ErrNotExist, syscall.ENOENT)
	var failed *vfioprobe.Error
	if !errors.As(err, &failed) || failed.Kind != vfioprobe.ErrorMissing || failed.Text == "" {
		t.Errorf("%#v", err)
	}
}
