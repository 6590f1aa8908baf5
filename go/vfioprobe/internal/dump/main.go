// Command dump prints all results of the Go package for a tree as JSON, to be compared with the other languages: dump ROOT.
package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"log"
	"os"
	"slices"

	vfioprobe "github.com/vfio-probe/vfio-probe/go/vfioprobe"
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
	snapshot, err := root.Snapshot()
	if err != nil {
		return nil, err
	}
	return object{
		"group_nodes": hasNodes,
		"devices":     each(scan.Devices, device),
		"errors":      each(scan.Errors, func(err *vfioprobe.Error) object { return failed(err) }),
		"groups":      each(groups, func(id vfioprobe.GroupID) object { return group(root, id) }),
		"holders":     each(found.Holders, holder),
		"coverage": object{
			"processes":     found.Coverage.Processes,
			"unreadable":    found.Coverage.Unreadable,
			"unattributed":  found.Coverage.Unattributed,
			"unsearched":    found.Coverage.Unsearched,
			"pid_namespace": found.Coverage.PIDNamespace.String(),
			"complete":      found.Coverage.Complete(),
		},
		"snapshot": each(snapshot.Groups, seen),
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
	result := object{
		"group": id, "state": occupancy.State.String(), "errno": int(occupancy.Errno),
		"unknown_reason": orNull(occupancy.UnknownReason.String(), vfioprobe.UnknownNone.String()),
	}
	read, errGroup := root.Group(id)
	members, errMembers := root.Members(id)
	if err := cmp.Or(errGroup, errMembers); err != nil {
		result["error"] = failed(err)
		return result
	}
	result["viable"], result["unreadable"] = read.Viable, read.Unreadable
	result["offender"], result["offender_driver"] = orNull(read.Offender, ""), orNull(read.OffenderDriver, "")
	result["offenders"] = read.Offenders
	result["members"] = each(members.Members, member)
	result["errors"] = each(members.Errors, func(err *vfioprobe.Error) string { return err.Text })
	result["peek"] = peek(root, id)
	return result
}

func member(m vfioprobe.Member) object {
	return object{"name": m.Name, "driver": orNull(m.Driver, ""), "vfio": m.VFIO, "offends": m.Offends}
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
		"in_pod": h.InPod.String(), "pod_uid": orNull(h.PodUID, ""), "container_id": orNull(h.ContainerID, ""),
	}
}

func seen(g vfioprobe.GroupSnapshot) object {
	return object{
		"group": g.ID, "state": g.Occupancy.State.String(), "evidence": g.Evidence.String(),
		"holders": each(g.Holders, func(h vfioprobe.Holder) int { return h.PID }),
	}
}

func failed(err error) object {
	var failed *vfioprobe.Error
	if !errors.As(err, &failed) {
		log.Fatalf("unexpected type of error: %T %v", err, err)
	}
	return object{
		"device": orNull(failed.Device, ""), "group": orNull(failed.Group, vfioprobe.NoGroup),
		"kind": failed.Kind.String(), "errno": int(failed.Errno), "text": failed.Text,
	}
}

// orNull returns the value, or null if it is the value for "none".
func orNull[T comparable](value, none T) any {
	if value == none {
		return nil
	}
	return value
}

// each converts all items. The result is never null: an empty list becomes an empty JSON array.
func each[T, R any](all []T, one func(T) R) []R {
	out := make([]R, 0, len(all))
	for _, item := range all {
		out = append(out, one(item))
	}
	return out
}
