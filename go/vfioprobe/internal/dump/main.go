// Command dump prints all results of the Go package for a tree as JSON, to be compared with the other languages: dump ROOT.
// With a second argument it prints what calls report that open no group: dump ROOT unprobed. dump ROOT errors CALL ARGUMENT...
// makes calls with bad input and prints a list of their reports.
package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log"
	"os"
	"slices"
	"time"

	vfioprobe "github.com/vfio-probe/vfio-probe/go/vfioprobe"
)

// object is a JSON object; nil is null.
type object map[string]any

func main() {
	read := dump
	switch {
	case len(os.Args) > 3 && os.Args[2] == "errors":
		if err := json.NewEncoder(os.Stdout).Encode(badInputs(os.Args[1], os.Args[3:])); err != nil {
			log.Fatal(err)
		}
		return
	case len(os.Args) == 3 && os.Args[2] == "unprobed":
		read = unprobed
	case len(os.Args) != 2:
		log.Fatal("usage: dump ROOT [unprobed | errors CALL ARGUMENT...]")
	}
	document, err := read(os.Args[1])
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
		"uid": orNull(h.UID, vfioprobe.NoUID), "started": orNull(h.Started.Unix(), time.Time{}.Unix()),
		"group": h.Group, "pid": h.PID, "start_time": h.StartTime, "command": h.Command, "via": h.Via.String(),
		"in_pod": h.InPod.String(), "pod_uid": orNull(h.PodUID, ""), "container_id": orNull(h.ContainerID, ""),
	}
}

// unprobed calls what opens no group: a watch up to EventReady, waits, a snapshot, device nodes and hardware.
func unprobed(path string) (object, error) {
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
	watch, err := root.Watch(context.Background(), vfioprobe.WatchOptions{})
	if err != nil {
		return nil, err
	}
	defer watch.Close()
	words, err := events(watch)
	if err != nil {
		return nil, err
	}
	snapshot, err := root.Snapshot()
	if err != nil {
		return nil, err
	}
	return object{
		"events":   words,
		"ready":    watch.Ready(),
		"waits":    each(groups, func(id vfioprobe.GroupID) object { return waits(watch, id) }),
		"snapshot": each(snapshot.Groups, func(g vfioprobe.GroupSnapshot) vfioprobe.GroupID { return g.ID }),
		"nodes":    each(groups, func(id vfioprobe.GroupID) object { return nodes(root, id) }),
		"hardware": hardware(root, scan.Devices),
	}, nil
}

// events returns the words of the events up to EventReady, sorted; it is the last.
func events(watch *vfioprobe.Watch) ([]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	var words []string
	for {
		event, err := watch.Next(ctx)
		if err != nil {
			return nil, err
		}
		if event.Kind == vfioprobe.EventReady {
			slices.Sort(words)
			return append(words, "ready"), nil
		}
		subject := event.Device
		if event.Group != vfioprobe.NoGroup {
			subject = fmt.Sprint(uint32(event.Group))
		}
		words = append(words, event.Kind.String()+" "+subject)
	}
}

// waits checks the conditions of waits. The time is too short for a change.
func waits(watch *vfioprobe.Watch, id vfioprobe.GroupID) object {
	holds := func(wait func(context.Context, vfioprobe.GroupID) error) bool {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Millisecond)
		defer cancel()
		return wait(ctx, id) == nil
	}
	return object{"group": id, "free": holds(watch.WaitFree), "held": holds(watch.WaitHeld)}
}

func nodes(root *vfioprobe.Root, id vfioprobe.GroupID) object {
	all, err := root.DeviceNodes(id)
	if err != nil {
		return object{"group": id, "error": failed(err)}
	}
	names := map[vfioprobe.NodeKind]string{
		vfioprobe.NodeContainer: "container", vfioprobe.NodeGroup: "node", vfioprobe.NodeIOMMUFD: "iommufd",
	}
	devices := [][]string{}
	result := object{"group": id, "container": nil, "node": nil, "iommufd": nil}
	for _, node := range all {
		switch {
		case node.Path == "":
		case node.Kind == vfioprobe.NodeCdev:
			devices = append(devices, []string{node.Device, node.Path})
		default:
			result[names[node.Kind]] = node.Path
		}
	}
	result["devices"] = devices
	return result
}

func hardware(root *vfioprobe.Root, devices []vfioprobe.Device) []object {
	all := []object{}
	for _, device := range devices {
		if device.Kind == vfioprobe.KindMdev {
			continue
		}
		read, err := root.Hardware(device.ID)
		if err != nil {
			all = append(all, object{"device": device.ID, "error": failed(err)})
			continue
		}
		all = append(all, object{
			"device": device.ID, "presence": read.Presence.String(), "fatal_errors": orNull(read.FatalErrors, -1),
		})
	}
	return all
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
