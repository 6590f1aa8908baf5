package vfioprobe

// #cgo !vfio_probe_static pkg-config: vfio-probe
// #cgo vfio_probe_static pkg-config: vfio-probe-static
// #include <vfio_probe.h>
// #cgo nocallback vfp_version
import "C"

// Version returns the version of the C library that the program runs with, as MAJOR.MINOR.PATCH.
func Version() string {
	return C.GoString(C.vfp_version())
}
