package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"
	"time"

	vfioprobe "github.com/vfio-probe/vfio-probe/go/vfioprobe"
)

// badInputs makes the calls of the arguments, a name and an argument each, and returns what they report. It is nil for a call
// that Go does not have.
func badInputs(path string, calls []string) []any {
	var reports []any
	for ; len(calls) >= 2; calls = calls[2:] {
		result, known, err := badInput(path, calls[0], calls[1])
		switch {
		case !known:
			reports = append(reports, nil)
		case err != nil:
			reports = append(reports, refused(err))
		default:
			reports = append(reports, object{"result": result})
		}
	}
	return reports
}

func badInput(path, call, argument string) (result string, known bool, err error) {
	root, err := vfioprobe.Open(path)
	if err != nil {
		return "", true, err
	}
	defer root.Close()
	first, last, _ := strings.Cut(argument, " ")
	number, _ := strconv.ParseUint(first, 10, 32)
	group := vfioprobe.GroupID(number)
	duration := func(text string) time.Duration {
		millis, _ := strconv.Atoi(text)
		return time.Duration(millis) * time.Millisecond
	}
	switch call {
	case "open":
		_, err = vfioprobe.Open(argument)
	case "open_nul":
		_, err = vfioprobe.Open("a\x00b")
	case "names":
		_, err = vfioprobe.Names(argument, vfioprobe.Model{Vendor: 0x10de, Device: 0x2330})
	case "device":
		_, err = root.Device(argument)
	case "hardware":
		_, err = root.Hardware(argument)
	case "scan":
		err = errorOfScan(root, argument)
	case "group":
		_, err = root.Group(group)
	case "members":
		_, err = root.Members(group)
	case "peek":
		var peek vfioprobe.Peek
		peek, err = root.Peek(group)
		result = peek.String()
	case "probe":
		var occupancy vfioprobe.Occupancy
		occupancy, err = root.Probe(group)
		result = state(occupancy)
	case "probe_within":
		var occupancy vfioprobe.Occupancy
		occupancy, err = root.ProbeWithin(group, duration(last))
		result = state(occupancy)
	case "nodes":
		var nodes []vfioprobe.DeviceNode
		nodes, err = root.DeviceNodes(group)
		result = "group node none"
		for _, node := range nodes {
			if node.Kind == vfioprobe.NodeGroup && node.Path != "" {
				result = "group node " + node.Path
			}
		}
	case "holders":
		_, err = root.Holders(group)
	case "snapshot_within":
		_, err = root.SnapshotWithProbes(duration(argument))
	case "interval":
		_, err = root.Watch(context.Background(), vfioprobe.WatchOptions{Interval: duration(argument)})
	case "watch_group":
		result, err = watched(root, group)
	case "wait_free":
		err = waitFree(root, group)
		result = strconv.FormatBool(err == nil)
		if errors.Is(err, context.DeadlineExceeded) {
			err = nil
		}
	case "closed_root":
		root.Close()
		_, err = root.Peek(51)
	case "closed_watch":
		var watch *vfioprobe.Watch
		if watch, err = root.Watch(context.Background(), vfioprobe.WatchOptions{}); err == nil {
			watch.Close()
			_, err = watch.Devices()
		}
	default:
		return "", false, nil
	}
	return result, true, err
}

func errorOfScan(root *vfioprobe.Root, device string) error {
	scan, err := root.Scan()
	if err != nil {
		return err
	}
	for _, failed := range scan.Errors {
		if failed.Device == device {
			return failed
		}
	}
	return nil
}

// watched returns the state of a group in a watch that is ready.
func watched(root *vfioprobe.Root, group vfioprobe.GroupID) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
	defer cancel()
	watch, err := root.Watch(ctx, vfioprobe.WatchOptions{})
	if err != nil {
		return "", err
	}
	defer watch.Close()
	if err := watch.WaitFor(ctx, func(*vfioprobe.Watch) bool { return true }); err != nil {
		return "", err
	}
	known, found, err := watch.Group(group)
	if !found {
		return "none", err
	}
	return state(known.Occupancy), err
}

func waitFree(root *vfioprobe.Root, group vfioprobe.GroupID) error {
	watch, err := root.Watch(context.Background(), vfioprobe.WatchOptions{})
	if err != nil {
		return err
	}
	defer watch.Close()
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Millisecond)
	defer cancel()
	return watch.WaitFree(ctx, group)
}

// state returns the state of a probe, and why it is not known.
func state(occupancy vfioprobe.Occupancy) string {
	switch {
	case occupancy.State != vfioprobe.Unknown:
		return occupancy.State.String()
	case occupancy.UnknownReason == vfioprobe.UnknownErrno:
		return fmt.Sprintf("unknown, errno %d", int(occupancy.Errno))
	default:
		return "unknown, " + occupancy.UnknownReason.String()
	}
}

// refused reports an error: the errors that errors.Is finds in it, and its fields if it is an *Error.
func refused(err error) object {
	var matches []string
	for _, known := range []struct {
		name string
		err  error
	}{
		{"os.ErrNotExist", fs.ErrNotExist}, {"os.ErrPermission", os.ErrPermission}, {"ErrMalformed", vfioprobe.ErrMalformed},
		{"ErrTooLong", vfioprobe.ErrTooLong}, {"ErrInvalid", vfioprobe.ErrInvalid}, {"ErrClosed", vfioprobe.ErrClosed},
	} {
		if errors.Is(err, known.err) {
			matches = append(matches, known.name)
		}
	}
	report := object{"type": strings.Join(matches, ", "), "text": strings.TrimPrefix(err.Error(), "vfio-probe: ")}
	var failed *vfioprobe.Error
	if errors.As(err, &failed) {
		if len(matches) == 0 {
			report["type"] = "syscall.Errno"
		}
		report["kind"], report["errno"] = failed.Kind.String(), int(failed.Errno)
		report["device"], report["group"] = orNull(failed.Device, ""), orNull(failed.Group, vfioprobe.NoGroup)
		report["path"] = orNull(escaped(failed.Path), "")
	}
	return report
}

// escaped shows each byte that is not printable ASCII as %FF.
func escaped(path string) string {
	var shown strings.Builder
	for index := range len(path) {
		if char := path[index]; char < ' ' || char > '~' {
			fmt.Fprintf(&shown, "%%%02X", char)
		} else {
			shown.WriteByte(char)
		}
	}
	return shown.String()
}
