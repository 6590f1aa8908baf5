package vfioprobe

// #include "vfio_probe.h"
// #cgo noescape vfp_scan
// #cgo nocallback vfp_scan
// #cgo noescape vfp_device_read
// #cgo nocallback vfp_device_read
import "C"

import (
	"slices"
	"strings"
	"syscall"
)

// Kind is the kind of a device.
type Kind int32

// Kinds of devices.
const (
	// KindPCI is a PCI function bound to a driver built on vfio-pci-core.
	KindPCI Kind = C.VFP_KIND_PCI
	// KindMdev is a mediated device.
	KindMdev Kind = C.VFP_KIND_MDEV
	// KindVendorVF is a virtual function with a vendor driver (nvidia) that is itself a VFIO driver.
	KindVendorVF Kind = C.VFP_KIND_VENDOR_VF
)

// SRIOV is the role of a PCI function in SR-IOV.
type SRIOV int32

// Roles in SR-IOV.
const (
	// SRIOVNone means that the function has no SR-IOV role.
	SRIOVNone SRIOV = C.VFP_SRIOV_NONE
	// SRIOVPhysical is a physical function with enabled virtual functions.
	SRIOVPhysical SRIOV = C.VFP_SRIOV_PHYSICAL
	// SRIOVVirtual is a virtual function.
	SRIOVVirtual SRIOV = C.VFP_SRIOV_VIRTUAL
)

// Device is a device as sysfs describes it. [Root.Scan] returns only devices that are bound to a VFIO driver.
type Device struct {
	// ID is the PCI address (0000:3b:00.0) or the mdev UUID.
	ID string `json:"id"`
	// Vendor is the PCI vendor id. For a mediated device it is that of the parent, or 0 if the parent is not a PCI
	// function.
	Vendor uint16 `json:"vendor"`
	// Device is the PCI device id. For a mediated device it is that of the parent.
	Device uint16 `json:"device"`
	// SubsystemVendor is the PCI subsystem vendor id, 0 for none.
	SubsystemVendor uint16 `json:"subsystem_vendor"`
	// SubsystemDevice is the PCI subsystem id, 0 for none.
	SubsystemDevice uint16 `json:"subsystem_device"`
	// Class is the PCI class code, 24 bits; 0x030200 is a 3D controller.
	Class uint32 `json:"class"`
	// Driver is the driver name, or "" while the kernel unbinds the device.
	Driver string `json:"driver"`
	// Group is the IOMMU group, or [NoGroup] without an IOMMU.
	Group GroupID `json:"group"`
	// NUMANode is the NUMA node, or -1 if the kernel does not know it.
	NUMANode int `json:"numa_node"`
	// SRIOV is the SR-IOV role.
	SRIOV SRIOV `json:"sriov"`
	// VFs is the number of enabled virtual functions of a physical function, else 0.
	VFs int `json:"vfs"`
	// Cdev is N of the device's character device /dev/vfio/devices/vfioN, or -1 for none (kernels before 6.1).
	Cdev int `json:"cdev"`
	// Kind is the kind of device.
	Kind Kind `json:"kind"`
	// VGPUType is the mdev type (nvidia-35) or the vGPU type number of a vendor's virtual function, else "".
	VGPUType string `json:"vgpu_type"`
	// Parent is the PCI address of the parent of a mediated device or virtual function, else "".
	Parent string `json:"parent"`
}

// Scan is the result of [Root.Scan].
type Scan struct {
	// Devices are the devices bound to a VFIO driver, ordered by ID.
	Devices []Device `json:"devices"`
	// Errors holds one error for each device that could not be read.
	Errors []*Error `json:"errors"`
}

// deviceArrays are the arrays of scans and watches.
var deviceArrays records[C.vfp_device]

// Scan lists all devices that are bound to a VFIO driver. It opens no device and needs no privilege. It reads sysfs,
// with about 10 system calls per device.
//
// Scan fails if the bound devices cannot be listed. A device that cannot be read has an error in [Scan].Errors instead.
func (r *Root) Scan() (Scan, error) {
	h, err := r.use()
	if err != nil {
		return Scan{}, err
	}
	defer h.release()
	var scan Scan
	failed := lendError()
	defer errorRecords.Put(failed)
	err = deviceArrays.fill(failed, func(first *C.vfp_device, capacity C.size_t, count *C.size_t) C.vfp_status {
		return C.vfp_scan(h.c, C.sizeof_vfp_device, capacity, first, count, failed)
	}, scan.take)
	if err != nil {
		return Scan{}, err
	}
	return scan, nil
}

// take converts the records to devices and errors.
func (s *Scan) take(records []C.vfp_device) {
	s.Devices = make([]Device, 0, len(records))
	for i := range records {
		if record := &records[i]; record.status == C.VFP_OK {
			s.Devices = append(s.Devices, device(record))
		} else {
			s.Errors = append(s.Errors, &Error{
				Kind:   ErrorKind(record.status),
				Errno:  syscall.Errno(record.os_errno),
				Device: text(record.id[:]),
				Group:  NoGroup,
				Path:   text(record.error_path[:]),
				Text:   text(record.error_text[:]),
			})
		}
	}
	slices.SortFunc(s.Devices, func(a, b Device) int { return strings.Compare(a.ID, b.ID) })
	slices.SortFunc(s.Errors, func(a, b *Error) int { return strings.Compare(a.Text, b.Text) })
}

// Device reads one device by its id, a PCI address or an mdev UUID, whether it is bound to a VFIO driver or not. Its Cdev
// is -1: only [Root.Scan] sets it. Device opens no device and needs no privilege.
//
// The error is [ErrInvalid] if id is neither an address nor a UUID, and [os.ErrNotExist] if there is no such device.
func (r *Root) Device(id string) (Device, error) {
	cID, err := terminated("id", id)
	if err != nil {
		return Device{}, err
	}
	h, err := r.use()
	if err != nil {
		return Device{}, err
	}
	defer h.release()
	var record C.vfp_device
	failed := lendError()
	defer errorRecords.Put(failed)
	if C.vfp_device_read(h.c, cID, C.sizeof_vfp_device, &record, failed) < 0 {
		return Device{}, failure(failed)
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
