package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
)

const driver = "/sys/bus/pci/drivers/vfio-pci"

// group is an IOMMU group with a function bound to vfio-pci.
type group struct {
	Group string `json:"group"`
	// The functions bound to vfio-pci, by address.
	Devices []string `json:"devices"`
	Holders []holder `json:"holders"`
	// What an open of the group's node gave: "ok", "busy" or the error. Empty without --open.
	Open string `json:"open,omitempty"`
}

// holder is a process that has the group's node open.
type holder struct {
	PID     int    `json:"pid"`
	Command string `json:"command"`
	// The pod's UID in the process's cgroup. Empty for a process of the host.
	Pod string `json:"pod"`
}

// readKernel returns the groups with their holders, and how many processes could not be read.
func readKernel(open bool) ([]group, int, error) {
	groups, err := readGroups()
	if err != nil {
		return nil, 0, err
	}
	numbers := map[uint64]*group{}
	for i := range groups {
		number, err := deviceNumber(groups[i].Group)
		if err != nil {
			return nil, 0, err
		}
		numbers[number] = &groups[i]
	}
	unread, err := readHolders(numbers)
	if err != nil {
		return nil, 0, err
	}
	if open {
		for i := range groups {
			groups[i].Open = tryOpen("/dev/vfio/" + groups[i].Group)
		}
	}
	return groups, unread, nil
}

// readGroups returns the groups of the functions that are bound to vfio-pci, in the order of the addresses.
func readGroups() ([]group, error) {
	addresses, err := filepath.Glob(driver + "/????:??:??.?")
	if err != nil {
		return nil, err
	}
	groups := []group{}
	index := map[string]int{}
	for _, path := range addresses {
		link, err := os.Readlink(path + "/iommu_group")
		if err != nil {
			return nil, fmt.Errorf("cannot read the group of %s: %w", filepath.Base(path), err)
		}
		name := filepath.Base(link)
		at, known := index[name]
		if !known {
			at = len(groups)
			index[name] = at
			groups = append(groups, group{Group: name, Holders: []holder{}})
		}
		groups[at].Devices = append(groups[at].Devices, filepath.Base(path))
	}
	return groups, nil
}

// deviceNumber returns a group's device number as stat reports it (makedev of glibc). Names of nodes are of no use: a container
// has a node of its own, and the kernel uses a minor again for another group.
func deviceNumber(name string) (uint64, error) {
	path := "/sys/class/vfio/" + name + "/dev"
	text, err := os.ReadFile(path)
	if err != nil {
		return 0, err
	}
	var major, minor uint64
	if _, err := fmt.Sscanf(string(text), "%d:%d", &major, &minor); err != nil {
		return 0, fmt.Errorf("cannot read %s: %w", path, err)
	}
	return major&0xfff<<8 | major&^0xfff<<32 | minor&0xff | minor&^0xff<<12, nil
}

// readHolders adds to each group the processes that have its node open.
func readHolders(groups map[uint64]*group) (unread int, err error) {
	processes, err := filepath.Glob("/proc/[0-9]*")
	if err != nil {
		return 0, err
	}
	for _, process := range processes {
		// A killed process whose first thread has ended shows no descriptors, and another thread that is stuck in the kernel
		// still has them: so every thread is searched.
		threads, err := filepath.Glob(process + "/task/[0-9]*")
		if err != nil {
			return 0, err
		}
		seen := map[*group]bool{}
		isUnread := false
		for _, thread := range threads {
			if err := readThread(thread, groups, seen); err != nil && !isGone(err) {
				isUnread = true
			}
		}
		for held := range seen {
			held.Holders = append(held.Holders, describe(process))
		}
		if isUnread {
			unread++
		}
	}
	return unread, nil
}

// readThread finds the groups that a thread has open.
func readThread(thread string, groups map[uint64]*group, seen map[*group]bool) error {
	descriptors, err := os.ReadDir(thread + "/fd")
	if err != nil {
		return err
	}
	for _, descriptor := range descriptors {
		var status syscall.Stat_t
		// A descriptor that was closed meanwhile has no status.
		if syscall.Stat(thread+"/fd/"+descriptor.Name(), &status) != nil || status.Mode&syscall.S_IFMT != syscall.S_IFCHR {
			continue
		}
		if held := groups[status.Rdev]; held != nil {
			seen[held] = true
		}
	}
	return nil
}

func isGone(err error) bool {
	return errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ESRCH)
}

// pod matches a pod's UID in a cgroup's path, as both cgroup drivers of the kubelet write it
// (GetPodContainerName in pkg/kubelet/cm/pod_container_manager_linux.go).
var pod = regexp.MustCompile(`pod([0-9a-f]{8}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{4}[-_][0-9a-f]{12}|[0-9a-f]{32})`)

func describe(process string) holder {
	pid, _ := strconv.Atoi(filepath.Base(process))
	command, _ := os.ReadFile(process + "/comm")
	cgroup, _ := os.ReadFile(process + "/cgroup")
	return holder{pid, strings.TrimSpace(string(command)), podOf(string(cgroup))}
}

// podOf returns the UID of the pod in the text of /proc/PID/cgroup, or nothing.
func podOf(cgroup string) string {
	found := pod.FindStringSubmatch(cgroup)
	if found == nil {
		return ""
	}
	return strings.ReplaceAll(found[1], "_", "-")
}

// tryOpen opens a group's node as a VM does and closes it.
func tryOpen(node string) string {
	descriptor, err := syscall.Open(node, syscall.O_RDWR|syscall.O_CLOEXEC, 0)
	switch {
	case err == nil:
		_ = syscall.Close(descriptor)
		return "ok"
	case errors.Is(err, syscall.EBUSY):
		return "busy"
	default:
		return err.Error()
	}
}
