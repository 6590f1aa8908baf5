package main

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"unsafe"
)

// Requests of include/uapi/linux/vfio.h: _IO(';', 100 + n).
const (
	vfioSetIOMMU          = 0x3b66
	vfioGroupSetContainer = 0x3b68
	vfioGroupGetDeviceFD  = 0x3b6a
	vfioType1v2IOMMU      = 3
)

// container is a VFIO container, which a VM shares among its groups. Descriptors are kept until the process ends.
type container struct {
	descriptor int32
	groups     map[string]int
}

func newContainer() (*container, error) {
	descriptor, err := open("/dev/vfio/vfio")
	return &container{int32(descriptor), map[string]int{}}, err
}

// open opens the device at a PCI address, and its group unless it is open already. It returns the group.
func (c *container) open(address string) (string, error) {
	link, err := os.Readlink("/sys/bus/pci/devices/" + address + "/iommu_group")
	if err != nil {
		return "", fmt.Errorf("cannot find the group of %s: %w", address, err)
	}
	name := filepath.Base(link)
	group, known := c.groups[name]
	if !known {
		if group, err = openGroup(name); err != nil {
			return "", err
		}
		if err := ioctl(group, vfioGroupSetContainer, unsafe.Pointer(&c.descriptor)); err != nil {
			return "", fmt.Errorf("cannot put group %s into the container: %w", name, err)
		}
		// The container takes an IOMMU when it has its first group.
		if len(c.groups) == 0 {
			if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(c.descriptor), vfioSetIOMMU, vfioType1v2IOMMU); errno != 0 {
				return "", fmt.Errorf("cannot set the container's IOMMU: %w", errno)
			}
		}
		c.groups[name] = group
	}
	text, err := syscall.BytePtrFromString(address)
	if err != nil {
		return "", err
	}
	if err := ioctl(group, vfioGroupGetDeviceFD, unsafe.Pointer(text)); err != nil {
		return "", fmt.Errorf("cannot open %s in group %s: %w", address, name, err)
	}
	return name, nil
}

func openGroup(name string) (int, error) { return open("/dev/vfio/" + name) }

func open(path string) (int, error) {
	descriptor, err := syscall.Open(path, syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("cannot open %s: %w", path, err)
	}
	return descriptor, nil
}

// ioctl passes a pointer to what the request reads.
func ioctl(descriptor int, request uintptr, argument unsafe.Pointer) error {
	if _, _, errno := syscall.Syscall(syscall.SYS_IOCTL, uintptr(descriptor), request, uintptr(argument)); errno != 0 {
		return errno
	}
	return nil
}
