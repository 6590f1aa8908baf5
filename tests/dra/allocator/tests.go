package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"

	resourceapi "k8s.io/api/resource/v1"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/kubernetes/pkg/features"
)

// test is one test on nodes of its own.
type test struct {
	name string
	run  func(*programs) error
}

var tests = []test{
	{"eight free devices are allocated in their order, and no ninth", eightFreeDevices},
	{"only devices that are not withheld are allocated", onlyFreeDevices},
	{"scheduler never allocates two devices of a group with counters", groupsAreExclusive},
	{"256 devices are four slices, and each is allocated once", manyDevices},
	{"long names of node, driver and resource are accepted", longNames},
	{"node without devices has one slice and no classes", noDevices},
	{"fields that the API server drops are noticed", droppedFields},
	{"wrong slices are refused", wrongSlices},
	{"incomplete pool is not allocated from 1.36 on", incompletePool},
	{"without its taint a held device would be allocated", missingTaint},
}

// expect returns an error if two lists of names differ.
func expect(got, want []string) error {
	if !slices.Equal(got, want) {
		return fmt.Errorf("got %q, expected %q", got, want)
	}
	return nil
}

// onNode starts a node, calls a function with it, and ends it.
func onNode(p *programs, options []string, run func(*node) error) error {
	n, err := p.start(options...)
	if err != nil {
		return err
	}
	defer n.end()
	return run(n)
}

// eightGPUs are the names of the devices of a node with eight GPUs.
var eightGPUs = []string{
	"pci-0000-1b-00-0", "pci-0000-3d-00-0", "pci-0000-4e-00-0", "pci-0000-5f-00-0",
	"pci-0000-9b-00-0", "pci-0000-bd-00-0", "pci-0000-ce-00-0", "pci-0000-df-00-0",
}

func eightFreeDevices(p *programs) error {
	return onNode(p, []string{"--eight-gpus", "--cdevs"}, func(n *node) error {
		s, _, err := n.scheduler()
		if err != nil {
			return err
		}
		names, err := s.allocateEvery()
		if err != nil {
			return err
		}
		return expect(names, eightGPUs)
	})
}

// withheld makes a node on which devices are withheld for different reasons, and returns how to select all of them.
func withheld(n *node) ([]string, error) {
	type fields = map[string]any
	for _, order := range []struct {
		name   string
		fields fields
	}{
		{"start_vm", fields{"addresses": []string{"0000:1b:00.0"}}},
		// Not viable: a member has a driver of the host.
		{"add", fields{"address": "0000:3d:00.1", "group": 52, "class": 0x040300, "driver": "snd_hda_intel"}},
		{"delete", fields{"path": "dev/vfio/53"}},
		{"add_mdev", fields{"uuid": "83b8f4f2-509f-382f-3c1e-e6bfe0fa1001", "parent": "0000:df:00.0", "type": "nvidia-35", "group": 70, "cdev": 170}},
	} {
		if err := n.order(order.name, order.fields); err != nil {
			return nil, fmt.Errorf("%s: %w", order.name, err)
		}
	}
	// Lost: the configuration space reads all ones.
	ones := slices.Repeat([]byte{0xff}, 64)
	config := filepath.Join(n.root, "sys/bus/pci/devices/0000:5f:00.0/config")
	return []string{"--probe"}, os.WriteFile(config, ones, 0o644)
}

// holdOddly lets a process hold a device, and gives it an odd name in the /proc of the node.
func holdOddly(n *node, address string) error {
	reply, err := n.ask("start_vm", map[string]any{"addresses": []string{address}})
	if err != nil {
		return err
	}
	path := filepath.Join(n.root, "proc", fmt.Sprint(reply["pid"]), "stat")
	stat, err := os.ReadFile(path)
	if err != nil {
		return err
	}
	odd := strings.Replace(string(stat), "(qemu-system-x86)", "(-\u00e4 (\t)\"{}'/)", 1)
	if odd == string(stat) {
		return fmt.Errorf("no command in %s", stat)
	}
	// A link to the process' real file.
	if err := os.Remove(path); err != nil {
		return err
	}
	return os.WriteFile(path, []byte(odd), 0o644)
}

