package vfioprobe

// #include "vfio_probe.h"
// #cgo noescape vfp_root_open
// #cgo nocallback vfp_root_open
// #cgo noescape vfp_root_close
// #cgo nocallback vfp_root_close
import "C"

import "runtime"

// Root is a directory that contains sys, dev and proc. All methods read below it. Any number of goroutines may use a Root at
// the same time.
type Root struct {
	handle *rootHandle
}

// rootHandle is separate from Root, so that the garbage collector can find an unreachable Root.
type rootHandle struct {
	handle
	c *C.vfp_root
}

// Open opens a root: "/", a host's root file system mounted into a container, or a test tree. It does not block.
//
// The error is [os.ErrNotExist] if the directory does not exist, [os.ErrPermission] if it is not accessible, and
// [ErrInvalid] if the path contains a NUL byte. Close the Root after use; its watches outlive it.
func Open(path string) (*Root, error) {
	cPath, err := terminated("path", path)
	if err != nil {
		return nil, err
	}
	h := &rootHandle{}
	failed := lendError()
	defer errorRecords.Put(failed)
	if C.vfp_root_open(cPath, &h.c, failed) < 0 {
		return nil, failure(failed)
	}
	h.free = func() { C.vfp_root_close(&h.c) }
	root := &Root{h}
	runtime.AddCleanup(root, (*rootHandle).close, h)
	return root, nil
}

// Close closes the root. Calls in progress complete; later calls fail with [ErrClosed]. Close never waits, not even for a
// probe that hangs in the kernel. Closing again has no effect. The error is always nil.
func (r *Root) Close() error {
	if r != nil && r.handle != nil {
		r.handle.close()
	}
	return nil
}

// use starts a call. If there is no error, the caller must release the handle.
func (r *Root) use() (*rootHandle, error) {
	if r == nil || r.handle == nil || !r.handle.acquire() {
		return nil, closed{"the root"}
	}
	return r.handle, nil
}
