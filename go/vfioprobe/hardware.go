package vfioprobe

// #include "vfio_probe.h"
// #cgo noescape vfp_hardware_read
// #cgo nocallback vfp_hardware_read
// #cgo noescape vfp_device_nodes
// #cgo nocallback vfp_device_nodes
import "C"

// Presence reports whether the hardware of a PCI function responds.
type Presence int32

// Values of [Presence].
const (
	// PresenceNotChecked means that the function was not read, because that would wake a device.
	PresenceNotChecked Presence = C.VFP_PRESENCE_NOT_CHECKED
	// PresencePresent means that the function responds.
	PresencePresent Presence = C.VFP_PRESENCE_PRESENT
	// PresenceLost means that the registers read as all ones: the function, or a bridge above it, has fallen off the bus.
	PresenceLost Presence = C.VFP_PRESENCE_LOST
)

// Hardware is the state of a function's hardware.
type Hardware struct {
	// Presence reports whether the function responds.
	Presence Presence `json:"presence"`
	// FatalErrors is the number of fatal PCIe errors since the function was added, or -1 if the kernel does not count them.
	FatalErrors int64 `json:"fatal_errors"`
}

// Hardware reads whether the hardware of a PCI function responds, and how many fatal PCIe errors it had. It reads the first
// registers of the function unless that would wake a device, and blocks for seconds while the kernel resets the function.
//
// The error is [ErrInvalid] if address is not a PCI address, and [os.ErrNotExist] if there is no such function.
func (r *Root) Hardware(address string) (Hardware, error) {
	cAddress, err := terminated("address", address)
	if err != nil {
		return Hardware{}, err
	}
	h, err := r.use()
	if err != nil {
		return Hardware{}, err
	}
	defer h.release()
	var record C.vfp_hardware
	failed := lendError()
	defer errorRecords.Put(failed)
	if C.vfp_hardware_read(h.c, cAddress, C.sizeof_vfp_hardware, &record, failed) < 0 {
		return Hardware{}, failure(failed)
	}
	// VFP_NO_ERROR_COUNT is the greatest number, so that it becomes -1.
	return Hardware{Presence(record.presence), int64(record.fatal_errors)}, nil
}

// NodeKind is the kind of a [DeviceNode].
type NodeKind int32

// Kinds of device nodes.
const (
	// NodeContainer is vfio/vfio, which a VM in group mode opens.
	NodeContainer NodeKind = C.VFP_NODE_CONTAINER
	// NodeGroup is the node of the group, vfio/N, which a VM in group mode opens.
	NodeGroup NodeKind = C.VFP_NODE_GROUP
	// NodeIOMMUFD is iommu, which a VM in iommufd mode opens.
	NodeIOMMUFD NodeKind = C.VFP_NODE_IOMMUFD
	// NodeCdev is vfio/devices/vfioN, the node of one device, which a VM in iommufd mode opens.
	NodeCdev NodeKind = C.VFP_NODE_CDEV
)

// DeviceNode is a device node that a VM needs.
type DeviceNode struct {
	// Kind is the kind of node.
	Kind NodeKind `json:"kind"`
	// Path is relative to /dev. It is "" for a device that has no node of its own.
	Path string `json:"path"`
	// Device is the device of a [NodeCdev], else "".
	Device string `json:"device"`
}

// nodeArrays are the arrays of DeviceNodes.
var nodeArrays records[C.vfp_device_node]

// DeviceNodes lists the device nodes that the kernel has for a group. A VM in group mode needs the nodes of [NodeContainer]
// and [NodeGroup]. A VM in iommufd mode needs the node of [NodeIOMMUFD] and the [NodeCdev] of each device that it uses. A mode
// is possible if the list has all of its nodes, each with a path. DeviceNodes opens no device and needs no privilege.
//
// The error is [os.ErrNotExist] if there is no such group, and [ErrInvalid] for [NoGroup].
func (r *Root) DeviceNodes(group GroupID) ([]DeviceNode, error) {
	h, err := r.use()
	if err != nil {
		return nil, err
	}
	defer h.release()
	var nodes []DeviceNode
	failed := lendError()
	defer errorRecords.Put(failed)
	err = nodeArrays.fill(failed, func(first *C.vfp_device_node, capacity C.size_t, count *C.size_t) C.vfp_status {
		return C.vfp_device_nodes(h.c, C.uint32_t(group), C.sizeof_vfp_device_node, capacity, first, count, failed)
	}, func(records []C.vfp_device_node) {
		for i := range records {
			record := &records[i]
			nodes = append(nodes, DeviceNode{NodeKind(record.kind), text(record.path[:]), text(record.device[:])})
		}
	})
	return nodes, err
}
