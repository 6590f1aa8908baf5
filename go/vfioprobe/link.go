package vfioprobe

// #include "vfio_probe.h"
// #cgo nocallback vfp_version
// #cgo nocallback vfp_abi
import "C"

// Version returns the version of the C library that the program runs with, as MAJOR.MINOR.PATCH.
func Version() string {
	return C.GoString(C.vfp_version())
}

// ABI returns the number of the C library's ABI. The call does nothing else, so a benchmark of it measures the cost of a
// cgo call.
func ABI() uint32 {
	return uint32(C.vfp_abi())
}
