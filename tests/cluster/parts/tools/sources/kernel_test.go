package main

import (
	"os"
	"strings"
	"syscall"
	"testing"
)

func TestPodOfBothCgroupDrivers(t *testing.T) {
	const uid = "4b5a1c7e-5b0a-4a57-9d3a-0123456789ab"
	for cgroup, want := range map[string]string{
		"0::/kubepods/besteffort/pod" + uid + "/0123abcd\n":                              uid,
		"0::/kubepods.slice/kubepods-pod" + strings.ReplaceAll(uid, "-", "_") + ".slice": uid,
		// A static pod's UID is a hash without hyphens.
		"0::/kubepods/burstable/pod4b5a1c7e5b0a4a579d3a0123456789ab/x": "4b5a1c7e5b0a4a579d3a0123456789ab",
		"0::/system.slice/qemu.service":                                "",
		"":                                                             "",
	} {
		if got := podOf(cgroup); got != want {
			t.Errorf("podOf(%q) = %q, want %q", cgroup, got, want)
		}
	}
}

func TestHoldersAreFoundByDeviceNumber(t *testing.T) {
	// Any character device shows it: the kernel's number of /dev/full, which this process opens.
	file, err := os.Open("/dev/full")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var status syscall.Stat_t
	if err := syscall.Fstat(int(file.Fd()), &status); err != nil {
		t.Fatal(err)
	}
	full := group{Group: "full"}
	if _, err := readHolders(map[uint64]*group{status.Rdev: &full}); err != nil {
		t.Fatal(err)
	}
	for _, holder := range full.Holders {
		if holder.PID == os.Getpid() {
			return
		}
	}
	t.Errorf("holders %v do not include process %d", full.Holders, os.Getpid())
}

func TestMissingNodeIsAnError(t *testing.T) {
	if got := tryOpen("/dev/vfio/no-such-group"); got != syscall.ENOENT.Error() {
		t.Errorf("tryOpen = %q", got)
	}
}