func onlyFreeDevices(p *programs) error {
	return onNode(p, []string{"--eight-gpus"}, func(n *node) error {
		options, err := withheld(n)
		if err != nil {
			return err
		}
		if err := holdOddly(n, "0000:9b:00.0"); err != nil {
			return err
		}
		s, messages, err := n.scheduler(options...)
		if err != nil {
			return err
		}
		names, err := s.allocateEvery()
		if err != nil {
			return err
		}
		sort.Strings(names)
		free := []string{"mdev-83b8f4f2-509f-382f-3c1e-e6bfe0fa1001", "pci-0000-bd-00-0", "pci-0000-ce-00-0", "pci-0000-df-00-0"}
		if err := expect(names, free); err != nil {
			return err
		}
		bad := map[string]string{
			"0000:1b:00.0": "held", "0000:3d:00.0": "not-viable", "0000:4e:00.0": "no-node", "0000:5f:00.0": "lost",
			"0000:9b:00.0": "held",
		}
		for address := range bad {
			if !strings.Contains(messages, address) {
				return fmt.Errorf("no message about %s: %s", address, messages)
			}
		}
		if !allocatorFeatures().DeviceTaints {
			devices, _, _ := count(s.slices)
			if devices != len(free) {
				return fmt.Errorf("%d devices are listed", devices)
			}
			return nil
		}
		for _, slice := range s.slices {
			for _, device := range slice.Spec.Devices {
				address := *device.Attributes["resource"].StringValue
				if bus := device.Attributes["resource.kubernetes.io/pciBusID"].StringValue; bus != nil {
					address = *bus
				}
				name, is := bad[address], ""
				if len(device.Taints) > 0 {
					is = strings.TrimPrefix(device.Taints[0].Key, driver+"/")
				}
				if is != name {
					return fmt.Errorf("%s has the taint %q, expected %q", address, is, name)
				}
			}
		}
		// A claim that tolerates all taints gets the rest, which shows that only the taints keep the others from it.
		s.tolerations = []resourceapi.DeviceToleration{{Operator: resourceapi.DeviceTolerationOpExists}}
		rest, err := s.allocateEvery()
		if err == nil && len(rest) != len(bad) {
			err = fmt.Errorf("%d withheld devices are listed: %q", len(rest), rest)
		}
		return err
	})
}

func groupsAreExclusive(p *programs) error {
	return onNode(p, []string{"--eight-gpus"}, func(n *node) error {
		for group, address := range map[int]string{51: "0000:1b:00.1", 52: "0000:3d:00.1"} {
			fields := map[string]any{
				"address": address, "vendor": 0x10de, "device": 0x22ba, "class": 0x030200, "group": group, "driver": "vfio-pci",
			}
			if err := n.order("add", fields); err != nil {
				return err
			}
		}
		s, _, err := n.scheduler()
		if err != nil {
			return err
		}
		names, err := s.allocateEvery()
		if err != nil {
			return err
		}
		groups := map[int64]int{}
		for _, slice := range s.slices {
			for _, device := range slice.Spec.Devices {
				if slices.Contains(names, device.Name) {
					groups[*device.Attributes["iommuGroup"].IntValue]++
				}
			}
		}
		if len(groups) != 8 {
			return fmt.Errorf("devices of %d groups are allocated: %q", len(groups), names)
		}
		if !allocatorFeatures().PartitionableDevices {
			// Without counters the driver taints the peers of a prepared device.
			return expect([]string{fmt.Sprint(len(names))}, []string{"10"})
		}
		if len(names) != 8 {
			return fmt.Errorf("two devices of a group are allocated: %q", names)
		}
		return nil
	})
}

