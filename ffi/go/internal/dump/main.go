// Command dump says in JSON what the Go package tells of a tree, to be compared with other languages: dump ROOT.
package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"log"
	"os"
	"slices"

	vfioprobe "github.com/vfio-probe/vfio-probe/ffi/go"
)

// object is a JSON object; nil is null.
type object map[string]any

func main() {
	if len(os.Args) != 2 {
		log.Fatal("usage: dump ROOT")
	}
	document, err := dump(os.Args[1])
	if err != nil {
		document = object{"error": failed(err)}
	}
	if err := json.NewEncoder(os.Stdout).Encode(document); err != nil {
		log.Fatal(err)
	}
}

func dump(path string) (object, error) {
	root, err := vfioprobe.Open(path)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	scan, err := root.Scan()
	if err != nil {
		return nil, err
	}
	groups := groupsOf(scan)
	found, err := root.Holders(groups...)
	if err != nil {
		return nil, err
	}
	hasNodes, err := root.HasGroupNodes()
	if err != nil {
		return nil, err
	}
	return object{
		"group_nodes": hasNodes,
		"devices":     each(scan.Devices, device),
		"broken":      each(scan.Broken, func(err *vfioprobe.Error) object { return failed(err) }),
		"groups":      each(groups, func(id vfioprobe.GroupID) object { return group(root, id) }),
		"holders":     each(found.Holders, holder),
		"looked": object{
			"processes":    found.Looked.Processes,
			"unreadable":   found.Looked.Unreadable,
			"unattributed": found.Looked.Unattributed,
		},
	}, nil
}

func groupsOf(scan vfioprobe.Scan) []vfioprobe.GroupID {
	var groups []vfioprobe.GroupID
	for _, device := range scan.Devices {
		if device.Group != vfioprobe.NoGroup {
			groups = append(groups, device.Group)
		}
	}
	slices.Sort(groups)
	return slices.Compact(groups)
}

func device(d vfioprobe.Device) object {
	return object{
		"id": d.ID, "vendor": d.Vendor, "device": d.Device, "subsystem_vendor": d.SubsystemVendor,
		"subsystem_device": d.SubsystemDevice, "class": d.Class, "driver": orNull(d.Driver, ""),
		"group": orNull(d.Group, vfioprobe.NoGroup), "numa_node": orNull(d.NUMANode, -1), "sriov": d.SRIOV.String(),
		"vfs": d.VFs, "cdev": orNull(d.Cdev, -1), "kind": d.Kind.String(), "vgpu_type": orNull(d.VGPUType, ""),
		"parent": orNull(d.Parent, ""),
	}
}

func group(root *vfioprobe.Root, id vfioprobe.GroupID) object {
	occupancy, err := root.Probe(id)
	if err != nil {
		return object{"group": id, "error": failed(err)}
	}
	told := object{
		"group": id, "state": occupancy.State.String(), "errno": int(occupancy.Errno),
		"why": orNull(occupancy.Why.String(), vfioprobe.WhyNone.String()),
	}
	seen, unseen := root.Group(id)
	members, unlisted := root.Members(id)
	if err := cmp.Or(unseen, unlisted); err != nil {
		told["error"] = failed(err)
		return told
	}
	told["viable"], told["unreadable"] = seen.Viable, seen.Unreadable
	told["offender"], told["offender_driver"] = orNull(seen.Offender, ""), orNull(seen.OffenderDriver, "")
	told["members"] = each(members.Members, member)
	told["broken"] = each(members.Broken, func(err *vfioprobe.Error) string { return err.Text })
	told["peek"] = peek(root, id)
	return told
}

func member(m vfioprobe.Member) object {
	return object{"name": m.Name, "driver": orNull(m.Driver, ""), "vfio": m.VFIO}
}

func peek(root *vfioprobe.Root, id vfioprobe.GroupID) any {
	peek, err := root.Peek(id)
	if err != nil {
		return failed(err)
	}
	return peek.String()
}

func holder(h vfioprobe.Holder) object {
	return object{
		"group": h.Group, "pid": h.PID, "start_time": h.StartTime, "command": h.Command, "via": h.Via.String(),
		"pod_uid": orNull(h.PodUID, ""), "container_id": orNull(h.ContainerID, ""),
	}
}

func failed(err error) object {
	var failed *vfioprobe.Error
	if !errors.As(err, &failed) {
		log.Fatalf("an error of another type: %T %v", err, err)
	}
	return object{
		"device": orNull(failed.Device, ""), "group": orNull(failed.Group, vfioprobe.NoGroup),
		"kind": failed.Kind.String(), "errno": int(failed.Errno), "text": failed.Text,
	}
}

// orNull is the value, or null where it is the one that means that there is none.
func orNull[T comparable](value, none T) any {
	if value == none {
		return nil
	}
	return value
}

// each is never null: JSON's empty array.
func each[T, R any](all []T, one func(T) R) []R {
	out := make([]R, 0, len(all))
	for _, item := range all {
		out = append(out, one(item))
	}
	return out
}
