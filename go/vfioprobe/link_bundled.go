//go:build !vfio_probe_system && !vfio_probe_static

package vfioprobe

// The object is in a package of its own, because a build tag cannot leave out a .syso file of this one.

// #cgo LDFLAGS: -lpthread -lm -ldl
// #include <features.h>
// #ifndef __GLIBC__
// #error "the object of vfioprobe is for glibc; install the C library (make -C ffi install) and build with -tags vfio_probe_system"
// #endif
import "C"

import _ "github.com/vfio-probe/vfio-probe/go/vfioprobe/internal/object"
