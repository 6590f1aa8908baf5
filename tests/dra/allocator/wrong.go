package main

import (
	"encoding/json"
	"fmt"
	"strings"

	resourceapi "k8s.io/api/resource/v1"
	"k8s.io/kubernetes/pkg/registry/resource/resourceslice"
)

type object = map[string]any

// wrongs are changes of a slice with eight devices, the first of which is held. The API server refuses each of them.
var wrongs = map[string]func(spec object, devices []any) []any{
	"a key that the type does not have": func(spec object, devices []any) []any {
		spec["color"] = "red"
		return devices
	},
	"65 devices, one with a taint": func(_ object, devices []any) []any { return copies(devices, 65) },
	"129 devices":                  func(_ object, devices []any) []any { return copies(devices[1:], 129) },
	"two devices of one name":      func(_ object, devices []any) []any { return append(devices, devices[0]) },
	"a device name with a colon": func(_ object, devices []any) []any {
		devices[0].(object)["name"] = "pci-0000:1b:00.0"
		return devices
	},
	"a taint's value of 64 characters": func(_ object, devices []any) []any {
		taint(devices)["value"] = strings.Repeat("x", 64)
		return devices
	},
	"a taint's value with a space": func(_ object, devices []any) []any {
		taint(devices)["value"] = "a b"
		return devices
	},
	"a taint's effect that does not exist": func(_ object, devices []any) []any {
		taint(devices)["effect"] = "NoAllocate"
		return devices
	},
	"an attribute of 65 characters": func(_ object, devices []any) []any {
		attributes(devices)["model"] = object{"string": strings.Repeat("x", 65)}
		return devices
	},
	"an attribute with two values": func(_ object, devices []any) []any {
		attributes(devices)["model"] = object{"string": "x", "int": 1}
		return devices
	},
	"33 attributes": func(_ object, devices []any) []any {
		for index := range 33 {
			attributes(devices)[fmt.Sprintf("extra%d", index)] = object{"int": index}
		}
		return devices
	},
	"no node": func(spec object, devices []any) []any {
		delete(spec, "nodeName")
		return devices
	},
	"a pool of no slices": func(spec object, devices []any) []any {
		spec["pool"].(object)["resourceSliceCount"] = 0
		return devices
	},
}

func taint(devices []any) object {
	return devices[0].(object)["taints"].([]any)[0].(object)
}

func attributes(devices []any) object {
	return devices[0].(object)["attributes"].(object)
}

// copies returns devices with other names, so many of them.
func copies(devices []any, count int) []any {
	all := make([]any, 0, count)
	for index := range count {
		device := object{}
		for key, value := range devices[index%len(devices)].(object) {
			device[key] = value
		}
		device["name"] = fmt.Sprintf("copy-%d", index)
		all = append(all, device)
	}
	return all
}

func wrongSlices(p *programs) error {
	return onNode(p, []string{"--eight-gpus"}, func(n *node) error {
		if err := n.order("start_vm", map[string]any{"addresses": []string{"0000:1b:00.0"}}); err != nil {
			return err
		}
		text, _, err := n.printed("--kubernetes", "1.37")
		if err != nil {
			return err
		}
		if _, err := createAll[resourceapi.ResourceSlice](resourceslice.Strategy, "resourceslices", text); err != nil {
			return fmt.Errorf("the slice without a change is refused: %w", err)
		}
		for name, change := range wrongs {
			var list struct{ Items []object }
			if err := json.Unmarshal(text, &list); err != nil {
				return err
			}
			spec := list.Items[0]["spec"].(object)
			spec["devices"] = change(spec, spec["devices"].([]any))
			changed, err := json.Marshal(list)
			if err != nil {
				return err
			}
			if _, err := createAll[resourceapi.ResourceSlice](resourceslice.Strategy, "resourceslices", changed); err == nil {
				// This version drops taints before it validates them.
				if !allocatorFeatures().DeviceTaints && strings.Contains(name, "taint") {
					continue
				}
				return fmt.Errorf("a slice with %s is accepted", name)
			}
		}
		return nil
	})
}
