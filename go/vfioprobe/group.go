package vfioprobe

// #include "vfio_probe.h"
// #cgo noescape vfp_group_read
// #cgo nocallback vfp_group_read
// #cgo noescape vfp_members
// #cgo nocallback vfp_members
import "C"

import (
	"fmt"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
)

// GroupID is the number of an IOMMU group. It is the name of the group's directory in /sys/kernel/iommu_groups and of its
// device node in /dev/vfio.
type GroupID uint32

// NoGroup stands for no group: in a device without an IOMMU, an error without a group, an event about a device.
const NoGroup GroupID = C.VFP_NO_GROUP

// String returns the number, or "none" for [NoGroup].
func (g GroupID) String() string {
	if g == NoGroup {
		return "none"
	}
	return strconv.FormatUint(uint64(g), 10)
}

// MarshalText returns the text of String. JSON objects with groups as keys have it.
func (g GroupID) MarshalText() ([]byte, error) { return []byte(g.String()), nil }

// UnmarshalText reads a text of String. The error is [ErrInvalid] for any other text.
func (g *GroupID) UnmarshalText(text []byte) error {
	if string(text) == "none" {
		*g = NoGroup
		return nil
	}
	number, err := strconv.ParseUint(string(text), 10, 32)
	if err != nil || GroupID(number).String() != string(text) {
		return invalid(fmt.Sprintf("%q is no group: it is a number or none", text))
	}
	*g = GroupID(number)
	return nil
}

// MarshalJSON returns a number, or null for [NoGroup].
func (g GroupID) MarshalJSON() ([]byte, error) {
	if g == NoGroup {
		return []byte("null"), nil
	}
	return []byte(g.String()), nil
}

// UnmarshalJSON reads a number, or null for [NoGroup]. The error is [ErrInvalid] for any other value.
func (g *GroupID) UnmarshalJSON(text []byte) error {
	if string(text) == "null" {
		*g = NoGroup
		return nil
	}
	return g.UnmarshalText(text)
}

// Group is an IOMMU group as sysfs describes it.
type Group struct {
	// ID is the group number.
	ID GroupID `json:"id"`
	// Members is the number of members that could be read.
	Members int `json:"members"`
	// Unreadable is the number of members that could not be read. Viable is computed without them.
	Unreadable int `json:"unreadable"`
	// Viable reports whether VFIO can use the group (VFIO_GROUP_FLAGS_VIABLE): every member has no driver, a VFIO
	// driver, pci-stub or pcieport. The group can be opened in both cases.
	Viable bool `json:"viable"`
	// Offender is the first member with a driver that makes the group not viable, else "".
	Offender string `json:"offender"`
	// OffenderDriver is the driver of Offender, else "".
	OffenderDriver string `json:"offender_driver"`
	// Offenders is the number of members that make the group not viable: [Members.Offenders] lists them.
	Offenders int `json:"offenders"`
}

// Member is a member of a group: a PCI function, a mediated device, or a device of another bus.
type Member struct {
	// Name is the name in the group's devices directory: a PCI address, an mdev UUID, and so on.
	Name string `json:"name"`
	// Driver is the driver name, or "" for none.
	Driver string `json:"driver"`
	// VFIO reports whether Driver is a VFIO driver.
	VFIO bool `json:"vfio"`
	// Offends reports whether the member makes the group not viable.
	Offends bool `json:"offends"`
}

// Members is the result of [Root.Members].
type Members struct {
	// Members are the members that could be read, ordered by Name.
	Members []Member `json:"members"`
	// Errors holds one error for each member that could not be read.
	Errors []*Error `json:"errors"`
}

// Offenders returns all members that make the group not viable.
func (m Members) Offenders() []Member {
	var offenders []Member
	for _, member := range m.Members {
		if member.Offends {
			offenders = append(offenders, member)
		}
	}
	return offenders
}

// Group reads a group: the number of its members and whether VFIO can use it. It opens no device and needs no privilege.
//
// The error is [os.ErrNotExist] if there is no such group.
func (r *Root) Group(group GroupID) (Group, error) {
	h, err := r.use()
	if err != nil {
		return Group{}, err
	}
	defer h.release()
	var record C.vfp_group
	failed := lendError()
	defer errorRecords.Put(failed)
	if C.vfp_group_read(h.c, C.uint32_t(group), C.sizeof_vfp_group, &record, failed) < 0 {
		return Group{}, failure(failed)
	}
	return Group{
		ID:             GroupID(record.group),
		Members:        int(record.members),
		Unreadable:     int(record.unreadable),
		Viable:         record.viable != 0,
		Offender:       text(record.offender[:]),
		OffenderDriver: text(record.offender_driver[:]),
		Offenders:      int(record.offenders),
	}, nil
}

// memberArrays are the arrays of Members.
var memberArrays records[C.vfp_member]

// Members lists the members of a group. It opens no device and needs no privilege.
//
// The error is [os.ErrNotExist] if there is no such group. A member that cannot be read has an error in [Members].Errors.
func (r *Root) Members(group GroupID) (Members, error) {
	h, err := r.use()
	if err != nil {
		return Members{}, err
	}
	defer h.release()
	var members Members
	failed := lendError()
	defer errorRecords.Put(failed)
	err = memberArrays.fill(failed, func(first *C.vfp_member, capacity C.size_t, count *C.size_t) C.vfp_status {
		return C.vfp_members(h.c, C.uint32_t(group), C.sizeof_vfp_member, capacity, first, count, failed)
	}, func(records []C.vfp_member) { members.take(group, records) })
	if err != nil {
		return Members{}, err
	}
	return members, nil
}

// take converts the records to members and errors.
func (m *Members) take(group GroupID, records []C.vfp_member) {
	m.Members = make([]Member, 0, len(records))
	for i := range records {
		if record := &records[i]; record.status == C.VFP_OK {
			m.Members = append(m.Members, Member{
				Name:    text(record.name[:]),
				Driver:  text(record.driver[:]),
				VFIO:    record.vfio != 0,
				Offends: record.offends != 0,
			})
		} else {
			m.Errors = append(m.Errors, &Error{
				Kind:   ErrorKind(record.status),
				Errno:  syscall.Errno(record.os_errno),
				Device: deviceID(text(record.name[:])),
				Group:  group,
				Path:   text(record.error_path[:]),
				Text:   text(record.error_text[:]),
			})
		}
	}
	slices.SortFunc(m.Members, func(a, b Member) int { return strings.Compare(a.Name, b.Name) })
	slices.SortFunc(m.Errors, func(a, b *Error) int { return strings.Compare(a.Text, b.Text) })
}

// idPattern matches a device id in a record, in the format of the kernel: a PCI address or a UUID.
var idPattern = regexp.MustCompile(
	`^([0-9a-f]{4,8}:[0-9a-f]{2}:[01][0-9a-f]\.[0-7]|[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12})$`)

// deviceID returns the name if it is a device id, else "": members on buses other than PCI and mdev have other names.
func deviceID(name string) string {
	if idPattern.MatchString(name) {
		return name
	}
	return ""
}