func manyDevices(p *programs) error {
	return onNode(p, nil, func(n *node) error {
		if err := n.addGPUs(256); err != nil {
			return err
		}
		s, _, err := n.scheduler()
		if err != nil {
			return err
		}
		if len(s.slices) != 4 {
			return fmt.Errorf("%d slices", len(s.slices))
		}
		names, err := s.allocateEvery()
		if err != nil {
			return err
		}
		if len(names) != 256 || !slices.IsSorted(names) {
			return fmt.Errorf("%d devices in the order %q", len(names), names)
		}
		return nil
	})
}

func longNames(p *programs) error {
	return onNode(p, []string{"--eight-gpus"}, func(n *node) error {
		pools := filepath.Join(n.root, "pools.yaml")
		resource := "example.com/" + strings.Repeat("X", 63)
		text := fmt.Sprintf("pools:\n  - resource: %s\n    select: [{vendor: 10de}]\n", resource)
		if err := os.WriteFile(pools, []byte(text), 0o644); err != nil {
			return err
		}
		label := strings.Repeat("n", 63)
		longNode := label + "." + label + "." + label + "." + strings.Repeat("n", 61)
		longDriver := strings.Repeat("d", 60) + ".io"
		s, messages, err := n.scheduler("--node", longNode, "--dra-driver", longDriver, "--pools", pools)
		if err != nil {
			return err
		}
		if !strings.Contains(messages, "first 64 characters") {
			return fmt.Errorf("no message about the resource: %s", messages)
		}
		names, err := s.allocateEvery()
		if err != nil {
			return err
		}
		return expect(names, eightGPUs)
	})
}

func noDevices(p *programs) error {
	return onNode(p, nil, func(n *node) error {
		s, _, err := n.scheduler()
		if err == nil && (len(s.slices) != 1 || len(s.classes) != 0) {
			err = fmt.Errorf("%d slices, %d classes", len(s.slices), len(s.classes))
		}
		return err
	})
}

func droppedFields(p *programs) error {
	return onNode(p, []string{"--eight-gpus"}, func(n *node) error {
		if err := n.order("start_vm", map[string]any{"addresses": []string{"0000:1b:00.0"}}); err != nil {
			return err
		}
		gate := utilfeature.DefaultMutableFeatureGate
		before, off := map[string]bool{}, map[string]bool{}
		for name := range gate.GetAll() {
			// The gate DRADeviceTaintRules needs the other one.
			if name == features.DRADeviceTaints || name == "DRADeviceTaintRules" {
				before[string(name)], off[string(name)] = gate.Enabled(name), false
			}
		}
		if err := gate.SetFromMap(off); err != nil {
			return err
		}
		_, _, err := n.publish("--kubernetes", "1.37")
		if restored := gate.SetFromMap(before); restored != nil {
			return restored
		}
		if err == nil || !strings.Contains(err.Error(), "sent 8 devices, 1 taints, 0 counted; stored 8, 0, 0") {
			return fmt.Errorf("the check finds no dropped taint: %w", err)
		}
		return nil
	})
}

func incompletePool(p *programs) error {
	return onNode(p, []string{"--eight-gpus"}, func(n *node) error {
		s, _, err := n.scheduler()
		if err != nil {
			return err
		}
		s.slices[0].Spec.Pool.ResourceSliceCount++
		names, err := s.allocateEvery()
		if p.minor == "34" {
			// 1.34 refuses only claims for all devices.
			return errors.Join(err, expect(names, eightGPUs))
		}
		return errors.Join(err, expect(names, nil))
	})
}

func missingTaint(p *programs) error {
	return onNode(p, []string{"--eight-gpus"}, func(n *node) error {
		if err := n.order("start_vm", map[string]any{"addresses": []string{"0000:1b:00.0"}}); err != nil {
			return err
		}
		s, _, err := n.scheduler("--kubernetes", "1.37")
		if err != nil && !allocatorFeatures().DeviceTaints {
			// This API server drops the taint: droppedFields shows that the check finds it.
			return nil
		}
		if err != nil {
			return err
		}
		s.slices[0].Spec.Devices[0].Taints = nil
		names, err := s.allocateEvery()
		if err != nil {
			return err
		}
		return expect(names, eightGPUs)
	})
}
