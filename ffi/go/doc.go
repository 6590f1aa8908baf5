// Package vfioprobe tells which VFIO devices of this host are free, and who holds the others.
//
// It binds libvfio_probe, the C library of vfio-probe, by cgo. Everything begins with a [Root], a directory that holds
// sys, dev and proc: "/", or a host's tree mounted into a container.
//
//	root, err := vfioprobe.Open("/")
//	if err != nil {
//		return err
//	}
//	defer root.Close()
//	scan, err := root.Scan()
//
// # What opens a group
//
// Opening /dev/vfio/<group> is the only proof that a group is free, and while it is open another process' own open of
// it fails with EBUSY: a starting virtual machine then dies. So nothing here opens a group unless it says so:
// [Root.Probe], [Root.ProbeWithin] and [Root.ProbeContext] do, and a [Watch] does with [WatchOptions].Probe. All
// others read sysfs and proc, open no device and need no privilege; holders of other users' processes need
// CAP_SYS_PTRACE.
//
// # Absent values
//
// There is one convention: a value that is absent or unknown is [NoGroup] for a group, -1 for a number that may be 0
// (NUMA node, cdev), and "" for a text.
//
// # Errors
//
// A call that fails gives an [*Error]. Errors are compared with [errors.Is]: [os.ErrNotExist], [os.ErrPermission], the
// kernel's own [syscall.Errno], or one of this package's such as [ErrMalformed], [ErrInvalid] and [ErrClosed].
// That a group is held is an answer and no failure: [Occupancy.Err] makes an error of it, [ErrHeld], where that suits.
// One device that cannot be read never costs another: it is in [Scan].Broken.
//
// # Goroutines, threads and handles
//
// Every method may be called from any goroutine at any time, also together with Close: a call that
// is under way ends as it would have, a later one fails with [ErrClosed]. Calls take microseconds to milliseconds;
// only [Root.Probe] can wait for the kernel without bound, and then keeps a thread. A [Watch] waits in the runtime's
// network poller, so it keeps no thread. Close every Root and Watch; one that is forgotten is closed some time after
// the garbage collector finds it, which is a safety net and no promise.
//
// # Linking
//
// By default pkg-config finds vfio-probe, the shared library. With the build tag vfio_probe_static it finds
// vfio-probe-static and the library becomes part of the program. A program without any shared library is built with
//
//	go build -tags vfio_probe_static,netgo,osusergo -ldflags '-linkmode external -extldflags -static'
package vfioprobe
