package vfioprobe

// #include <vfio_probe.h>
// #cgo noescape vfp_root_open
// #cgo nocallback vfp_root_open
// #cgo noescape vfp_root_close
// #cgo nocallback vfp_root_close
import "C"

import "runtime"

// Root is a directory that holds sys, dev and proc; all answers are about what is below it. Any number of goroutines
// may use one at the same time.
type Root struct {
	handle *rootHandle
}

// rootHandle is apart from Root so that a Root that nobody has any more can be collected.
type rootHandle struct {
	handle
	c *C.vfp_root
}

// Open opens a root: "/", a host's tree mounted into a container, or a test's folder. It does not block.
//
// The error is [os.ErrNotExist] or [os.ErrPermission] if the directory is not there or may not be used, [ErrInvalid] for
// a path with a NUL byte in it. Close the Root when done with it; watches that come from it outlive it.
func Open(path string) (*Root, error) {
	given, err := terminated("path", path)
	if err != nil {
		return nil, err
	}
	h := &rootHandle{}
	var failed C.vfp_error
	if C.vfp_root_open(given, &h.c, &failed) < 0 {
		return nil, failure(&failed)
	}
	h.free = func() { C.vfp_root_close(&h.c) }
	root := &Root{h}
	runtime.AddCleanup(root, (*rootHandle).close, h)
	return root, nil
}

// Close closes the root. Calls that are under way end as they would have, later ones fail with [ErrClosed]. It never
// waits, not even for an open that hangs in the kernel. Closing again does nothing; the error is always nil.
func (r *Root) Close() error {
	if r != nil && r.handle != nil {
		r.handle.close()
	}
	return nil
}

// use begins a call; the caller must release the handle if there is no error.
func (r *Root) use() (*rootHandle, error) {
	if r == nil || r.handle == nil || !r.handle.acquire() {
		return nil, closed{"the root"}
	}
	return r.handle, nil
}
