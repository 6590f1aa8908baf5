// Package vfioprobe reports which VFIO devices of this host are free and which processes hold the others.
//
// The package is a cgo binding of libvfio_probe, the C library of vfio-probe. All functions start at a [Root]: a
// directory that contains sys, dev and proc, such as "/" or a host's root file system mounted into a container.
//
//	root, err := vfioprobe.Open("/")
//	if err != nil {
//		return err
//	}
//	defer root.Close()
//	scan, err := root.Scan()
//
// # Peek and probe
//
// Only an open of /dev/vfio/<group> proves that a group is free. While a probe has a free group open, the open of
// another process fails with EBUSY, and a starting VM then fails. Therefore only these calls open a group:
// [Root.Probe], [Root.ProbeWithin], [Root.ProbeContext], [Root.SnapshotWithProbes], and a [Watch] with
// [WatchOptions].Probe set. All other calls read sysfs and proc, open no device and need no privilege. Holders in
// processes of other users need CAP_SYS_PTRACE.
//
// # Absent values
//
// A value that is absent or unknown is [NoGroup] for a group, [NoUID] for a user, -1 for another number that may be 0
// (NUMA node, cdev, fatal errors), the zero [time.Time] for a time, and "" for a string.
//
// # Errors
//
// A failed call returns an [*Error]. Compare errors with [errors.Is]: with [os.ErrNotExist], [os.ErrPermission], a
// [syscall.Errno], or an error of this package such as [ErrMalformed], [ErrInvalid] and [ErrClosed]. A held group is a
// result, not a failure; [Occupancy.Err] converts it to [ErrHeld] where an error is more convenient. A device that
// cannot be read does not affect the other devices: its error is in [Scan].Errors.
//
// # Goroutines, threads and handles
//
// Every method may be called from any goroutine at any time, also concurrently with Close. A call that is in progress
// completes; a later call fails with [ErrClosed]. Calls take microseconds to milliseconds, except that [Root.Probe] and
// [Root.Hardware] block a thread while the kernel resets a device. A [Watch] waits in the runtime's network
// poller and blocks no thread. Close every Root and Watch. The garbage collector closes an unreachable one some time
// later; do not rely on it.
//
// # Linking
//
// The package carries the C library as an object for linux/amd64 with glibc, which is linked into the program. With the build
// tag vfio_probe_system the program uses the installed shared library instead (pkg-config module vfio-probe), and with
// vfio_probe_static the installed static library (vfio-probe-static). To build a program that needs no shared library at all:
//
//	go build -tags netgo,osusergo -ldflags '-linkmode external -extldflags -static'
package vfioprobe
