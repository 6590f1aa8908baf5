package vfioprobe

// #include <vfio_probe.h>
// #cgo noescape vfp_group_read
// #cgo nocallback vfp_group_read
// #cgo noescape vfp_members
// #cgo nocallback vfp_members
import "C"

import (
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// GroupID is an IOMMU group's number: the name of its folder in /sys/kernel/iommu_groups and of its node in /dev/vfio.
type GroupID uint32

// NoGroup is the group of a device without IOMMU, of an error that is about no group, and of an event about a device.
const NoGroup GroupID = C.VFP_NO_GROUP

// String returns the number, or none for [NoGroup].
func (g GroupID) String() string {
	if g == NoGroup {
		return "none"
	}
	return strconv.FormatUint(uint64(g), 10)
}

// Group is what a look at all members of a group tells.
type Group struct {
	// ID is the group's number.
	ID GroupID
	// Members is how many members could be read.
	Members int
	// Unreadable is how many could not; Viable is that of the others.
	Unreadable int
	// Viable is whether VFIO can use the group: every member's driver is none, a VFIO driver, pci-stub or pcieport
	// (VFIO_GROUP_FLAGS_VIABLE). An open of the group succeeds either way.
	Viable bool
	// Offender is the member whose driver makes it not viable, else "".
	Offender string
	// OffenderDriver is that driver, else "".
	OffenderDriver string
}

// Member is a member of a group: a PCI function, or what another bus calls its devices.
type Member struct {
	// Name is its name in the group's folder: a PCI address, an mdev's uuid, and so on.
	Name string
	// Driver is its driver, or "".
	Driver string
	// VFIO is whether that is a VFIO driver.
	VFIO bool
}

// Members is what [Root.Members] finds.
type Members struct {
	// Members are those that could be read, by Name.
	Members []Member
	// Broken says of each member that could not be read why.
	Broken []*Error
}

// Group looks at a group's members and tells whether VFIO can use it. It opens no device and needs no privilege.
//
// The error is [os.ErrNotExist] when there is no such group.
func (r *Root) Group(group GroupID) (Group, error) {
	h, err := r.use()
	if err != nil {
		return Group{}, err
	}
	defer h.release()
	var record C.vfp_group
	var failed C.vfp_error
	if C.vfp_group_read(h.c, C.uint32_t(group), C.sizeof_vfp_group, &record, &failed) < 0 {
		return Group{}, failure(&failed)
	}
	return Group{
		ID:             GroupID(record.group),
		Members:        int(record.members),
		Unreadable:     int(record.unreadable),
		Viable:         record.viable != 0,
		Offender:       text(record.offender[:]),
		OffenderDriver: text(record.offender_driver[:]),
	}, nil
}

// lentMembers are the arrays of Members.
var lentMembers records[C.vfp_member]

// Members tells all members of a group. It opens no device and needs no privilege.
//
// The error is [os.ErrNotExist] when there is no such group; a member that cannot be read is in the result's Broken.
func (r *Root) Members(group GroupID) (Members, error) {
	h, err := r.use()
	if err != nil {
		return Members{}, err
	}
	defer h.release()
	var members Members
	var failed C.vfp_error
	err = lentMembers.fill(&failed, func(first *C.vfp_member, capacity C.size_t, count *C.size_t) C.vfp_status {
		return C.vfp_members(h.c, C.uint32_t(group), C.sizeof_vfp_member, capacity, first, count, &failed)
	}, func(records []C.vfp_member) { members.take(group, records) })
	if err != nil {
		return Members{}, err
	}
	return members, nil
}

// take parts the records into whole and broken ones.
func (m *Members) take(group GroupID, records []C.vfp_member) {
	m.Members = make([]Member, 0, len(records))
	for i := range records {
		if record := &records[i]; record.status == C.VFP_OK {
			m.Members = append(m.Members, Member{
				Name:   text(record.name[:]),
				Driver: text(record.driver[:]),
				VFIO:   record.vfio != 0,
			})
		} else {
			m.Broken = append(m.Broken, &Error{
				Kind:   ErrorKind(record.status),
				Errno:  syscall.Errno(record.os_errno),
				Device: deviceID(text(record.name[:])),
				Group:  group,
				Text:   text(record.problem[:]),
			})
		}
	}
	slices.SortFunc(m.Members, func(a, b Member) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(m.Broken, func(a, b *Error) int { return strings.Compare(a.Text, b.Text) })
}

// anID is what ids look like in a record: as the kernel writes a PCI address or a uuid.
var anID = regexp.MustCompile(
	`^([0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})$`)

// deviceID is the name where it is a device's id, else "": on other buses than PCI's and mdev's members have other names.
func deviceID(name string) string {
	if anID.MatchString(name) {
		return name
	}
	return ""
}
