package main

import (
	"strconv"
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	vfioprobe "github.com/vfio-probe/vfio-probe/ffi/go"
)

var (
	groupState = prometheus.NewDesc("vfio_group_state",
		"1 for the state that the group is in, 0 for the others.", []string{"group", "state"}, nil)
	groupViable = prometheus.NewDesc("vfio_group_viable",
		"1 if VFIO can use the group, 0 if a member has a driver of the host.", []string{"group"}, nil)
	groupHolder = prometheus.NewDesc("vfio_group_holder_info",
		"A process that holds the group; always 1.", []string{"group", "pid", "command", "via", "pod_uid", "container_id"}, nil)
	groupUnseen = prometheus.NewDesc("vfio_group_unseen_processes",
		"Processes and descriptors that the look for the group's holders could not see.", []string{"group"}, nil)
	deviceInfo = prometheus.NewDesc("vfio_device_info",
		"A device that is bound to a VFIO driver; always 1.",
		[]string{"device", "group", "driver", "kind", "vendor_id", "device_id", "numa_node"}, nil)
	deviceBroken = prometheus.NewDesc("vfio_device_unreadable",
		"Entries that could not be read, by kind of trouble; device is empty for those that name none.",
		[]string{"device", "kind"}, nil)
)

// states are all that a group can be in.
var states = []vfioprobe.State{vfioprobe.Free, vfioprobe.Held, vfioprobe.Absent, vfioprobe.Unknown}

// nodeCollector makes the series anew from what the watch knows whenever it is asked, so what is gone leaves none behind.
type nodeCollector struct{ watch *vfioprobe.Watch }

// Describe tells all kinds of series.
func (nodeCollector) Describe(out chan<- *prometheus.Desc) {
	for _, desc := range []*prometheus.Desc{
		groupState, groupViable, groupHolder, groupUnseen, deviceInfo, deviceBroken,
	} {
		out <- desc
	}
}

// Collect tells the series. It reads nothing of the node.
func (c nodeCollector) Collect(out chan<- prometheus.Metric) {
	// Prometheus takes no series twice, and would refuse all for it.
	type series struct {
		desc   *prometheus.Desc
		labels string
	}
	told := map[series]bool{}
	gauge := func(desc *prometheus.Desc, value float64, labels ...string) {
		if one := (series{desc, strings.Join(labels, "\x00")}); !told[one] {
			told[one] = true
			out <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, value, labels...)
		}
	}
	groups, err := c.watch.Groups()
	if err != nil {
		out <- prometheus.NewInvalidMetric(groupState, err)
		return
	}
	for _, group := range groups {
		id := group.ID.String()
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
		gauge(deviceInfo, 1, device.ID, device.Group.String(), device.Driver, device.Kind.String(),
			hex(device.Vendor), hex(device.Device), strconv.Itoa(device.NUMANode))
	}
	type trouble struct{ device, kind string }
	broken := map[trouble]int{}
	for _, err := range devices.Broken {
		broken[trouble{err.Device, err.Kind.String()}]++
	}
	for of, count := range broken {
		gauge(deviceBroken, float64(count), of.device, of.kind)
	}
}

func (c nodeCollector) holders(group vfioprobe.GroupID, gauge func(*prometheus.Desc, float64, ...string)) {
	found, err := c.watch.Holders(group)
	if err != nil {
		return // The watch has just ended.
	}
	gauge(groupUnseen, float64(found.Looked.Unreadable+found.Looked.Unattributed), group.String())
	for _, holder := range found.Holders {
		gauge(groupHolder, 1, group.String(), strconv.Itoa(holder.PID), holder.Command, holder.Via.String(),
			holder.PodUID, holder.ContainerID)
	}
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
