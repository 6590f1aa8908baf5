package main

import (
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	vfioprobe "github.com/vfio-probe/vfio-probe/go/vfioprobe"
)

var (
	groupState = prometheus.NewDesc("vfio_group_state",
		"1 for the current state of the group, 0 for the other states.", []string{"group", "state"}, nil)
	groupViable = prometheus.NewDesc("vfio_group_viable",
		"1 if VFIO can use the group, 0 if a member is bound to a host driver.", []string{"group"}, nil)
	groupHolder = prometheus.NewDesc("vfio_group_holder_info",
		"A process that holds the group; always 1.", []string{"group", "pid", "command", "via", "pod_uid", "container_id"}, nil)
	groupUncovered = prometheus.NewDesc("vfio_group_uncovered_processes",
		"Processes and descriptors that the scan for the holders of the group did not cover.", []string{"group"}, nil)
	deviceInfo = prometheus.NewDesc("vfio_device_info",
		"A device that is bound to a VFIO driver; always 1.",
		[]string{"device", "group", "model", "numa_node", "driver", "kind", "vendor_id", "device_id"}, nil)
	deviceState = prometheus.NewDesc("vfio_device_state",
		"1 for the current state of the device's group, 0 for the other states.", []string{"device", "state"}, nil)
	buildInfo = prometheus.NewDesc("vfio_build_info",
		"The version of the library; always 1.", []string{"version"}, nil)
	deviceUnreadable = prometheus.NewDesc("vfio_device_unreadable",
		"Devices that could not be read, by kind of error; device is empty for entries without a valid name.",
		[]string{"device", "kind"}, nil)
)

// states are the states of a group.
var states = []vfioprobe.State{vfioprobe.Free, vfioprobe.Held, vfioprobe.Absent, vfioprobe.Unknown}

// nodeCollector builds the series from the state of the watch at each request, so that no series outlives its device.
type nodeCollector struct{ watch *vfioprobe.Watch }

// Describe sends the descriptions of all series.
func (nodeCollector) Describe(out chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{
		buildInfo, groupState, groupViable, groupHolder, groupUncovered, deviceInfo, deviceState, deviceUnreadable,
	} {
		out <- desc
	}
}

// Collect sends the series. It reads nothing of the host.
func (c nodeCollector) Collect(out chan<- prometheus.Metric) {
	// Prometheus refuses the whole collection if a series occurs twice.
	type series struct {
		desc   *prometheus.Desc
		labels string
	}
	sent := map[series]bool{}
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		if one := (series{desc, strings.Join(labels, "\x00")}); !sent[one] {
			sent[one] = true
			out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
		}
	}
	gauge(buildInfo, 1, vfioprobe.Version())
	groups, err := c.watch.Groups()
	if err != nil {
		out <- prometheus.NewInvalidMetric(groupState, err)
		return
	}
	stateOf := map[vfioprobe.GroupID]vfioprobe.State{}
	for _, group := range groups {
		id := group.ID.String()
		stateOf[group.ID] = group.Occupancy.State
		for _, state := range states {
			gauge(groupState, one(group.Occupancy.State == state), id, state.String())
		}
		gauge(groupViable, one(group.Viable), id)
		if group.Occupancy.State == vfioprobe.Held {
			c.holders(group.ID, gauge)
		}
	}
	devices, err := c.watch.Devices()
	if err != nil {
		out <- prometheus.NewInvalidMetric(deviceInfo, err)
		return
	}
	for _, device := range devices.Devices {
		gauge(deviceInfo, 1, device.ID, groupLabel(device.Group), model(device), numaNode(device), device.Driver,
			device.Kind.String(), hex(device.Vendor), hex(device.Device))
		// The state of a device without a group, or of a group that the watch does not list yet, is not known.
		current, ok := stateOf[device.Group]
		if !ok {
			current = vfioprobe.Unknown
		}
		for _, state := range states {
			gauge(deviceState, one(current == state), device.ID, state.String())
		}
	}
	type entry struct{ device, kind string }
	unreadable := map[entry]int{}
	for _, err := range devices.Errors {
		unreadable[entry{err.Device, err.Kind.String()}]++
	}
	for of, count := range unreadable {
		gauge(deviceUnreadable, float64(count), of.device, of.kind)
	}
}

func (c nodeCollector) holders(group vfioprobe.GroupID, gauge func(*prometheus.Desc, float64, ...string)) {
	found, err := c.watch.Holders(group)
	if err != nil {
		return // The watch has ended.
	}
	gauge(groupUncovered, float64(found.Coverage.Unreadable+found.Coverage.Unattributed+found.Coverage.Unsearched), group.String())
	for _, holder := range found.Holders {
		gauge(groupHolder, 1, group.String(), strconv.Itoa(holder.PID), holder.Command, holder.Via.String(),
			holder.PodUID, holder.ContainerID)
	}
}

// model returns the vGPU type, or the name of the model in the built-in table; "" if it is not known.
func model(device vfioprobe.Device) string {
	if device.VGPUType != "" {
		return device.VGPUType
	}
	names, err := vfioprobe.Names("", vfioprobe.Model{Vendor: device.Vendor, Device: device.Device})
	if err != nil {
		return ""
	}
	return names[0]
}

// numaNode returns the NUMA node, or "" if it is not known.
func numaNode(device vfioprobe.Device) string {
	if device.NUMANode < 0 {
		return ""
	}
	return strconv.Itoa(device.NUMANode)
}

// groupLabel returns the number of a group, or "" without one.
func groupLabel(group vfioprobe.GroupID) string {
	if group == vfioprobe.NoGroup {
		return ""
	}
	return group.String()
}

func one(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

func hex(id uint16) string {
	text := strconv.FormatUint(uint64(id), 16)
	return "0000"[len(text):] + text
}
