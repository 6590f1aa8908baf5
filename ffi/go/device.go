package vfioprobe

// #include <vfio_probe.h>
// #cgo noescape vfp_scan
// #cgo nocallback vfp_scan
// #cgo noescape vfp_device_read
// #cgo nocallback vfp_device_read
// #cgo nocallback vfp_kind_text
// #cgo nocallback vfp_sriov_text
import "C"

import (
	"slices"
	"strings"
	"syscall"
)

// Kind is what a device is.
type Kind int32

// Kinds of devices.
const (
	// KindPCI is a PCI function behind a driver built on vfio-pci-core.
	KindPCI Kind = C.VFP_KIND_PCI
	// KindMdev is a mediated device.
	KindMdev Kind = C.VFP_KIND_MDEV
	// KindVendorVF is a virtual function whose vendor's driver (nvidia) is itself a VFIO driver.
	KindVendorVF Kind = C.VFP_KIND_VENDOR_VF
)

// String returns pci, mdev or vendor-vf.
func (k Kind) String() string { return C.GoString(C.vfp_kind_text(C.int32_t(k))) }

// SRIOV is a PCI function's part in SR-IOV.
type SRIOV int32

// Parts in SR-IOV.
const (
	// SRIOVNone is no part in SR-IOV.
	SRIOVNone SRIOV = C.VFP_SRIOV_NONE
	// SRIOVPhysical is a physical function with virtual functions on.
	SRIOVPhysical SRIOV = C.VFP_SRIOV_PHYSICAL
	// SRIOVVirtual is a virtual function.
	SRIOVVirtual SRIOV = C.VFP_SRIOV_VIRTUAL
)

// String returns none, physical or virtual.
func (s SRIOV) String() string { return C.GoString(C.vfp_sriov_text(C.int32_t(s))) }

// Device is a device that can be given to a virtual machine: bound to a VFIO driver, if it comes from [Root.Scan].
type Device struct {
	// ID is the PCI address (0000:3b:00.0) or the mdev's uuid.
	ID string
	// Vendor is the PCI vendor id; of a mediated device its parent's, 0 when the parent is no PCI function.
	Vendor uint16
	// Device is the PCI device id; of a mediated device its parent's.
	Device uint16
	// SubsystemVendor is the PCI subsystem vendor id, 0 for none.
	SubsystemVendor uint16
	// SubsystemDevice is the PCI subsystem id, 0 for none.
	SubsystemDevice uint16
	// Class is the PCI class, 24 bits: 0x030200 is a 3D controller.
	Class uint32
	// Driver is its driver; "" while the kernel is unbinding it.
	Driver string
	// Group is its IOMMU group, or [NoGroup].
	Group GroupID
	// NUMANode is its NUMA node, -1 for unknown.
	NUMANode int
	// SRIOV is its part in SR-IOV.
	SRIOV SRIOV
	// VFs is how many virtual functions a physical one has on, else 0.
	VFs int
	// Cdev is N of its /dev/vfio/devices/vfioN, -1 for none.
	Cdev int
	// Kind is what it is.
	Kind Kind
	// VGPUType is the mdev type (nvidia-35) or a vendor VF's vGPU type number, else "".
	VGPUType string
	// Parent is the address of a mediated device's or a virtual function's parent, else "".
	Parent string
}

// Scan is what [Root.Scan] finds.
type Scan struct {
	// Devices are the devices bound to a VFIO driver, by ID.
	Devices []Device
	// Broken says of each device that could not be read why. Nothing is known of such a device but that it is there.
	Broken []*Error
}

// lentDevices are the arrays of scans and watches.
var lentDevices records[C.vfp_device]

// Scan tells all devices that are bound to a VFIO driver. It opens no device and needs no privilege; it reads sysfs,
// some 10 system calls a device.
//
// It fails when the bound devices cannot be listed at all; a device that cannot be read is in the result's Broken.
func (r *Root) Scan() (Scan, error) {
	h, err := r.use()
	if err != nil {
		return Scan{}, err
	}
	defer h.release()
	var scan Scan
	var failed C.vfp_error
	err = lentDevices.fill(&failed, func(first *C.vfp_device, capacity C.size_t, count *C.size_t) C.vfp_status {
		return C.vfp_scan(h.c, C.sizeof_vfp_device, capacity, first, count, &failed)
	}, scan.take)
	if err != nil {
		return Scan{}, err
	}
	return scan, nil
}

// take parts the records into whole and broken ones.
func (s *Scan) take(records []C.vfp_device) {
	s.Devices = make([]Device, 0, len(records))
	for i := range records {
		if record := &records[i]; record.status == C.VFP_OK {
			s.Devices = append(s.Devices, device(record))
		} else {
			s.Broken = append(s.Broken, &Error{
				Kind:   ErrorKind(record.status),
				Errno:  syscall.Errno(record.os_errno),
				Device: text(record.id[:]),
				Group:  NoGroup,
				Text:   text(record.problem[:]),
			})
		}
	}
	slices.SortFunc(s.Devices, func(a, b Device) int { return strings.Compare(a.ID, b.ID) })
	slices.SortFunc(s.Broken, func(a, b *Error) int { return strings.Compare(a.Text, b.Text) })
}

// Device tells one device by its id, a PCI address or an mdev's uuid, whatever it is bound to. Its Cdev is -1: only a
// scan knows it. It opens no device and needs no privilege.
//
// The error is [ErrInvalid] for a text that is no id, [os.ErrNotExist] for a device that is not there.
func (r *Root) Device(id string) (Device, error) {
	given, err := terminated("id", id)
	if err != nil {
		return Device{}, err
	}
	h, err := r.use()
	if err != nil {
		return Device{}, err
	}
	defer h.release()
	var record C.vfp_device
	var failed C.vfp_error
	if C.vfp_device_read(h.c, given, C.sizeof_vfp_device, &record, &failed) < 0 {
		return Device{}, failure(&failed)
	}
	return device(&record), nil
}

func device(from *C.vfp_device) Device {
	return Device{
		ID:              text(from.id[:]),
		Vendor:          uint16(from.vendor),
		Device:          uint16(from.device),
		SubsystemVendor: uint16(from.subsystem_vendor),
		SubsystemDevice: uint16(from.subsystem_device),
		Class:           uint32(from.class_code),
		Driver:          text(from.driver[:]),
		Group:           GroupID(from.group),
		NUMANode:        int(from.numa_node),
		SRIOV:           SRIOV(from.sriov),
		VFs:             int(from.vfs),
		Cdev:            int(from.cdev),
		Kind:            Kind(from.kind),
		VGPUType:        text(from.vgpu_type[:]),
		Parent:          text(from.parent[:]),
	}
}
